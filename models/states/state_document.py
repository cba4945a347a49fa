"""The whole document of a state: the state, its outbox and its remembered requests."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import structlog
from msgspec import UNSET

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.ports.states import REMEMBERED_REQUESTS, DamagedState, StoredState
from app.contracts.record import (
    HistoryRecord,
    RememberedRequest,
    payload_place,
    remembered_request,
    state_after,
)
from app.contracts.state import FlowState, StatePosition
from models.codec import (
    KEYLESS,
    Document,
    members_of,
    payload_place_from_document,
    payload_place_to_document,
    record_from_document,
    record_to_document,
    remembered_from_document,
    remembered_to_document,
    state_from_document,
    state_to_document,
    text_of,
)
from models.listing import listing_of

log = structlog.get_logger("store")

T = TypeVar("T")


def document_of(record: HistoryRecord, recent: Sequence[RememberedRequest] = ()) -> Document:
    """Return the whole document of a state that ``record`` makes, without ``_id``.

    Args:
        record: The record of a commit.
        recent: The requests that the document remembered before.
    """
    state = state_after(record)
    document = state_to_document(state)
    if any(each is not UNSET for each in (state.instance_id, state.participants, state.search_terms)):
        document |= listing_of(state)
    place = payload_place(record, None)
    if place is not None:
        document |= payload_place_to_document(place)
    document["head"] = record.hash if isinstance(record.hash, str) else ""
    document["outbox"] = [record_to_document(record)]
    request = remembered_request(record)
    remembered = [] if request is None else [remembered_to_document(request)]
    if recent:
        earlier = [remembered_to_document(request) for request in recent]
        remembered = [*earlier, *remembered][-REMEMBERED_REQUESTS:]
    document["recent"] = remembered
    return document


def stored_state(document: Document) -> StoredState:
    """Return the state in its document.

    Raises:
        FlowStateCorruptionError: A part of the document cannot be read.
    """
    return StoredState(
        state=state_from_document(document),
        pending=tuple(record_from_document(waiting) for waiting in members_of(document, "outbox")),
        recent=tuple(remembered_from_document(request) for request in members_of(document, "recent")),
        head=text_of(document, "head"),
        payload_at=payload_place_from_document(document),
        erased=KEYLESS in document,
    )


def stored_or_damaged(document: Document) -> StoredState | DamagedState:
    """Return the state in its document, or the readable parts of a damaged document."""
    try:
        return stored_state(document)
    except FlowStateCorruptionError as damage:
        return DamagedState(
            position=StatePosition(document["_id"], document.get("epoch"), document.get("revision")),
            reason=damage.details["reason"],
            state=readable(state_from_document)(document),
            head=head if isinstance(head := document.get("head"), str) else "",
            pending=tuple(_readable_members(record_from_document, document, "outbox")),
            recent=tuple(_readable_members(remembered_from_document, document, "recent")),
        )


def readable(decode: Callable[[Document], T]) -> Callable[[Document], T | None]:
    """Make a decoder that logs a damaged document and returns None for it.

    In a list, a damaged document must not hold up the others; loading it alone raises.
    """

    def decode_or_log(document: Document) -> T | None:
        try:
            return decode(document)
        except FlowStateCorruptionError as error:
            key, reason = document.get("_id"), error.details["reason"]
            log.error("damaged document", document=key, code=error.code, reason=reason)
            return None

    return decode_or_log


def present(values: Iterable[T | None]) -> list[T]:
    """Leave out the values that are None."""
    return [value for value in values if value is not None]


def _readable_members(decode: Callable[[Document], T], document: Document, name: str) -> list[T]:
    listed = document.get(name)
    if not isinstance(listed, list):
        return []
    return present(readable(decode)(member) for member in listed if isinstance(member, dict))


def existing(states: Iterable[FlowState | None]) -> list[FlowState]:
    """Leave out values that are None, and states that ended as their data key was destroyed."""
    return [state for state in states if state is not None and state.status != "cleared"]
