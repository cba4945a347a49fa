"""The port of the event bus."""

from collections.abc import Callable, Sequence
from typing import Protocol

from app.contracts.events import Event, Gap, Topic


class EventBus(Protocol):
    """Tells all workers of events, this one included. Delivery is not guaranteed, but a worker that may
    have missed events is told so (``on_gap``)."""

    @property
    def worker(self) -> str:
        """The id of this worker."""

    async def publish(self, events: Sequence[Event]) -> int:
        """Send events, in order, each to those who follow a topic of its; how many workers heard the one
        that the fewest heard. Raises BusUnavailableError; those who missed them are told of the gap
        once Redis answers again."""

    async def follow(self, topic: Topic) -> None:
        """Hear of a topic from now on. Returns once this worker does, or when Redis is away: it does then
        as soon as Redis answers, and is told of the gap. What concerns everyone is always heard."""

    def unfollow(self, topic: Topic) -> None:
        """The opposite of one ``follow``, also of one that was cut off."""

    def subscribe(self, handler: Callable[[Topic, Event], None]) -> None:
        """Call ``handler`` for every event heard from now on, once for each topic by which it is."""

    def on_gap(self, handler: Callable[[Gap], None]) -> None:
        """Call ``handler`` each time that events may have been missed, once events are heard again."""

    def on_gone(self, handler: Callable[[str], None]) -> None:
        """Call ``handler`` with the id of every worker that ended, or was not heard of for long."""


class BusUnavailableError(Exception):
    """Redis does not answer."""
