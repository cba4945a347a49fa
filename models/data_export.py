"""Reads a database for a backup, also while a service changes it.

States are read before the history, and the definitions last. A record leaves the outbox of its state only
once it is in the history, so that no record can be missing; records that are later than the state as it was
read are left out. A definition is published before any state names it, and is never removed. So every state
in the file is as it was at one moment, with all of its history up to then.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from app.contracts.deliveries import LanePosition
from app.contracts.errors import DataTransferError
from app.contracts.people import pseudonym
from app.contracts.ports.keys import SERVICE_OWNER
from app.contracts.pseudonyms import NAMING
from app.contracts.transfer import Progress, TransferReport
from models.data_file import COLLECTIONS, DataFileWriter
from models.database import Collection, Database, store_errors
from models.integrations.places import position_text

BATCH_DOCUMENTS = 1000
CLOCK_TOLERANCE = timedelta(minutes=5)
"""Maximum difference between the clocks of the workers and of this process."""
USER_ERASED = "A user was erased while the export ran; run it again"

_RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument, tz_aware=True)

_LANE_PLACES = ("cursor", "newest")

_Position = tuple[str, int]


async def export_data(
    database: Database, out: DataFileWriter, progress: Progress, batch_documents: int = BATCH_DOCUMENTS
) -> TransferReport:
    """Write all data of a database. Memory use: a few hundred bytes per state, independent of the history.

    Raises:
        DataTransferError: A user was erased meanwhile (the export can be repeated), or a read failed.
        StoreUnavailableError: The database does not answer.
    """
    try:
        await _Export(database, out, progress, batch_documents).run()
    except OperationFailure as refusal:
        raise DataTransferError(
            f"The database cannot be read (code {refusal.code}): see its log, and check its disk"
        ) from None
    return out.finish()


class _Export:
    def __init__(
        self, database: Database, out: DataFileWriter, progress: Progress, batch_documents: int
    ) -> None:
        self._database = database
        self._states = database.collection("flow_states")
        self._out = out
        self._progress = progress
        self._batch = batch_documents
        self._began = datetime.now(UTC) - CLOCK_TOLERANCE
        self._positions: dict[str, _Position | None] = {}
        self._pseudonyms: dict[str, set[str]] = {}
        self._erased: dict[str, _Position] = {}
        self._receipts: dict[str, _Position] = {}

    async def run(self) -> None:
        """Write every collection."""
        for name in COLLECTIONS:
            self._out.begin(name)
            count = 0
            async for document in _documents(self._database.collection(name), self._batch):
                if name == "flow_states":
                    self._note_state(document)
                elif name == "flow_history" and not await self._belongs(document):
                    continue
                elif name == "flow_data_keys" and document["_id"] == SERVICE_OWNER:
                    continue  # it seals secrets, which are not exported
                count = self._out.add(self._as_of_its_state(name, document))
                if count % self._batch == 0:
                    self._progress(name, count)
            self._progress(name, count)
        await self._check_erasures()

    def _note_state(self, document: RawBSONDocument) -> None:
        key = document["_id"]
        if not isinstance(key, str):
            return  # damaged: no record can belong to it
        self._positions[key] = _position(document)
        pseudonyms = _pseudonyms_of(document)
        if pseudonyms:
            self._pseudonyms[key] = pseudonyms
        for record in _documents_in(document, "outbox"):
            self._note_erasure(key, record)

    async def _belongs(self, record: RawBSONDocument) -> bool:
        """Return whether a record belongs to its state as it was read."""
        key = record.get("stateId")
        if not isinstance(key, str):
            return True  # damaged
        position = _position(record)
        if key in self._positions:
            at = self._positions[key]
            if at is not None and position is not None and position > at:
                return False
        elif await self._started_since(key, record.get("timestamp")):
            return False
        theirs = self._pseudonyms.get(key)
        if theirs is not None and not theirs.isdisjoint(_ids_in(record)):
            raise DataTransferError(USER_ERASED)  # from the records, but not from the state as it was read
        self._note_erasure(key, record)
        return True

    async def _started_since(self, key: Any, timestamp: Any) -> bool:
        """Return whether a state exists now that did not exist when the states were read."""
        if isinstance(timestamp, datetime) and timestamp < self._began:
            return False
        async with store_errors():
            return await self._states.find_one({"_id": key}, {"_id": 1}) is not None

    def _as_of_its_state(self, name: str, document: RawBSONDocument) -> bytes:
        """Return a document as it is written: a lane is not beyond its state as that was read.

        The state in the file goes on from there, and later changes have the positions that the lane would
        pass over. A lane of a state that is not in the file waits for the next mark.
        """
        if name == "flow_delivery_lanes":
            at = self._positions.get(str(document.get("stateKey")))
            limit = "" if at is None else position_text(LanePosition(*at))
            beyond = [place for place in _LANE_PLACES if str(document.get(place, "")) > limit]
            if limit and beyond:
                return bson.encode({**document, **dict.fromkeys(beyond, limit)})
        return bytes(document.raw)

    def _note_erasure(self, key: str, record: RawBSONDocument) -> None:
        position = _position(record)
        if position is None:
            return
        if record.get("kind") == "erased":
            self._receipts[key] = max(position, self._receipts.get(key, position))
        elif "hash" in record and "salt" not in record:
            self._erased[key] = max(position, self._erased.get(key, position))

    async def _check_erasures(self) -> None:
        """Raise DataTransferError if a state in the file lacks the receipt of an erasure in its history.

        The history of such a state would not verify. A state that has not changed since it was read was
        like that before.
        """
        for key, erased in self._erased.items():
            receipt = self._receipts.get(key)
            if receipt is not None and receipt > erased:
                continue
            async with store_errors():
                now = await self._states.find_one({"_id": key}, {"epoch": 1, "revision": 1})
            if (None if now is None else _position(now)) != self._positions.get(key):
                raise DataTransferError(USER_ERASED)


async def _documents(collection: Collection, batch_documents: int) -> AsyncIterator[RawBSONDocument]:
    """Read every document of a collection, in the order of the storage: the cheapest scan on every server."""
    raw: Any = collection.with_options(codec_options=_RAW)
    async with store_errors():
        cursor = raw.find({}, batch_size=batch_documents)
        while batch := await cursor.to_list(batch_documents):
            for document in batch:
                yield document


def _pseudonyms_of(state: RawBSONDocument) -> set[str]:
    """Return what would replace the people of a state in its records if they were erased."""
    return {
        pseudonym(person["salt"], person["userId"])
        for person in _documents_in(state, "people")
        if isinstance(person.get("salt"), str) and isinstance(person.get("userId"), str)
    }


def _ids_in(record: RawBSONDocument) -> Iterator[str]:
    """Return the ids of people in a record, as texts also where they are damaged."""
    yield str(record.get("actor"))
    after = record.get("after")
    if isinstance(after, RawBSONDocument):
        for member in NAMING:
            for entry in _documents_in(after, member):
                yield str(entry.get("userId"))


def _documents_in(document: RawBSONDocument, name: str) -> list[RawBSONDocument]:
    """Return the documents in a list of a document, which may be damaged."""
    listed = document.get(name)
    return [each for each in listed if isinstance(each, RawBSONDocument)] if isinstance(listed, list) else []


def _position(document: Any) -> _Position | None:
    epoch, revision = document.get("epoch"), document.get("revision")
    if isinstance(epoch, str) and isinstance(revision, int):
        return epoch, revision
    return None
