"""A deadline for long computations.

The computation calls ``require_time`` between its parts; running code is not interrupted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf

_ends_at: ContextVar[float] = ContextVar("ends_at", default=inf)


class DeadlineExceededError(Exception):
    """The deadline has passed."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let ``require_time`` raise in this block after ``seconds``."""
    token = _ends_at.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends_at.reset(token)


def require_time() -> None:
    """Raise DeadlineExceededError when the deadline, if there is one, has passed."""
    if time.monotonic() > _ends_at.get():
        raise DeadlineExceededError
