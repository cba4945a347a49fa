"""Identifiers that sort by time."""

import secrets
import time
from uuid import UUID

from uuid_utils import uuid7

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 32
_STEP_BITS = 16
_last_short_id = 0


def new_id() -> str:
    """Create an identifier: UUID version 7, so that later ones sort after earlier ones."""
    return str(uuid7())


def new_short_id() -> str:
    """Create an identifier of 16 letters and digits, safe in an address, that sorts by time.

    They are the milliseconds since 1970 and 32 random bits, in the base 32 of Crockford. Within a process
    later ones sort after earlier ones.
    """
    global _last_short_id  # noqa: PLW0603 - so that ids of one millisecond differ and sort
    fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    _last_short_id = max(fresh, _last_short_id + 1 + secrets.randbits(_STEP_BITS))
    return "".join(_ALPHABET[_last_short_id >> shift & 31] for shift in range(75, -1, -5))


def later_id(last: str, fresh: str) -> str:
    """Return ``fresh``, or an identifier that sorts after ``last`` if this worker's clock is behind."""
    try:
        return fresh if fresh > last else str(UUID(int=UUID(last).int + 1))
    except ValueError:
        return fresh
