"""Turns values into document shapes and back. Field names in MongoDB are camelCase.

A payload is kept as JSON text: BSON has a meaning of its own for some shapes of JSON (``$ref``), and
none for others. A document that lost a field or changed a type raises FlowStateCorruptionError, not
a KeyError.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from msgspec import UNSET, DecodeError, convert, json, structs

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.record import (
    ERASABLE,
    ERASABLE_AFTER,
    HistoryRecord,
    PayloadPlace,
    RememberedRequest,
    as_stored,
)
from app.contracts.state import FlowState, Payload

Document = dict[str, Any]
T = TypeVar("T")

_STATE_FIELDS = {
    "flow": "flowId",
    "user_id": "userId",
    "version": "version",
    "epoch": "epoch",
    "revision": "revision",
    "status": "status",
    "step": "step",
    "service": "service",
    "ok": "ok",
    "created_at": "createdAt",
    "updated_at": "updatedAt",
    "previous": "previous",
    "undo_roles": "undoRoles",
    "entity_id": "entityId",
    "payload": "payload",
    "message": "message",
    "expires_at": "expiresAt",
    "pause_reason": "pauseReason",
    "timeout_at": "timeoutAt",
    "timeout_left_ms": "timeoutLeftMs",
    "expiry_left_ms": "expiryLeftMs",
}
_RECORD_FIELDS = {
    "id": "_id",
    "commit_id": "commitId",
    "flow_id": "flowId",
    "user_id": "userId",
    "epoch": "epoch",
    "revision": "revision",
    "version": "version",
    "kind": "kind",
    "transition": "transition",
    "from_step": "fromStep",
    "to_step": "toStep",
    "timestamp": "timestamp",
    "success": "success",
    "service": "service",
    "actor": "actor",
    "payload": "payload",
    "after": "after",
    "payload_revision": "payloadRevision",
    "error": "error",
    "request_id": "requestId",
    "digest": "digest",
    "client": "client",
    "duration_ms": "durationMs",
    "previous_hash": "previousHash",
    "commitment": "commitment",
    "salt": "salt",
    "hash_version": "hashVersion",
    "hash": "hash",
}
LAST_YEAR = 9000
"""Later times cannot be reckoned with: a deadline counted from them is no time."""
ERASED_FIELDS = (
    *(_RECORD_FIELDS[name] for name in (*ERASABLE, "salt")),
    *(f"after.{_STATE_FIELDS[name]}" for name in ERASABLE_AFTER),
)
"""The fields that an erasure removes from a record."""
PAYLOAD_PLACE_FIELDS = ("payloadRevision", "payloadSince")
OPTIONAL_STATE_FIELDS = tuple(
    _STATE_FIELDS[field.name]
    for field in structs.fields(FlowState)
    if field.default is UNSET and field.name in _STATE_FIELDS
)


def state_to_document(state: FlowState) -> Document:
    """The fields of a state document, without ``_id`` and ``outbox``; absent ones are left out."""
    document = {
        field: value for name, field in _STATE_FIELDS.items() if (value := getattr(state, name)) is not UNSET
    }
    if state.payload is not UNSET:
        document["payload"] = _text(state.payload)
    return document


def state_from_document(document: Mapping[str, Any]) -> FlowState:
    """The state that a document holds."""
    state = _read(document, _STATE_FIELDS, FlowState, document)
    if document["_id"] != f"{state.flow}:{state.user_id}":
        raise _unreadable(document, f"it says that it is {state.flow}:{state.user_id}")
    if state.revision < 0:
        raise _unreadable(document, f"its revision is {state.revision}")
    if state.updated_at.year > LAST_YEAR:
        raise _unreadable(document, f"it was changed in the year {state.updated_at.year}")
    return state


def record_to_document(record: HistoryRecord) -> Document:
    """A history document; absent fields are left out, and so is a payload that another record has."""
    record = as_stored(record)
    document: Document = {"stateId": f"{record.flow_id}:{record.user_id}"}
    for name, field in _RECORD_FIELDS.items():
        value = getattr(record, name)
        if value is UNSET:
            continue
        document[field] = value
    if record.after is not UNSET:
        document["after"] = state_to_document(record.after)
    if record.payload is not UNSET:
        document["payload"] = _text(record.payload)
    return document


def record_from_document(document: Mapping[str, Any]) -> HistoryRecord:
    """The record that a history document holds."""
    if "after" in document:
        after = _read(document["after"], _STATE_FIELDS, FlowState, document)
        document = {**document, "after": after}
    record = _read(document, _RECORD_FIELDS, HistoryRecord, document)
    made = record.after
    if made is UNSET:
        return record
    if record.payload_revision is not UNSET and made.payload is not UNSET:
        raise _unreadable(document, "it names the payload of another record, and has one")
    if (made.flow, made.user_id, made.epoch, made.revision) != (
        record.flow_id,
        record.user_id,
        record.epoch,
        record.revision,
    ):
        raise _unreadable(document, "its state is another one")
    return record


def payload_place_to_document(place: PayloadPlace) -> Document:
    """The fields of a state document that say which record has its payload."""
    return {"payloadRevision": place.revision, "payloadSince": place.since}


def payload_place_from_document(document: Mapping[str, Any]) -> PayloadPlace | None:
    """Which record has the payload of a state. None if the document does not say it: the next record repeats
    the payload."""
    revision, since = document.get("payloadRevision"), document.get("payloadSince")
    if type(revision) is not int or not isinstance(since, datetime) or "payload" not in document:
        return None
    return PayloadPlace(revision, since)


def remembered_to_document(request: RememberedRequest) -> Document:
    """A remembered request, in short names: every read of a state carries them."""
    return {
        "k": request.request,
        "d": request.digest,
        "e": request.epoch,
        "r": request.revision,
        "t": request.at,
    }


def remembered_from_document(document: Mapping[str, Any]) -> RememberedRequest:
    """A remembered request. Every read of a state reads these, so that only the type that is reckoned
    with is checked."""
    try:
        found = RememberedRequest(document["k"], document["d"], document["e"], document["r"], document["t"])
    except KeyError as refusal:
        raise _unreadable({}, f"a remembered request lacks {refusal}") from None
    if not isinstance(found.at, datetime):
        raise _unreadable({}, "a remembered request has no time")
    return found


def members_of(document: Mapping[str, Any], name: str) -> list[Document]:
    """The documents in a list of a document; none when it has no such list."""
    listed = document.get(name, [])
    if not isinstance(listed, list) or not all(isinstance(member, dict) for member in listed):
        raise _unreadable(document, f"its {name} is no list of documents")
    return listed


def text_of(document: Mapping[str, Any], name: str) -> str:
    """A text of a document, "" when it has none."""
    value = document.get(name, "")
    if not isinstance(value, str):
        raise _unreadable(document, f"its {name} is no text")
    return value


def _text(payload: Payload) -> str:
    return json.encode(payload).decode()


def _read(source: Any, fields: Mapping[str, str], shape: type[T], owner: Mapping[str, Any]) -> T:
    try:
        present = {name: source[field] for name, field in fields.items() if field in source}
        if "payload" in present:
            present["payload"] = json.decode(present["payload"])
        return convert(present, shape)
    except (DecodeError, TypeError) as refusal:
        raise _unreadable(owner, str(refusal).split(" - at", maxsplit=1)[0]) from None


def _unreadable(owner: Mapping[str, Any], why: str) -> FlowStateCorruptionError:
    user, flow = str(owner.get("userId", "?")), str(owner.get("flowId", "?"))
    return FlowStateCorruptionError(user, flow, f"the stored document cannot be read ({why})")
