"""Ties a process to its parent's life, so that nothing is left behind when that is killed."""

import atexit
import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time

GRACE_SECONDS = 3.0
TIMER_SLACK_SECONDS = 0.02
"""How much later than asked for the kernel may wake an embedded server that sleeps. The database looks for
new connections 200 times a second, and pauses in between: it wakes for 40 of them so, which saves a third of
what it uses while nothing happens. What it waits for without a time (requests, disks) comes as before."""
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29


def end_with_parent() -> None:
    """In a worker started by multiprocessing: end when the parent says so, and soon after it does, however
    it ends; at once when the process that workers are forked from is killed. A Ctrl-C, which the terminal
    sends to every process, is for the parent alone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    _end_with_process_above()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # uvicorn has set it back by then

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def run_tied(command: list[str], parent_pid: int) -> None:
    """Become ``command``, and have it ended when the parent ends. Does not return.

    Linux does it itself (PR_SET_PDEATHSIG survives exec); elsewhere this process stays and watches.
    It is SIGKILL: the parent was killed too, what it acknowledged is on disk already, and a server
    that is asked to end may not.
    """
    if _end_with_process_above():
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(int(TIMER_SLACK_SECONDS * 1e9)))
        if os.getppid() != parent_pid:  # the parent was gone before the tie was made
            sys.exit(1)
        os.execv(command[0], command)  # noqa: S606
    child = os.spawnv(os.P_NOWAIT, command[0], command)  # noqa: S606
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if os.getppid() != parent_pid:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.2)
    sys.exit(0)


def _end_with_process_above() -> bool:
    """Have the kernel end this process with the one that forked it; False where no kernel does."""
    if platform.system() != "Linux":
        return False
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return True


if __name__ == "__main__":
    run_tied(sys.argv[2:], int(sys.argv[1]))
