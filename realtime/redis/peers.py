"""The other workers, as their messages show them."""

import time
from collections.abc import Iterator

LOST_AFTER_SECONDS = 15.0
"""A worker without a message for this time counts as lost."""
FORGET_AFTER_SECONDS = 3600.0
"""A worker that was lost for this time does not return."""


class Peers:
    """Records the last message of each worker. A lost worker may be dead, or disconnected and return.

    Attributes:
        last_message_at: The time of each present worker's last message, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.last_message_at: dict[str, float] = {}
        self._lost: dict[str, float] = {}

    def record_message(self, worker: str) -> float | None:
        """Record a message. If the worker counted as lost, return the time of its message before that."""
        self.last_message_at[worker] = time.time()
        return self._lost.pop(worker, None)

    def forget(self, worker: str) -> None:
        """Forget a worker that announced its end."""
        self.last_message_at.pop(worker, None)
        self._lost.pop(worker, None)

    def restart_timers(self) -> None:
        """After our own outage, restart every peer's silence timer."""
        self.last_message_at = dict.fromkeys(self.last_message_at, time.time())

    def detect_lost(self) -> Iterator[tuple[str, float]]:
        """Mark silent workers as lost; yield each with the time of its last message."""
        for worker, received_at in list(self.last_message_at.items()):
            if time.time() - received_at > LOST_AFTER_SECONDS:
                self._lost[worker] = self.last_message_at.pop(worker)
                yield worker, received_at

    def forget_lost(self) -> Iterator[str]:
        """Forget and yield the workers that will not return."""
        for worker, received_at in list(self._lost.items()):
            if time.time() - received_at > FORGET_AFTER_SECONDS:
                del self._lost[worker]
                yield worker
