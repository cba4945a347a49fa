"""The fields of documents that a cipher seals, by collection (docs/decisions/0025)."""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from app.contracts.state import StateId, id_from_key
from models.codec import ERASED_FIELDS, Document

STATE_FIELDS = ("payload", "message", "entityId", "pauseReason")
"""Fields of a state with data that users entered."""
RECORD_FIELDS = ("payload", "merged", "salt", "digest")
"""Fields of a record with data that users entered, without those of the state after it and ``requestId``.

``error`` is the code of a refusal, which the hash of the record covers.
"""
KEY_CHECK = "keyCheck"
"""An empty text in a state with nothing else to seal: it names the data key, so that a worker that reads the
state has the present keys of its user when it changes it."""
_STATE_NAMES = (*STATE_FIELDS, KEY_CHECK)
_AFTER_NAMES = tuple((name, f"after.{name}") for name in STATE_FIELDS)


class SealedPlace(Struct, frozen=True):
    """A field of a document that is or will be sealed: ``holder[name]``.

    ``user_id``, ``document_id``, ``field`` and ``comparable`` are those of ``PayloadText``.
    """

    holder: Document
    name: str
    user_id: str | None
    document_id: str
    field: str
    comparable: bool = False


WITHOUT_SEALED: dict[str, Any] = dict.fromkeys(ERASED_FIELDS, 0)
"""A projection of records without all that is sealed."""


Layout = Callable[[Document], Iterator[SealedPlace]]
"""Finds the fields of a document to seal that it has. In a damaged document they may have values of any
type."""


def state_layout(document: Document) -> Iterator[SealedPlace]:
    """Find the sealed fields of a state and of the records in its outbox."""
    owner, key = str(document.get("userId")), _state_key(document)
    for name in _STATE_NAMES:
        if name in document:
            yield SealedPlace(document, name, owner, key, name)
    outbox = document.get("outbox")
    for record in outbox if isinstance(outbox, list) else ():
        if isinstance(record, dict):
            yield from record_layout(record)


def record_layout(document: Document) -> Iterator[SealedPlace]:
    """Find the sealed fields of a record.

    The salt and the request id of a receipt of an erasure are none: they must stay readable.
    """
    owner, record_id = str(document.get("userId")), str(document.get("_id"))
    is_receipt = document.get("kind") == "erased"
    for name in RECORD_FIELDS:
        if name in document and not (is_receipt and name == "salt"):
            yield SealedPlace(document, name, owner, record_id, name)
    if not is_receipt:
        yield from request_id_layout(document)
    after = document.get("after")
    if isinstance(after, dict):
        for name, field in _AFTER_NAMES:
            if name in after:
                yield SealedPlace(after, name, owner, record_id, field)


def request_id_layout(record: Document) -> Iterator[SealedPlace]:
    """Find the id of a record's request; equal ones of a state are sealed alike, so that one can be found."""
    if "requestId" in record:
        owner, key = str(record.get("userId")), str(record.get("stateId"))
        yield SealedPlace(record, "requestId", owner, key, "requestId", comparable=True)


def lane_layout(document: Document) -> Iterator[SealedPlace]:
    """Find the sealed field of a lane: the answers of the receiver."""
    owner = id_from_key(str(document.get("stateKey"))).user_id
    yield SealedPlace(document, "attempts", owner, str(document.get("_id")), "attempts")


def letter_layout(document: Document) -> Iterator[SealedPlace]:
    """Find the sealed fields of a dead letter: the event, and what the receiver answered."""
    owner = str(document.get("userId"))
    place = ";".join(str(document.get(name)) for name in ("_id", "alias", "stateKey", "eventId"))
    for name in ("event", "attempts", "detail"):
        yield SealedPlace(document, name, owner, place, name)


def secret_layout(document: Document) -> Iterator[SealedPlace]:
    """Find the sealed field of a secret of the service."""
    yield SealedPlace(document, "value", None, str(document.get("_id")), "value")


def integration_layout(document: Document) -> Iterator[SealedPlace]:
    """Find the sealed fields of a registration: its secrets, which open for its URL alone."""
    secrets, place = document.get("secrets"), f"{document.get('_id')};{document.get('url')}"
    for secret in secrets if isinstance(secrets, list | tuple) else ():
        if isinstance(secret, dict):
            yield SealedPlace(secret, "secret", None, place, f"secrets.{secret.get('id')}")


def api_key_layout(document: Document) -> Iterator[SealedPlace]:
    """Find the sealed field of an API key: the hash of its secret part, which opens for its alias alone."""
    place = f"{document.get('_id')};{document.get('alias')}"
    yield SealedPlace(document, "hashed", None, place, "hashed")


def add_key_check(document: Document) -> None:
    """Give a state with nothing to seal a text for it, unless the state was erased by this change."""
    record = document["outbox"][0]
    if record["kind"] == "erased" or "payloadRevision" in record:
        return  # in the second case, the payload in the stored document stays
    if not any(isinstance(document.get(name), str) for name in STATE_FIELDS):
        document[KEY_CHECK] = ""


def _state_key(document: Document) -> str:
    """Return the key of a state; its document has no id before it is written."""
    if "_id" in document:
        return str(document["_id"])
    flow, user, instance = (str(document.get(name)) for name in ("flowId", "userId", "instanceId"))
    return StateId(flow, user, instance if "instanceId" in document else None).key
