"""Converts many values to documents and back, with their payloads sealed by a cipher."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from app.contracts.ports.ciphers import PayloadCipher, PayloadText
from app.contracts.state import StateId, id_from_key
from models.codec import PAYLOAD_TEXTS, Document

T = TypeVar("T")

SEALED_FIELDS = (*PAYLOAD_TEXTS, "event", "attempts")
"""Fields with data of users, as JSON: those of states and records, events of dead letters, and answers of
receivers."""


class DocumentCodec:
    """Converts values to documents and back.

    Args:
        cipher: Seals the payloads of states and records, wherever they are in a document, and what
            deliveries have of them (SEALED_FIELDS). ``None`` stores them as they are, and nothing is awaited.
    """

    def __init__(self, cipher: PayloadCipher | None = None) -> None:
        self._cipher = cipher

    async def encode_many(self, encode: Callable[[T], Document], values: Sequence[T]) -> list[Document]:
        """Convert values with ``encode`` and seal the payloads of the documents."""
        documents = list(map(encode, values))
        if self._cipher is not None:
            await _replace_payloads(documents, self._cipher.seal_many)
        return documents

    async def decode_many(self, decode: Callable[[Document], T], documents: Sequence[Document]) -> list[T]:
        """Open the payloads of documents and convert these with ``decode``."""
        if self._cipher is not None:
            documents = [_copy(document) for document in documents]  # loads of one state share a document
            await _replace_payloads(documents, self._cipher.open_many)
        return list(map(decode, documents))


class _Place(Struct, frozen=True):
    """A payload in a document: ``holder[field]``."""

    holder: Document
    field: str
    user_id: str
    document_id: str


async def _replace_payloads(
    documents: Sequence[Document], convert: Callable[[Sequence[PayloadText]], Awaitable[Sequence[str]]]
) -> None:
    places = [place for document in documents for place in _payload_places(document)]
    if not places:
        return
    texts = [PayloadText(place.user_id, place.document_id, place.holder[place.field]) for place in places]
    for place, text in zip(places, await convert(texts), strict=True):
        place.holder[place.field] = text


def _copy(document: Document) -> Document:
    """Copy a document as deep as it has payloads."""
    copied = {**document}
    if isinstance(after := document.get("after"), dict):
        copied["after"] = {**after}
    if isinstance(outbox := document.get("outbox"), list):
        copied["outbox"] = [_copy(record) if isinstance(record, dict) else record for record in outbox]
    return copied


def _payload_places(document: Document) -> Iterator[_Place]:
    """Find the payloads of a state or a record, of the state after a record, and of records in an outbox.

    A damaged document may have values of any type in their places; they are skipped.
    """
    user_id, document_id = _owner_of(document), str(_id_of(document))
    for holder in (document, document.get("after")):
        if isinstance(holder, dict):
            for field in SEALED_FIELDS:
                if isinstance(holder.get(field), str):
                    yield _Place(holder, field, user_id, document_id)
    outbox = document.get("outbox")
    for record in outbox if isinstance(outbox, list) else ():
        if isinstance(record, dict):
            yield from _payload_places(record)


def _owner_of(document: Document) -> str:
    """Return the user whose data a document has; a lane names the state alone."""
    if "userId" not in document and isinstance(key := document.get("stateKey"), str):
        return id_from_key(key).user_id
    return str(document.get("userId"))


def _id_of(document: Document) -> Any:
    """Return the id; a state's document has none before it is written."""
    if "_id" in document:
        return document["_id"]
    flow, user, instance = (str(document.get(name)) for name in ("flowId", "userId", "instanceId"))
    return StateId(flow, user, instance if "instanceId" in document else None).key
