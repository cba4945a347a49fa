"""Changes of a lane as expressions that the server evaluates on the document, in one atomic step.

So a filter is the ``_id`` alone: one command for many lanes, served by its index on every server. Texts are
literals, as MongoDB reads one that begins with a dollar sign as a field.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import json

from app.contracts.deliveries import DeliveryAttempt, Lane, LaneUpdate, Mark
from models.codec import Document
from models.integrations.places import (
    lane_id_from_key,
    next_time_text,
    position_from_text,
    position_text,
    time_from_text,
    time_text,
)

ENDED = ";ended;"
"""The beginning of ``due`` of a job that has ended, until it is removed. No alias begins like this."""

_Attempts = tuple[DeliveryAttempt, ...]
_REMOVE = "$$REMOVE"


def due_place(alias: str, at: datetime) -> str:
    """Return the beginning of ``due``; the key of the lane follows, so that narrow ranges can be read."""
    return f"{alias};{time_text(at)};"


def lane_to_document(lane: Lane) -> Document:
    """Return the document of a lane; absent values are left out."""
    key = lane.id.key
    document: Document = {
        "_id": key,
        "stateKey": lane.id.state_id.key,
        "since": lane.since,
        "newest": position_text(lane.newest),
    }
    if lane.cursor is not None:
        document["cursor"] = position_text(lane.cursor)
    if lane.end is not None:
        document["end"] = position_text(lane.end)
    if lane.letter is not None:
        document["letter"] = lane.letter
    if lane.holder:
        document["holder"] = lane.holder
    if lane.due_at is not None:
        document["due"] = due_place(lane.id.alias, lane.due_at) + key
    if lane.failures or lane.attempts:
        document |= {"failing": key, "failures": lane.failures, "attempts": attempts_text(lane.attempts)}
    return document


def lane_from_document(document: Document) -> Lane:
    """Return the lane of a document."""
    due = document.get("due", ENDED)
    return Lane(
        id=lane_id_from_key(document["_id"]),
        since=document["since"],
        newest=position_from_text(document["newest"]),
        cursor=position_from_text(document["cursor"]) if "cursor" in document else None,
        end=position_from_text(document["end"]) if "end" in document else None,
        letter=document.get("letter"),
        failures=document.get("failures", 0),
        attempts=attempts_from_text(document.get("attempts", "[]")),
        holder=document.get("holder", ""),
        due_at=None if due.startswith(ENDED) else time_from_text(due.split(";")[1]),
    )


def attempts_text(attempts: Sequence[DeliveryAttempt]) -> str:
    """Return attempts as JSON: one text, which may be sealed (models.document_codec)."""
    return json.encode(attempts).decode()


def attempts_from_text(text: str) -> tuple[DeliveryAttempt, ...]:
    """Return the attempts in a text."""
    return json.decode(text, type=_Attempts)


def waiting_place(mark: Mark, since: datetime) -> str:
    """Return the place of a state among those that wait at a step of an integration, oldest first."""
    return f"{mark.alias};{time_text(since)};{mark.state_id.key}"


def marked(mark: Mark, now: datetime) -> list[Document]:
    """Return the change by a mark, of a lane or of a document that has only its ``_id``."""
    newest = _literal(position_text(mark.position))
    is_newer = {"$lt": [{"$ifNull": ["$newest", ""]}, newest]}
    is_idle = {"$eq": [{"$ifNull": ["$due", ""]}, ""]}
    has_work = {"$lt": [{"$ifNull": ["$cursor", ""]}, newest]}
    waits: Any = _REMOVE if mark.waits_since is None else _literal(waiting_place(mark, mark.waits_since))
    if mark.stays and mark.waits_since is not None:
        waits = {"$ifNull": ["$waits", waits]}
    return _set(
        stateKey=_literal(mark.state_id.key),
        since={"$ifNull": ["$since", mark.since]},
        newest={"$cond": [is_newer, newest, "$newest"]},
        waits={"$cond": [is_newer, waits, "$waits"]},
        due={"$cond": [{"$and": [is_idle, has_work]}, _due(mark.alias, now), "$due"]},
    )


def claimed(alias: str, holder: str, now: datetime, until: datetime) -> list[Document]:
    """Return the change of lanes by a claim: of those that are due."""
    due = {"$ifNull": ["$due", ""]}
    is_due = {
        "$and": [{"$gte": [due, f"{alias};"]}, {"$lt": [due, f"{alias};{next_time_text(now)}"]}],
    }
    return _set(
        holder={"$cond": [is_due, _literal(holder), "$holder"]},
        due={"$cond": [is_due, _due(alias, until), "$due"]},
    )


def released(update: LaneUpdate, attempts: str, now: datetime) -> list[Document]:
    """Return the change of a lane by the result of its claim, unless another holder has it.

    Args:
        update: The result.
        attempts: Its attempts as they are stored.
        now: The time at which a lane is due that was marked meanwhile.
    """
    lane = update.lane
    alias = lane.id.alias
    is_failing = bool(update.failures or update.attempts)
    if update.due_at is not None:
        due: Any = _due(alias, update.due_at)
    elif lane.id.job:
        due = _literal(ENDED + lane.holder)
    else:
        is_done = {"$eq": ["$newest", _literal(position_text(lane.newest))]}
        due = {"$cond": [is_done, _REMOVE, _due(alias, now)]}
    after = {
        "cursor": _REMOVE if update.cursor is None else _literal(position_text(update.cursor)),
        "due": due,
        "holder": _REMOVE,
        "failing": "$_id" if is_failing else _REMOVE,
        "failures": update.failures if is_failing else _REMOVE,
        "attempts": _literal(attempts) if is_failing else _REMOVE,
    }
    is_held = {"$eq": ["$holder", _literal(lane.holder)]}
    return _set(**{name: {"$cond": [is_held, value, f"${name}"]} for name, value in after.items()})


def returned(alias: str, now: datetime) -> list[Document]:
    """Return the change of lanes that back off: they are due now."""
    due = {"$ifNull": ["$due", ""]}
    backs_off = {
        "$and": [
            {"$eq": [{"$ifNull": ["$holder", ""]}, ""]},
            {"$gte": [due, f"{alias};{next_time_text(now)}"]},
        ]
    }
    return _set(due={"$cond": [backs_off, _due(alias, now), "$due"]})


def _set(**fields: Any) -> list[Document]:
    return [{"$set": fields}]


def _literal(text: str) -> Document:
    return {"$literal": text}


def _due(alias: str, at: datetime) -> Document:
    return {"$concat": [_literal(due_place(alias, at)), "$_id"]}
