"""Background jobs as values."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from msgspec import Struct


class Job(Struct, frozen=True):
    """A piece of work beside the requests.

    ``every`` is the time from one beginning to the next; after longer work the next begins at once. ``None``:
    ``work`` runs until it is cancelled. ``leased``: only the worker that has the lease does it; every worker
    does any other job. Two workers that both believe to have the lease must do no harm.
    """

    name: str
    every: timedelta | None
    leased: bool
    work: Callable[[], Awaitable[None]]
