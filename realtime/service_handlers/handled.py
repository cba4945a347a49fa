"""Events that were handled, with their answers."""

from collections import OrderedDict
from typing import Any, Protocol

from msgspec import Struct

MAX_RECENT = 10_000


class Transition(Struct, frozen=True):
    """The answer of a handler: a transition of the step, and the payload with which it runs."""

    name: str
    payload: dict[str, Any] | None = None


class Handled(Struct, frozen=True):
    """The result of a handled event: the answer to it, None if the handler gave none."""

    answer: Transition | None


class HandledEvents(Protocol):
    """A store of handled events. With a durable one, a handler runs once also over restarts."""

    async def get(self, event_id: str) -> Handled | None:
        """Return the result of an event, None if it was not handled."""

    async def put(self, event_id: str, handled: Handled) -> None:
        """Store the result of an event."""


class RecentEvents:
    """The last handled events, in memory."""

    def __init__(self, limit: int = MAX_RECENT) -> None:
        self._limit = limit
        self._events: OrderedDict[str, Handled] = OrderedDict()

    async def get(self, event_id: str) -> Handled | None:
        """Return the result of an event, None if it was not handled or too many were handled since."""
        return self._events.get(event_id)

    async def put(self, event_id: str, handled: Handled) -> None:
        """Store the result of an event."""
        self._events[event_id] = handled
        self._events.move_to_end(event_id)
        if len(self._events) > self._limit:
            self._events.popitem(last=False)
