"""The file of ``data export``: a gzip stream of BSON documents (docs/operations/backup.md).

It begins with a line of JSON (``Header``). BSON documents follow one after another: ``{section: NAME}``
before the documents of each collection, and ``{end: {NAME: COUNT, …}, sha256: …}`` after the last one.
Documents are stored as the database sent them, so that every type and the order of the fields survive.
"""

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

import bson
import msgspec
from bson.errors import BSONError

from app.contracts.errors import DataTransferError
from app.contracts.transfer import TransferReport

FORMAT = "server-flow-data"
FORMAT_VERSION = 1
COLLECTIONS = (
    "flow_states",
    "flow_history",
    "flow_states_damaged",
    "flow_corruptions",
    "flow_delivery_lanes",
    "flow_delivery_log",
    "flow_dead_letters",
    "flow_definitions",
    "flow_data_keys",
)
"""The collections of a file, in the order of an export. Leases and secrets belong to a running service.

The data keys of users come last, so that those of every document before are there.

Registered services do too, as a copy must not send events to them. The positions and the log of their
deliveries are carried over: a service that is registered again under its alias continues where it was."""

COMPRESSION_LEVEL = 4
BUFFER_BYTES = 1 << 18
MAX_HEADER_BYTES = 65_536
MAX_DOCUMENT_BYTES = 17 * 1024 * 1024
MIN_DOCUMENT_BYTES = 5
_LENGTH_BYTES = 4


class Header(msgspec.Struct, rename="camel"):
    """The first line: the format, and the version of server-flow that wrote the file."""

    format: str
    version: int
    written_by: str
    started_at: str


class DataFileWriter:
    """Writes a file from its beginning to its end."""

    def __init__(self, out: IO[bytes], header: Header) -> None:
        self._gzip = gzip.GzipFile(fileobj=out, mode="wb", compresslevel=COMPRESSION_LEVEL)
        self._out = io.BufferedWriter(self._gzip, BUFFER_BYTES)
        self._sha256 = sha256()
        self._bytes = 0
        self._documents: dict[str, int] = {}
        self._section = ""
        self._write(msgspec.json.encode(header) + b"\n")

    def begin(self, collection: str) -> None:
        """Begin the documents of a collection."""
        self._section = collection
        self._documents[collection] = 0
        self._write(bson.encode({"section": collection}))

    def add(self, document: bytes) -> int:
        """Add a document of the collection. Returns the number of its documents so far."""
        self._write(document)
        self._documents[self._section] += 1
        return self._documents[self._section]

    def finish(self) -> TransferReport:
        """Write the counts and the checksum, and complete the compressed stream."""
        checksum = self._sha256.hexdigest()
        self._out.write(bson.encode({"end": self._documents, "sha256": checksum}))
        self._out.flush()
        self._gzip.close()
        return TransferReport(self._documents, checksum, self._bytes)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._sha256.update(data)
        self._bytes += len(data)


@contextmanager
def created_file(path: Path, *, replace: bool) -> Iterator[IO[bytes]]:
    """Create a file that only its owner can read, and that appears once it is complete and on the disk.

    Args:
        path: Its name. On failure, the draft in the same folder is removed.
        replace: Whether an existing file may be replaced.

    Raises:
        DataTransferError: It exists already, or cannot be written.
    """
    if not replace and path.exists():
        raise DataTransferError(f"{path} exists already; choose another name, or replace it with --force")
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as refusal:
        raise DataTransferError(f"{path} cannot be written: {refusal.strerror or refusal}") from None


def read_file(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read the documents of a file, each with its collection.

    Raises:
        DataTransferError: The file cannot be read, has another format or is damaged. Documents yielded
            before may be wrong; ``verify_file`` reads a file without using it.
    """
    yield from _Reader(path).documents()


def verify_file(path: Path) -> TransferReport:
    """Read a whole file, and check its counts and its checksum.

    Raises:
        DataTransferError: The file cannot be read, has another format or is damaged.
    """
    reader = _Reader(path)
    for _ in reader.documents():
        pass
    if reader.report is None:
        raise DataTransferError(f"{path} is damaged")
    return reader.report


class _Reader:
    def __init__(self, path: Path) -> None:
        self.report: TransferReport | None = None
        self._path = path
        self._sha256 = sha256()
        self._bytes = 0

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Yield every document, and set ``report`` at the end."""
        try:
            with gzip.open(self._path, "rb") as compressed:
                yield from self._sections(io.BufferedReader(compressed, BUFFER_BYTES))
        except EOFError:
            raise self._error("is truncated: its end is missing") from None
        except (gzip.BadGzipFile, zlib.error, BSONError):
            raise self._error("is damaged, or is not a file of 'server-flow data export'") from None
        except OSError as refusal:
            raise self._error(f"cannot be read: {refusal.strerror or refusal}") from None

    def _sections(self, source: IO[bytes]) -> Iterator[tuple[str, bytes]]:
        self._read_header(source)
        counted: dict[str, int] = {}
        section = ""
        while True:
            raw = self._read_document(source)
            found = None if _has_id(raw) else bson.decode(raw)
            if found is None:
                if not section:
                    raise self._error("is damaged: a document is in no collection")
                counted[section] += 1
                self._count(raw)
                yield section, raw
            elif "section" in found:
                section = self._known(found["section"], counted)
                counted[section] = 0
                self._count(raw)
            else:
                self._finish(found, counted)
                if source.read(1):
                    raise self._error("is damaged: something follows its end")
                return

    def _read_header(self, source: IO[bytes]) -> None:
        line = source.readline(MAX_HEADER_BYTES)
        try:
            header = msgspec.json.decode(line, type=Header)
        except msgspec.DecodeError:
            header = None
        if header is None or header.format != FORMAT:
            raise self._error("is not a file of 'server-flow data export'")
        if header.version != FORMAT_VERSION:
            raise self._error(
                f"has version {header.version} of the format, written by server-flow {header.written_by}; "
                f"this server-flow reads version {FORMAT_VERSION}"
            )
        self._count(line)

    def _read_document(self, source: IO[bytes]) -> bytes:
        length = source.read(_LENGTH_BYTES)
        size = int.from_bytes(length, "little", signed=True)
        if len(length) < _LENGTH_BYTES:
            raise EOFError
        if not MIN_DOCUMENT_BYTES <= size <= MAX_DOCUMENT_BYTES:
            raise self._error("is damaged: a document has an impossible size")
        rest = source.read(size - _LENGTH_BYTES)
        if len(rest) < size - _LENGTH_BYTES:
            raise EOFError
        return length + rest

    def _known(self, section: object, before: dict[str, int]) -> str:
        if section not in COLLECTIONS or section in before:
            raise self._error(f"is damaged: it has an unexpected collection {section!r}")
        return str(section)

    def _finish(self, end: dict[str, object], counted: dict[str, int]) -> None:
        checksum = self._sha256.hexdigest()
        if end.get("end") != counted or end.get("sha256") != checksum:
            raise self._error("is damaged: its content does not match its counts and its checksum")
        self.report = TransferReport(counted, checksum, self._bytes)

    def _count(self, data: bytes) -> None:
        self._sha256.update(data)
        self._bytes += len(data)

    def _error(self, why: str) -> DataTransferError:
        return DataTransferError(f"{self._path} {why}")


def _has_id(document: bytes) -> bool:
    """Return whether the first field is ``_id``, as in every document from a database."""
    return document[5:9] == b"_id\0"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
