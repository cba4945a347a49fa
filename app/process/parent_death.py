"""Ends a process when its parent ends, so that no process remains when the parent is killed."""

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
"""Delay that the kernel may add to timers of an embedded server. The database polls for new connections 200
times a second; with this delay it wakes 40 times, which saves a third of its CPU time while idle. Events that
are no timers (requests, disks) are not delayed."""
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29


def end_with_parent() -> None:
    """End this worker when its parent ends, for workers started by multiprocessing.

    The worker ends when the parent says so, soon after the parent ended for any reason, and at once if the
    process that workers are forked from is killed. Ctrl-C, which the terminal sends to every process, is
    ignored: the parent handles it.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    _end_with_forking_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # uvicorn has set it back by then

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent death", daemon=True).start()


def exec_tied_to_parent(command: list[str], parent_pid: int) -> None:
    """Replace this process by ``command``, which is killed when the parent ends. Does not return.

    On Linux the kernel does it (PR_SET_PDEATHSIG survives exec); elsewhere this process remains and polls.
    The signal is SIGKILL: the parent was killed too, acknowledged writes are on disk already, and a server
    may ignore SIGTERM.
    """
    if _end_with_forking_process():
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(int(TIMER_SLACK_SECONDS * 1e9)))
        if os.getppid() != parent_pid:  # the parent had ended before
            sys.exit(1)
        os.execv(command[0], command)  # noqa: S606
    child = os.spawnv(os.P_NOWAIT, command[0], command)  # noqa: S606
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if os.getppid() != parent_pid:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.2)
    sys.exit(0)


def _end_with_forking_process() -> bool:
    """Make the kernel end this process with the one that forked it. Returns False where it cannot."""
    if platform.system() != "Linux":
        return False
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return True


if __name__ == "__main__":
    exec_tied_to_parent(sys.argv[2:], int(sys.argv[1]))
