"""Changes of a lane as expressions that the server evaluates on the document, in one atomic step.

So a filter is the ``_id`` alone: one command for many lanes, served by its index on every server. Texts are
literals, as MongoDB reads one that begins with a dollar sign as a field.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import json

from app.contracts.deliveries import DeliveryAttempt, Lane, LaneId, LaneUpdate, Mark
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
        attempts=attempts_from_text(document.get("attempts")),
        holder=document.get("holder", ""),
        due_at=None if due.startswith(ENDED) else time_from_text(due.split(";")[1]),
    )


def attempts_text(attempts: Sequence[DeliveryAttempt]) -> str:
    """Return attempts as JSON: one text, which may be sealed (models.document_codec)."""
    return json.encode(attempts).decode()


def attempts_from_text(text: Any) -> tuple[DeliveryAttempt, ...]:
    """Return the attempts in a text; none if it is sealed and cannot be opened, as they only explain."""
    return json.decode(text, type=_Attempts) if isinstance(text, str) else ()


def waiting_place(mark: Mark, since: datetime) -> str:
    """Return the place of a state among those that wait at a step of an integration, oldest first."""
    return f"{mark.alias};{time_text(since)};{mark.state_id.key}"


def new_lane(mark: Mark, now: datetime) -> Document:
    """Return the document of a lane that a mark creates."""
    lane_id = LaneId(mark.alias, mark.state_id)
    lane = Lane(id=lane_id, since=mark.since, newest=mark.position, due_at=now)
    waits = {} if mark.waits_since is None else {"waits": waiting_place(mark, mark.waits_since)}
    return lane_to_document(lane) | waits


def marked(marks: Mapping[str, Mark], now: datetime) -> list[Document]:
    """Return the change of lanes by marks, which are by key."""
    changes: dict[str, Document] = {}
    for key, mark in marks.items():
        since = mark.waits_since
        changes[key] = {
            "newest": position_text(mark.position),
            "due": due_place(mark.alias, now) + key,
            "stays": mark.stays and since is not None,
            **({} if since is None else {"waits": waiting_place(mark, since)}),
        }
    is_newer = {"$lt": ["$newest", "$change.newest"]}
    is_idle = {"$eq": [{"$ifNull": ["$due", ""]}, ""]}
    has_work = {"$lt": [{"$ifNull": ["$cursor", ""]}, "$change.newest"]}
    waits = {"$cond": ["$change.stays", {"$ifNull": ["$waits", "$change.waits"]}, "$change.waits"]}
    return _each(
        changes,
        newest={"$cond": [is_newer, "$change.newest", "$newest"]},
        waits={"$cond": [is_newer, waits, "$waits"]},
        due={"$cond": [{"$and": [is_idle, has_work]}, "$change.due", "$due"]},
        expiresAt={"$cond": [is_newer, _REMOVE, "$expiresAt"]},
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


def released(
    updates: Iterable[tuple[LaneUpdate, str | bytes]], now: datetime, expires_at: datetime | None = None
) -> list[Document]:
    """Return the change of lanes by the results of their claims, except of those that another holder has.

    Args:
        updates: The results, each with its attempts as they are stored.
        now: The time at which lanes are due that were marked meanwhile.
        expires_at: The end of lanes that have no more work, and whose states do not wait; None: they have
            none.
    """
    changes = {update.lane.id.key: _result(update, attempts, now) for update, attempts in updates}
    is_done = {"$eq": ["$newest", "$change.newest"]}
    after = {
        "due": {"$ifNull": ["$change.due", {"$cond": [is_done, _REMOVE, "$change.again"]}]},
        "holder": _REMOVE,
        **{name: f"$change.{name}" for name in ("cursor", "failing", "failures", "attempts")},
    }
    if expires_at is not None:
        unset = [{"$eq": [{"$ifNull": [name, ""]}, ""]} for name in ("$change.due", "$waits")]
        after["expiresAt"] = {"$cond": [{"$and": [is_done, *unset]}, {"$literal": expires_at}, _REMOVE]}
    is_held = {"$eq": ["$holder", "$change.holder"]}
    return _each(changes, **{name: {"$cond": [is_held, value, f"${name}"]} for name, value in after.items()})


def _result(update: LaneUpdate, attempts: str | bytes, now: datetime) -> Document:
    """Return the values of a result; a field without one is removed."""
    lane, key = update.lane, update.lane.id.key
    result: Document = {
        "holder": lane.holder,
        "newest": position_text(lane.newest),
        "again": due_place(lane.id.alias, now) + key,
    }
    if update.due_at is not None:
        result["due"] = due_place(lane.id.alias, update.due_at) + key
    elif lane.id.job:
        result["due"] = ENDED + lane.holder
    if update.cursor is not None:
        result["cursor"] = position_text(update.cursor)
    if update.failures or update.attempts:
        result |= {"failing": key, "failures": update.failures, "attempts": attempts}
    return result


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


def _each(changes: Mapping[str, Document], **fields: Any) -> list[Document]:
    """Return stages that set fields of documents by ``$change``, the own values of each one.

    One statement for many documents: the embedded server writes its log to the disk after each statement.
    """
    own = {"$indexOfArray": [{"$literal": list(changes)}, "$_id"]}
    change = {"$arrayElemAt": [{"$literal": list(changes.values())}, own]}
    return [*_set(change=change), *_set(**fields, change=_REMOVE)]


def _literal(text: str) -> Document:
    return {"$literal": text}


def _due(alias: str, at: datetime) -> Document:
    return {"$concat": [_literal(due_place(alias, at)), "$_id"]}
