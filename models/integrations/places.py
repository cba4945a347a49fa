"""Texts that sort as their values do, for the fields by which deliveries are listed.

The planner of the embedded server uses an index for a range on one field alone (docs/decisions/0020), so a
list has one field with all that it is ordered by.
"""

from datetime import UTC, datetime, timedelta

from app.contracts.deliveries import LaneId, LanePosition
from app.contracts.state import id_from_key

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def time_text(moment: datetime) -> str:
    """Return a time in milliseconds, with 13 digits: up to the year 2286."""
    return f"{round((moment - _EPOCH) / _MILLISECOND):013d}"


def time_from_text(text: str) -> datetime:
    """Return the time of a text."""
    return _EPOCH + int(text) * _MILLISECOND


def next_time_text(moment: datetime) -> str:
    """Return the text of a time one millisecond later: the end of a range up to and with ``moment``."""
    return time_text(moment + _MILLISECOND)


def position_text(position: LanePosition) -> str:
    """Return a position as a text; epochs of a state have one length, as they are UUIDs."""
    return f"{position.epoch}:{position.revision:012d}"


def position_from_text(text: str) -> LanePosition:
    """Return the position of a text."""
    epoch, _, revision = text.rpartition(":")
    return LanePosition(epoch, int(revision))


def lane_id_from_key(key: str) -> LaneId:
    """Return the identity in the key of a lane."""
    alias, job, state_key = key.split(";", 2)
    return LaneId(alias, id_from_key(state_key), job)
