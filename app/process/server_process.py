"""One embedded server: a child process with its own port."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from app.process.data_directory import DataDirectory
from app.process.database_server import EmbeddedError, has_database

START_SECONDS = 30.0
RECOVERY_SECONDS = 1800.0
"""Time for the database server to start: if it was killed, it replays its log, 4 minutes for 3 GB."""
RECOVERY_NOTICE_SECONDS = 5.0
STOP_SECONDS = 15.0
MIN_FREE_BYTES = 1_048_576
"""A disk with less free space counts as full: the log of the database could not grow."""
PROBE_BYTES = 65_536

TIED_TO_PARENT = [sys.executable, "-P", "-m", "app.process.parent_death"]
"""Prefix of a command that ends with its parent. ``-P``: nothing is imported from the working directory."""

PANIC = "wt_panic"
"""Text in the log of a database that cannot write any more; it runs on and refuses every command."""

_MAX_LOG_BYTES = 65_536
"""Part of a log that is searched for the reason of a failure, from its beginning: the cause comes first."""

_MAX_QUOTED_CHARACTERS = 200
"""Limit for a quoted log line. Lines with ``>>>`` may have a password: valkey quotes its settings."""

_DISK_FULL = ("no space left", "disk quota exceeded", "file too large")


class ServerProcess:
    """A server over a data directory. After a restart it listens on the same port.

    The thread that starts it must live as long as the server: Linux ends a tied process with that thread.
    """

    def __init__(
        self,
        name: str,
        directory: DataDirectory,
        command: Callable[[int], list[str]],
        say: Callable[[str], None],
    ) -> None:
        """Prepare to start; ``command`` makes the command line for a port, ``say`` gets progress messages."""
        self.name = name
        self.log = directory.path / f"{name}.log"
        self.port = 0
        self.serving_since: float | None = None
        self._directory = directory
        self._command = command
        self._say = say
        self._child: subprocess.Popen[bytes] | None = None
        self._killed_as = ""
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def start(self) -> int:
        """Start the server, and return its port once it accepts connections. Raises EmbeddedError."""
        self.port = self.port or free_port()
        began = time.monotonic()
        child = self._spawn()
        notified = False
        limit = RECOVERY_SECONDS if self.name == "mongodb" else START_SECONDS
        while (waited := time.monotonic() - began) < limit:
            if child.poll() is not None:
                raise EmbeddedError(f"The embedded {self.name} server did not start{self.reason()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                self.serving_since = time.monotonic()
                return self.port
            if self.name == "mongodb" and not notified and waited > RECOVERY_NOTICE_SECONDS:
                notified = True
                self._say(
                    "The embedded database server recovers from an unclean shutdown; this may take minutes …"
                )
            time.sleep(0.02)
        raise EmbeddedError(f"The embedded {self.name} server does not answer; see {self.log}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopping.is_set():
                raise EmbeddedError(f"The embedded {self.name} server is stopped")
            self._killed_as, self.serving_since = "", None
            try:
                if self._child is not None:  # the log of the previous process stays for the operator
                    self.log.replace(self.log.with_name(f"{self.log.name}.1"))
                with open(self.log, "wb", opener=_open_without_waiting) as log:
                    self._child = subprocess.Popen(  # noqa: S603
                        [*TIED_TO_PARENT, str(os.getpid()), *self._command(self.port)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        pass_fds=self._directory.inherited_locks,
                        # The parent handles Ctrl-C at the terminal, and ends the servers last.
                        start_new_session=True,
                    )
            except OSError as refusal:
                raise EmbeddedError(
                    f"The embedded {self.name} server cannot start: "
                    f"{refusal.filename or self._directory.path}: {refusal.strerror}"
                ) from None
            return self._child

    @property
    def running(self) -> bool:
        """True until the server has ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server."""
        if self._child is None:
            raise ValueError("the server was not started")
        return self._child.pid

    def is_stopping(self) -> bool:
        """Return whether the server is stopping for good."""
        return self._stopping.is_set()

    def wait(self) -> None:
        """Wait until the server has ended."""
        if self._child is not None:
            self._child.wait()

    def pause(self, seconds: float) -> bool:
        """Wait for ``seconds``; returns True at once when the server is stopping."""
        return self._stopping.wait(seconds)

    def kill(self, why: str = "") -> None:
        """Kill the server, which its watch treats as a death with the reason ``why``."""
        with self._lock:
            if self._child is not None and self._child.poll() is None:
                self._killed_as = why
                self._child.kill()

    def terminate(self) -> None:
        """Request the server to stop for good."""
        with self._lock:
            self._stopping.set()
            if self._child is not None and self._child.poll() is None:
                self._child.terminate()

    def join(self, seconds: float) -> None:
        """Wait until the server has ended; kill it after ``seconds``."""
        if self._child is None:
            return
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def reason(self) -> str:
        """Return why the server ended or fails, as the end of a sentence."""
        written = self.read_log()
        if self.is_disk_full():
            return f": the disk of {self._directory.path} is full; make room"
        if "permission denied" in written:
            return f": it may not read or write all of {self._directory.database}; see {self.log}"
        if self._killed_as:
            return f": {self._killed_as}; see {self.log}"
        killed = self._child is not None and self._child.poll() == -signal.SIGKILL
        if killed and PANIC not in written:
            return f": it was killed (by hand, or as the machine ran out of memory); see {self.log}"
        if self.name == "mongodb" and has_database(self._directory.database):
            return (
                f": files in {self._directory.database} may be damaged; see {self.log}, and import a backup "
                "into a new directory if so (server-flow data import)"
            )
        last = [line.strip() for line in written.splitlines() if line.strip() and ">>>" not in line][-1:]
        quoted = f": {last[0][:_MAX_QUOTED_CHARACTERS]}" if last else ""
        return f"{quoted}; see {self.log}"

    def is_disk_full(self) -> bool:
        """Return whether the server needs the disk, and it is full."""
        return any(sign in self.read_log() for sign in _DISK_FULL) or not self.has_space()

    def has_space(self) -> bool:
        """Return whether the disk has the minimum of free space, if the server needs the disk."""
        return self.name != "mongodb" or has_space(self._directory.path)

    def read_log(self) -> str:
        """Return the log of the server in lower case; "" if it cannot be read."""
        try:
            with self.log.open("rb") as log:
                return log.read(_MAX_LOG_BYTES).decode(errors="replace").lower()
        except OSError:
            return ""


def has_space(folder: Path) -> bool:
    """Return whether a small file can be written; True also if it fails for a reason other than space."""
    probe = folder / "space.probe"
    try:
        free = os.statvfs(folder)
        if free.f_bavail * free.f_frsize < MIN_FREE_BYTES:
            return False
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refusal:
        return refusal.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return True


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a named pipe that nobody reads raises OSError, where ``open`` would wait for a reader."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
