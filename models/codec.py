"""Converts values to documents and back. Field names in MongoDB are camelCase.

A payload is stored as JSON text, because some shapes of JSON have a special meaning in BSON (``$ref``), and
others have none. A document that lost a field or has a field of another type raises FlowStateCorruptionError,
not a KeyError.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

from msgspec import UNSET, DecodeError, Struct, convert, json, structs, to_builtins

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.pseudonyms import NAMING, named_people
from app.contracts.record import (
    ERASABLE,
    ERASABLE_AFTER,
    HistoryRecord,
    MergedField,
    PayloadPlace,
    RememberedRequest,
    as_stored,
)
from app.contracts.state import NOT_STORED, FlowState, Payload
from app.kit.casing import camel_case

Document = dict[str, Any]
T = TypeVar("T")

_RENAMED: dict[type[Struct], dict[str, str]] = {FlowState: {"flow": "flowId"}, HistoryRecord: {"id": "_id"}}
"""Members that a document has under another name than their own in camelCase."""


def document_fields(shape: type[Struct]) -> dict[str, str]:
    """List the stored members of a struct.

    Returns:
        The name in a document of each member, by its name in the struct.
    """
    renamed = _RENAMED[shape]
    names = [name for name in shape.__struct_fields__ if name not in NOT_STORED]
    return {name: renamed.get(name) or camel_case(name) for name in names}


_STATE_FIELDS = document_fields(FlowState)
_RECORD_FIELDS = document_fields(HistoryRecord)
_STATE_NAMES = tuple(_STATE_FIELDS.values())
_RECORD_NAMES = ("stateId", *_RECORD_FIELDS.values())
_NESTED = (*NAMING, "people")
"""Members of a state that are lists of structs; they have the same names in documents."""
_state_members = attrgetter(*_STATE_FIELDS)
_record_members = attrgetter(*_RECORD_FIELDS)

PAYLOAD_TEXTS = ("payload", "merged")
"""Members of states and records with data that users entered, stored as JSON text."""
KEYLESS = "$keyless"
"""Set in an opened document if a data key of its texts was destroyed; no stored field has this name."""
MAX_YEAR = 9000
"""Dates past this year overflow deadline arithmetic, so treat them as corruption."""
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


class DamagedText(bytes):
    """A sealed text that a cipher could not open."""


REFUSED_CLEAR = DamagedText(b"\xff")
"""In the place of a text in the clear, where only sealed ones are read; no JSON."""


def state_to_document(state: FlowState) -> Document:
    """Return the fields of a state document, without ``_id`` and ``outbox``; absent ones are left out."""
    pairs = zip(_STATE_NAMES, _state_members(state))  # noqa: B905 - as long, and strict costs time
    document = {name: value for name, value in pairs if value is not UNSET}
    if state.payload is not UNSET:
        document["payload"] = _payload_text(state.payload)
    for name in _NESTED:
        if name in document:
            document[name] = to_builtins(list(document[name]), builtin_types=(datetime,))
    return document


def state_from_document(document: Mapping[str, Any]) -> FlowState:
    """Return the state that a document holds.

    Raises:
        FlowStateCorruptionError: A field is missing or has another type, or the document contradicts itself.
    """
    state = _decode_state(document, document)
    if document["_id"] != state.key:
        raise _unreadable(document, f"its fields are of {state.key}")
    if state.revision < 0:
        raise _unreadable(document, f"its revision is {state.revision}")
    if state.updated_at.year > MAX_YEAR:
        raise _unreadable(document, f"it was changed in the year {state.updated_at.year}")
    if document.get(KEYLESS):  # its data key was destroyed: for readers it ended with the erasure
        return structs.replace(state, status="cleared")
    return state


def record_to_document(record: HistoryRecord) -> Document:
    """Return a history document; absent fields are left out, and so is a payload that another record has.

    ``named`` has the ids that an erasure can replace (app.contracts.pseudonyms).
    """
    record = as_stored(record)
    values = (record.state_key, *_record_members(record))
    pairs = zip(_RECORD_NAMES, values)  # noqa: B905 - as long, and strict costs time
    document = {name: value for name, value in pairs if value is not UNSET}
    if record.after is not UNSET:
        document["after"] = state_to_document(record.after)
    if record.payload is not UNSET:
        document["payload"] = _payload_text(record.payload)
    if record.merged is not UNSET:
        document["merged"] = _payload_text(record.merged)
    if record.actor_salt is not UNSET or (record.after is not UNSET and record.after.people is not UNSET):
        named = named_people(record)
        if named:
            document["named"] = named
    return document


def record_from_document(document: Mapping[str, Any]) -> HistoryRecord:
    """Return the record that a history document holds.

    Raises:
        FlowStateCorruptionError: A field is missing or has another type, or the document contradicts itself.
    """
    if "after" in document:
        document = {**document, "after": _decode_state(document["after"], document)}
    record = _decode_struct(document, _RECORD_FIELDS, HistoryRecord, document)
    made = record.after
    if made is UNSET:
        return record
    if record.payload_revision is not UNSET and made.payload is not UNSET:
        raise _unreadable(document, "it names the payload of another record, and has one")
    if (made.flow, made.user_id, made.instance_id, made.epoch, made.revision) != (
        record.flow_id,
        record.user_id,
        record.instance_id,
        record.epoch,
        record.revision,
    ):
        raise _unreadable(document, "its state is another one")
    return record


def payload_place_to_document(place: PayloadPlace) -> Document:
    """Return the fields of a state document that name the record with its payload."""
    return {"payloadRevision": place.revision, "payloadSince": place.since}


def payload_place_from_document(document: Mapping[str, Any]) -> PayloadPlace | None:
    """Return the place of a state's payload.

    None if the document does not name the record; the next record then repeats the payload.
    """
    revision, since = document.get("payloadRevision"), document.get("payloadSince")
    if type(revision) is not int or not isinstance(since, datetime) or "payload" not in document:
        return None
    return PayloadPlace(revision, since)


def remembered_to_document(request: RememberedRequest) -> Document:
    """Return a remembered request, with short names because every read of a state carries them."""
    return {
        "k": request.request,
        "d": request.digest,
        "e": request.epoch,
        "r": request.revision,
        "t": request.at,
    }


def remembered_from_document(document: Mapping[str, Any]) -> RememberedRequest:
    """Return a remembered request.

    Every read of a state decodes these, so only the type that is calculated with is checked.

    Raises:
        FlowStateCorruptionError: A field is missing, or the time has another type.
    """
    try:
        found = RememberedRequest(document["k"], document["d"], document["e"], document["r"], document["t"])
    except KeyError as refusal:
        raise _unreadable({}, f"a remembered request lacks {refusal}") from None
    if not isinstance(found.at, datetime):
        raise _unreadable({}, "a remembered request has no time")
    return found


def members_of(document: Mapping[str, Any], name: str) -> list[Document]:
    """Return the documents in a list of a document; none if there is no such list."""
    listed = document.get(name, [])
    if not isinstance(listed, list) or not all(isinstance(member, dict) for member in listed):
        raise _unreadable(document, f"its {name} is no list of documents")
    return listed


def text_of(document: Mapping[str, Any], name: str) -> str:
    """Return a text of a document; "" if there is none."""
    value = document.get(name, "")
    if not isinstance(value, str):
        raise _unreadable(document, f"its {name} is no text")
    return value


def _payload_text(payload: Payload | Sequence[MergedField]) -> str:
    return json.encode(payload).decode()


def _decode_struct(source: Any, fields: Mapping[str, str], shape: type[T], owner: Mapping[str, Any]) -> T:
    try:
        present = {name: source[field] for name, field in fields.items() if field in source}
        for name in PAYLOAD_TEXTS:
            if name in present:
                if not isinstance(present[name], str):  # json.decode also reads bytes
                    raise TypeError(f"its {name} is no text")
                present[name] = json.decode(present[name])
        return convert(present, shape)
    except (DecodeError, TypeError) as refusal:
        raise _unreadable(
            owner, _sealed_fault(source) or str(refusal).split(" - at", maxsplit=1)[0]
        ) from None


def _sealed_fault(source: Any) -> str | None:
    """Return why a document with a sealed text cannot be read; None if it has none."""
    for field, value in source.items() if isinstance(source, Mapping) else ():
        if value is REFUSED_CLEAR:
            return f"its {field} is not encrypted, and only encrypted data is read (FLOW_ENCRYPTION_REQUIRED)"
        if isinstance(value, DamagedText):
            return f"its {field} is encrypted, and was changed or its data key is missing"
        if isinstance(value, bytes):
            return f"its {field} is encrypted, and the service has no encryption key (FLOW_ENCRYPTION_KEYS)"
    return None


def _decode_state(source: Any, owner: Mapping[str, Any]) -> FlowState:
    state = _decode_struct(source, _STATE_FIELDS, FlowState, owner)
    if state.participants is not UNSET:
        for entry in state.participants:
            if (entry.user_id is UNSET) == (entry.group is UNSET):
                raise _unreadable(owner, f"a participant with the role {entry.role} is no user and no group")
    if state.claims is not UNSET and any(claim.until.year > MAX_YEAR for claim in state.claims):
        raise _unreadable(owner, f"a claim ends after the year {MAX_YEAR}")
    return state


def _unreadable(owner: Mapping[str, Any], why: str) -> FlowStateCorruptionError:
    user, flow = str(owner.get("userId", "?")), str(owner.get("flowId", "?"))
    return FlowStateCorruptionError(user, flow, f"the stored document cannot be read ({why})")
