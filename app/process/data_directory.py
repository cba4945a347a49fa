"""The data directory of the embedded servers: its lock, its secrets, and the addresses of its servers."""

import contextlib
import fcntl
import os
import secrets
import stat
import time
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from app.process.database_server import DatabaseServer, EmbeddedError, WrittenBy, has_database, unmarked
from config.encryption import create_wrapping_key, parse_wrapping_keys

RELEASE_SECONDS = 15.0
"""Time for the servers of a killed parent to end."""

ACCESS_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO
OWN_FILES = frozenset({"secrets.json", "database.json", "mongodb", "lock"})
"""A directory with one of these is a data directory, and its mode may be changed."""

MIN_JWT_CHARACTERS = 32
LOST_SECRETS = (
    "It has the passwords that the database was made with, and the secret that signs tokens; without it the "
    "data cannot be opened. Restore the file from a copy of the directory, or import a backup into a new "
    "directory (server-flow data import)"
)

KEYS_FILE = "encryption.json"

T = TypeVar("T", bound=msgspec.Struct)


class Secrets(msgspec.Struct):
    """Passwords of the servers, and the secret of tokens. ``provisioned``: the database user exists."""

    jwt: str
    mongo: str
    redis: str
    provisioned: bool = False


class EncryptionKeys(msgspec.Struct):
    """Entries of FLOW_ENCRYPTION_KEYS; the first one wraps."""

    keys: list[str]


class Running(msgspec.Struct):
    """Addresses of running servers, for other commands on the same directory."""

    mongo_url: str
    redis_url: str


class DataDirectory:
    """A folder that is locked by at most one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.database = self.path / "mongodb"
        self._lock: IO[str] | None = None
        self._servers_lock: IO[str] | None = None

    @property
    def inherited_locks(self) -> list[int]:
        """File descriptors that the servers inherit, so that the directory is locked until they end."""
        return [self._servers_lock.fileno()] if self._servers_lock is not None else []

    def acquire(self) -> bool:
        """Create the directory if necessary and lock it. Returns False if another process has locked it.

        Raises:
            EmbeddedError: The directory cannot be written, servers of a killed parent still run, or other
                users can read it and it contains other files.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._require_private()
            self._lock = (self.path / "lock").open("a+")
            self._servers_lock = (self.path / "servers.lock").open("a+")
        except OSError as refusal:
            self.release()
            raise EmbeddedError(
                f"The data directory {self.path} cannot be written: {refusal.strerror}"
            ) from None
        if not _lock(self._lock, 0):
            self.release()
            return False
        if not _lock(self._servers_lock, RELEASE_SECONDS):
            self.release()
            raise EmbeddedError(f"Servers of an earlier server-flow still run on {self.path}; end them first")
        try:
            self._file("running.json").unlink(missing_ok=True)  # of a process that was killed
        except OSError as refusal:
            self.release()
            raise EmbeddedError(
                f"{self._file('running.json')} cannot be replaced: {refusal.strerror}; remove it"
            ) from None
        return True

    def _require_private(self) -> None:
        """Remove the access of other users, because the database contains the payloads of all users."""
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if not mode & ACCESS_BY_OTHERS:
            return
        names = {file.name for file in self.path.iterdir()}
        if names and names.isdisjoint(OWN_FILES):
            raise EmbeddedError(
                f"The data directory {self.path} holds other files, and other users of this machine may read "
                f"it (mode {mode:04o}): choose an empty directory with --data-dir, or run "
                f"chmod 700 {self.path}"
            )
        self.path.chmod(mode & ~ACCESS_BY_OTHERS)

    def release(self) -> None:
        """Unlock the directory."""
        for lock in (self._servers_lock, self._lock):
            if lock is not None:
                lock.close()
        self._servers_lock = self._lock = None

    def secrets(self) -> Secrets | None:
        """Return the secrets; None in a new directory.

        Raises:
            EmbeddedError: The secrets are missing, damaged or empty.
        """
        found = self._read_struct("secrets.json", Secrets)
        if found is None and has_database(self.database):
            raise EmbeddedError(
                f"{self.path} holds a database, but its secrets.json is missing. {LOST_SECRETS}"
            )
        if found is None:
            return None
        if min(map(len, (found.mongo, found.redis))) == 0 or len(found.jwt) < MIN_JWT_CHARACTERS:
            raise EmbeddedError(f"{self._file('secrets.json')} has an empty or short secret. {LOST_SECRETS}")
        if not all(map(str.isprintable, (found.mongo, found.redis, found.jwt))):
            raise EmbeddedError(
                f"{self._file('secrets.json')} has a secret with control characters. {LOST_SECRETS}"
            )
        return found

    def create_secrets(self) -> Secrets:
        """Create and store new secrets."""
        created = Secrets(secrets.token_urlsafe(48), secrets.token_urlsafe(48), secrets.token_urlsafe(48))
        self.store_secrets(created)
        return created

    def store_secrets(self, changed: Secrets) -> None:
        """Replace the secrets."""
        self._write_struct("secrets.json", changed)

    def encryption_keys(self, *, create: bool = False) -> list[str]:
        """Return the keys that wrap data keys; none in a directory of an older version.

        Args:
            create: Create a key if there is none.

        Raises:
            EmbeddedError: The file cannot be read, or has no usable keys.
        """
        found = self._read_struct(KEYS_FILE, EncryptionKeys)
        if found is None and create:
            found = EncryptionKeys([create_wrapping_key()])
            self._write_struct(KEYS_FILE, found)
        if found is None:
            return []
        try:
            parse_wrapping_keys(",".join(found.keys))
        except ValueError as refusal:
            raise EmbeddedError(
                f"{self._file(KEYS_FILE)}: {refusal}. Without its keys stored data cannot be read: restore "
                "the file from a copy"
            ) from None
        return found.keys

    def running(self) -> Running | None:
        """Return the addresses of the servers of the process that has locked the directory."""
        return self._read_struct("running.json", Running)

    def store_running(self, running: Running | None) -> None:
        """Publish the addresses of the servers; None when they end."""
        if running is None:
            with contextlib.suppress(OSError):  # the next start reports the reason
                self._file("running.json").unlink(missing_ok=True)
        else:
            self._write_struct("running.json", running)

    def claim(self, server: DatabaseServer) -> None:
        """Mark the directory as written by ``server``. Raises EmbeddedError if another server wrote it."""
        before = self._read_struct("database.json", WrittenBy)
        mark = server.claim(before or unmarked(self.database), self.path)
        if mark != before:
            self._write_struct("database.json", mark)

    def _file(self, name: str) -> Path:
        return self.path / name

    def _read_struct(self, name: str, shape: type[T]) -> T | None:
        file = self._file(name)
        try:
            return msgspec.json.decode(file.read_bytes(), type=shape)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError):
            raise EmbeddedError(
                f"{file} cannot be read, and the data beside it needs it: restore the file, or import a "
                "backup into a new directory (server-flow data import)"
            ) from None

    def _write_struct(self, name: str, stored: msgspec.Struct) -> None:
        """Replace a file atomically and durably."""
        file = self._file(name)
        draft = file.with_suffix(".new")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(msgspec.json.encode(stored))
                out.flush()
                os.fsync(out.fileno())
            draft.replace(file)
            _sync_folder(self.path)
        except OSError as refusal:
            raise EmbeddedError(f"{file} cannot be written: {refusal.strerror}") from None


def read_jwt_secret(data_dir: Path) -> str:
    """Return the secret that signs the tokens of an embedded server. Raises EmbeddedError."""
    found = DataDirectory(data_dir).secrets()
    if found is None:
        raise EmbeddedError(
            f"There is no secret in {data_dir.absolute()}: run 'server-flow serve' first, name its data "
            "directory with --data-dir or FLOW_DATA_DIR, or set FLOW_JWT_SECRET"
        )
    return found.jwt


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(file: IO[str], seconds: float) -> bool:
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
