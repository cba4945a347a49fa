"""Writes the data of a file into an empty database; can be repeated until it is complete.

The whole file is checked before anything is written. The history and the definitions come before the
states, so no state ever exists without them. A mark in ``flow_leases`` prevents services from starting on a
database whose import has not finished.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from app.contracts.errors import DatabaseRefusedError, DataTransferError, StoreUnavailableError
from app.contracts.transfer import Progress, TransferReport
from models.data_file import read_file, verify_file
from models.database import IMPORT_LEASE, Database, is_outage, store_errors

BATCH_DOCUMENTS = 500
BATCH_BYTES = 4 * 1024 * 1024
MAX_ATTEMPTS = 10
READ_CONCURRENCY = 32
RETRY_SECONDS = 1.0
"""Under the load of an import a server may not answer within the driver's timeout."""
STATES = "flow_states"

_DUPLICATE_KEY = 11000
_RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument, tz_aware=True)
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)

Batch = list[RawBSONDocument]


async def import_data(
    database: Database,
    path: Path,
    *,
    replace_definitions: bool,
    progress: Progress,
    verified: TransferReport | None = None,
) -> TransferReport:
    """Import a file.

    Args:
        database: Without states and history, or with those of an interrupted import of the same file.
        path: A file of ``data export``.
        replace_definitions: Whether definitions that are there already may be removed.
        progress: Called from time to time.
        verified: The result of ``verify_file``, if the caller has read the file already.

    Raises:
        DataTransferError: The file cannot be used, or the database is in use or cannot store the documents.
        StoreUnavailableError: The database does not answer; the import can be repeated.
    """
    found = verified or verify_file(path)
    await database.prepare(importing=True)
    work = _Import(database, progress)
    if not await work.is_resumed(found.sha256):
        await work.require_unused(replace_definitions=replace_definitions)
        await work.begin(found.sha256)
    await work.write(path)
    await work.end()
    return TransferReport(found.documents, found.sha256, found.bytes, work.already_there)


class _Import:
    def __init__(self, database: Database, progress: Progress) -> None:
        self._database = database
        self._leases = database.collection("flow_leases")
        self._progress = progress
        self._written: dict[str, int] = {}
        self.already_there = 0

    async def is_resumed(self, checksum: str) -> bool:
        """Return whether an import of the same file was interrupted.

        Raises:
            DataTransferError: An import of another file was interrupted.
        """
        async with store_errors():
            mark = await self._leases.find_one({"_id": IMPORT_LEASE})
        if mark is not None and mark.get("holder") != checksum:
            raise DataTransferError(
                "An import of another file into this database has not finished: repeat that one, "
                "or use an empty database"
            )
        return mark is not None

    async def require_unused(self, *, replace_definitions: bool) -> None:
        """Require a database without data that no service uses.

        Raises:
            DataTransferError: It has data, or a service runs on it.
        """
        async with store_errors():
            async for lease in self._leases.find({}):
                until = lease.get("until")
                if isinstance(until, datetime) and until > datetime.now(UTC):
                    raise DataTransferError("A service runs on this database: stop all workers first")
        if await self._has("flow_states") or await self._has("flow_history"):
            raise DataTransferError(
                "The database has states or history already, and an import does not merge: use an empty "
                "database (FLOW_MONGO_DATABASE) or a new data directory (--data-dir)"
            )
        if await self._has("flow_definitions") and not replace_definitions:
            raise DataTransferError(
                "The database has definitions already (and no states): replace them with "
                "--replace-definitions, or use an empty database"
            )

    async def begin(self, checksum: str) -> None:
        """Mark the database as being imported, and remove definitions that no state uses."""
        mark = {"_id": IMPORT_LEASE, "holder": checksum, "fence": 1, "until": _NEVER}
        async with store_errors():
            await self._leases.insert_one(mark)
            await self._database.collection("flow_definitions").delete_many({})

    async def write(self, path: Path) -> None:
        """Write every document, the states last."""
        for states in (False, True):
            chosen = (each for each in read_file(path) if (each[0] == STATES) is states)
            for collection, documents in _batches(chosen):
                await self._insert(collection, documents)
                self._written[collection] = self._written.get(collection, 0) + len(documents)
                self._progress(collection, self._written[collection])

    async def end(self) -> None:
        """Remove the mark: services may start."""
        async with store_errors():
            await self._leases.delete_one({"_id": IMPORT_LEASE})

    async def _has(self, collection: str) -> bool:
        async with store_errors():
            return await self._database.collection(collection).find_one({}, {"_id": 1}) is not None

    async def _insert(self, name: str, documents: Batch) -> None:
        """Insert documents; repeat it if the server does not answer. Existing documents count as inserted."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                await self._insert_once(name, documents)
            except DatabaseRefusedError:
                raise
            except StoreUnavailableError:
                if attempt == MAX_ATTEMPTS:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _insert_once(self, name: str, documents: Batch) -> None:
        collection: Any = self._database.collection(name).with_options(codec_options=_RAW)
        async with store_errors():
            try:
                await collection.insert_many(documents, ordered=False)
            except OperationFailure as refusal:
                if is_outage(refusal):
                    raise
                details = refusal.details or {}
                faults = details.get("writeErrors", ())
                duplicates = all(fault.get("code") == _DUPLICATE_KEY for fault in faults)
                if not faults or not duplicates or details.get("writeConcernErrors"):
                    codes = ", ".join(
                        sorted({str(fault.get("code", refusal.code)) for fault in faults or [{}]})
                    )
                    raise DataTransferError(
                        f"The database cannot store documents of {name} (code {codes}): see its log, "
                        "check its disk, and repeat the import"
                    ) from None
                twice = [documents[fault["index"]] for fault in faults]
                for first in range(0, len(twice), READ_CONCURRENCY):
                    await _require_same(collection, twice[first : first + READ_CONCURRENCY])
                self.already_there += len(twice)


async def _require_same(collection: Any, documents: Batch) -> None:
    """Raise DataTransferError unless the collection has these very documents.

    Each is read by itself: the Python database server answers ``$in`` by reading the whole collection.
    """
    found = await asyncio.gather(*(collection.find_one({"_id": each["_id"]}) for each in documents))
    if any(there is None or there.raw != each.raw for there, each in zip(found, documents, strict=True)):
        raise DataTransferError(
            f"{collection.name} has another document under an _id of the file; use an empty database"
        )


def _batches(documents: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, Batch]]:
    """Group neighbours of one collection, at most ``BATCH_DOCUMENTS`` and about ``BATCH_BYTES``."""
    for collection, members in groupby(documents, key=lambda each: each[0]):
        batch: Batch = []
        size = 0
        for _, raw in members:
            batch.append(RawBSONDocument(raw, _RAW))
            size += len(raw)
            if len(batch) == BATCH_DOCUMENTS or size >= BATCH_BYTES:
                yield collection, batch
                batch, size = [], 0
        if batch:
            yield collection, batch
