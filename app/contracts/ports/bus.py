"""The port of the event bus."""

from collections.abc import Callable, Sequence
from typing import Protocol

from app.contracts.events import Event, Gap, Topic


class EventBus(Protocol):
    """Publishes events to all workers, including this one.

    Delivery is not guaranteed, but a worker that may have missed events is notified (``on_gap``).
    """

    @property
    def worker(self) -> str:
        """The id of this worker."""

    @property
    def worker_count(self) -> int:
        """The number of workers, with this one, from which messages arrived lately."""

    async def publish(self, events: Sequence[Event]) -> int:
        """Publish events in order to the subscribers of their topics.

        Returns:
            The smallest number of workers that received any one of them.

        Raises:
            BusUnavailableError: Redis is unavailable. The subscribers that missed events are notified of the
                gap once it is available again.
        """

    async def follow(self, topic: Topic) -> None:
        """Subscribe to a topic. Returns once this worker receives its events.

        If Redis is unavailable it returns as well: the subscription begins as soon as Redis is available
        again, with a gap. The topic EVERYONE needs no subscription.
        """

    def unfollow(self, topic: Topic) -> None:
        """Undo one ``follow``, also one that was cancelled."""

    def subscribe(self, handler: Callable[[Topic, Event], None]) -> None:
        """Call ``handler`` for every event received from now on, once for each of its topics."""

    def on_gap(self, handler: Callable[[Gap], None]) -> None:
        """Call ``handler`` for every gap, once events are received again."""

    def on_worker_lost(self, handler: Callable[[str], None]) -> None:
        """Call ``handler`` with the id of every worker that stopped, or sent nothing for a long time."""
