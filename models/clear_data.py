"""Seals what was stored before the encryption was switched on."""

import math
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

from motor.core import AgnosticBaseCursor

from app.contracts.errors import OperationalError
from app.contracts.ports.keys import SealedPage
from models.codec import Document
from models.database import Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.indexed import KeyRanges, pipeline
from models.paging import BATCH_DOCUMENTS
from models.sealed_fields import (
    Layout,
    api_key_layout,
    integration_layout,
    lane_layout,
    letter_layout,
    record_layout,
    secret_layout,
    state_layout,
)

SEALS_NOTHING = (
    "FLOW_ENCRYPTION_REQUIRED: data in the clear counts as changed, and encrypting it would hide that; "
    "unset it for this command if the data is known to be sound"
)
LAYOUTS: Mapping[str, Layout] = {
    "flow_states": state_layout,
    "flow_history": record_layout,
    "flow_delivery_lanes": lane_layout,
    "flow_dead_letters": letter_layout,
    "flow_integrations": integration_layout,
    "flow_api_keys": api_key_layout,
    "flow_secrets": secret_layout,
}


class MongoClearData:
    """The ClearData port on MongoDB.

    A field is changed only if it is still as it was read. So nothing comes back that an erasure removes
    meanwhile, and nothing is lost that a worker changes. A document that was changed meanwhile is sealed by
    that, or by the next run.

    Args:
        database: The database, prepared.
        codec: Seals.
    """

    collections = tuple(LAYOUTS)

    def __init__(self, database: Database, codec: DocumentCodec) -> None:
        self._database = database
        self._codec = codec
        self._ranges = {name: KeyRanges() for name in LAYOUTS}

    async def seal_page(self, collection: str, after: str, limit: int) -> SealedPage:
        """Seal the documents of a collection with ids after ``after``.

        Raises:
            OperationalError: The encryption is required: what is in the clear may be forged.
        """
        if not self._codec.reads_clear:
            raise OperationalError(SEALS_NOTHING)
        documents = self._database.collection(collection)
        async with store_errors():
            page = await self._ranges[collection].page(
                after, None, limit, partial(_find, documents), max_bytes=math.inf
            )
        before = deepcopy(page.documents)
        sealed = 0
        if await self._codec.of(LAYOUTS[collection]).seal(page.documents, fresh=True):
            for clear, document in zip(before, page.documents, strict=True):
                if clear != document:
                    change = _sealing(clear, document)
                    async with store_errors():
                        answer = await documents.update_one({"_id": document["_id"]}, change)
                    sealed += answer.modified_count
        last = str(page.documents[-1]["_id"]) if page.full else None
        return SealedPage(len(page.documents), sealed, last)


def _find(collection: Collection, keys: Document, up_to: int) -> AgnosticBaseCursor[Any]:
    stages = pipeline({"_id": keys}, sort=(("_id", 1),), limit=up_to)
    return collection.aggregate(stages, batchSize=BATCH_DOCUMENTS)


def _sealing(clear: Document, sealed: Document) -> list[Document]:
    """Return the update of a document that replaces each field if it is as it was read.

    The condition is in the update, as the embedded server finds one document by its ``_id`` alone.
    """
    changed = {name: value for name, value in sealed.items() if value != clear[name]}
    fields: Document = {}
    for name, value in changed.items():
        as_read = {"$eq": [f"${name}", {"$literal": clear[name]}]}
        fields[name] = {"$cond": [as_read, {"$literal": value}, f"${name}"]}
    return [{"$set": fields}]
