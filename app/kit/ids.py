"""Identifiers that sort by time."""

from uuid import UUID

from uuid_utils import uuid7


def new_id() -> str:
    """Create an identifier: UUID version 7, so that later ones sort after earlier ones."""
    return str(uuid7())


def later_id(last: str, fresh: str) -> str:
    """Return ``fresh``, or an identifier that sorts after ``last`` if this worker's clock is behind."""
    try:
        return fresh if fresh > last else str(UUID(int=UUID(last).int + 1))
    except ValueError:
        return fresh
