"""The embedded database server: its command, its settings, and the data that it can open."""

import os
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from msgspec import Struct

from app.process import StartError

SERVER_VARIABLE = "FLOW_EMBEDDED_DATABASE"
"""Environment variable: path of the server command to use instead of the first one installed."""

PACKAGE = "SecantusDB"
INSTALL = "pip install 'server-flow[embedded]'"
CACHE_SIZE = "256M"
"""The Rust server reserves 4 GB by default."""

_RUST_FLAGS = ("--log-file-max", "32MB", "--oplog-nonlogged", "--oplog-max-entries", "2000")
"""A start reads whole log files, by default of 2 GB: 11 s instead of 0.3 s. Nothing reads the oplog, which
would fill the cache and the log of the data."""

_WIREDTIGER_CONFIG = (
    "checkpoint=(wait=60,log_size=67108864),"
    "eviction_dirty_target=60,eviction_dirty_trigger=80,"
    "eviction_updates_target=40,eviction_updates_trigger=60\n"
)
"""Settings that WiredTiger reads from a file in its folder: a checkpoint every minute, or after 64 MB of log.

The Rust server makes no checkpoint while it runs, so that its log grows, and a start after ``kill -9``
replays all of it. Between checkpoints WiredTiger caches changed pages up to these percentages of its cache;
by default it writes them from 5 % on, the same pages again and again.
"""

_COMMANDS = ("secantusd-mdb", "secantusd-rs", "secantusd-py")
"""In order of preference: the successor of the Rust server, the Rust server, the Python server."""

_UNMARKED = ("secantusd-py", "0.7.0b3")
"""The server of server-flow 0.4 and older, which left no mark in the directory."""


class EmbeddedError(StartError):
    """The embedded servers cannot start."""

    code = "EMBEDDED_SERVERS_FAILED"


class WrittenBy(Struct, frozen=True):
    """The server that wrote a data directory: its command and the version of its package ("": unknown).

    The file format changes between versions without a check or an upgrade by the server itself:
    a newer server opens older files and then misreads their indexes.
    """

    server: str
    version: str

    def __str__(self) -> str:
        return f"{self.server} of {PACKAGE} {self.version or '(unknown version)'}"


class DatabaseServer(Struct, frozen=True):
    """An installed server. ``chosen``: by ``FLOW_EMBEDDED_DATABASE``."""

    path: Path
    version: str
    chosen: bool = False

    @property
    def name(self) -> str:
        """The name of its command."""
        return self.path.name

    def command(self, port: int, storage: Path, *, auth: bool) -> list[str]:
        """Return the command line that serves ``storage`` on a port of the loopback interface.

        ``--sync-on-commit`` is required: without it, ``kill -9`` loses acknowledged writes.
        """
        return [
            str(self.path),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--storage-path", str(storage), "--cache-size", CACHE_SIZE),
            *("--sync-on-commit", "--log-level", "WARNING"),
            *(() if self.name == "secantusd-py" else _RUST_FLAGS),
            *(["--auth"] if auth else []),
        ]

    def configure(self, storage: Path) -> None:
        """Write the settings of WiredTiger into its folder. Raises EmbeddedError."""
        if self.name == "secantusd-py":
            return
        try:
            storage.mkdir(mode=0o700, parents=True, exist_ok=True)
            (storage / "WiredTiger.config").write_text(_WIREDTIGER_CONFIG)
        except OSError as refusal:
            raise EmbeddedError(f"{storage} cannot be written: {refusal.strerror}") from None

    def claim(self, written_by: WrittenBy | None, data_dir: Path) -> WrittenBy:
        """Check that this server may open a directory, and return the mark to store there.

        Args:
            written_by: The server that wrote the directory; None if it holds no database yet.
            data_dir: The directory, for the message.

        Raises:
            EmbeddedError: Another server wrote it; the message names the commands that move the data.
        """
        if written_by is None:
            return WrittenBy(self.name, self.version)
        same_version = written_by.version == self.version or (self.chosen and not self.version)
        if written_by.server == self.name and same_version:
            return written_by
        raise EmbeddedError(
            f"The data directory {data_dir} was written by {written_by}, and {self.name} of {PACKAGE} "
            f"{self.version} must not open it. Move the data: python3 -m venv old && "
            f"old/bin/pip install '{PACKAGE}=={written_by.version}' && "
            f"{SERVER_VARIABLE}=old/bin/{written_by.server} server-flow data export {data_dir} backup.flow, "
            "then server-flow data import backup.flow --data-dir NEW"
        )


def find_server() -> DatabaseServer:
    """Return the server of ``FLOW_EMBEDDED_DATABASE``, or the fastest one installed. Raises EmbeddedError."""
    chosen = os.environ.get(SERVER_VARIABLE)
    if chosen:
        path = Path(chosen).absolute()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise EmbeddedError(f"{SERVER_VARIABLE}: {path} is not a command")
        return DatabaseServer(path, _version_beside(path), chosen=True)
    for name in _COMMANDS:
        path_or_none = _find_command(name)
        if path_or_none is not None:
            return DatabaseServer(path_or_none, _installed_version())
    raise EmbeddedError(
        f"The embedded servers are not installed: {INSTALL}, or set FLOW_MONGO_URL and FLOW_REDIS_URL"
    )


def unmarked(storage: Path) -> WrittenBy | None:
    """Return the server that wrote a directory without a mark; None if there is no database."""
    return WrittenBy(*_UNMARKED) if has_database(storage) else None


def has_database(storage: Path) -> bool:
    """Return whether a folder contains files of a database."""
    return any(storage.glob("*.wt"))


def _find_command(name: str) -> Path | None:
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return beside
    found = shutil.which(name)
    return Path(found) if found else None


def _installed_version() -> str:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return ""


def _version_beside(path: Path) -> str:
    """The version of the package in the environment that a command belongs to; "" if unknown."""
    folders: Sequence[str] = [str(folder) for folder in path.parent.parent.glob("lib/python*/site-packages")]
    found = next(iter(metadata.distributions(name=PACKAGE, path=list(folders))), None)
    return found.version if found is not None else ""
