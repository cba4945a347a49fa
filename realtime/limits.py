"""What one client may do and cost."""

import time

EVENTS_PER_SECOND = 50.0
BURST = 250.0
"""So many events at once are taken from a client that was quiet: enough to subscribe to everything again."""
REFUSALS = 1000
"""A client that goes on although so many events were refused, and never pauses, is disconnected."""
SUBSCRIPTIONS = 200
"""Of one client, watched flows among them."""
WAITING_PACKETS = 1000
WAITING_BYTES = 4_000_000
"""What may wait for a client that reads slower than it is told."""
DEVICE_CHARACTERS = 64


class TokenBucket:
    """So many events a second, and a burst of them."""

    def __init__(self) -> None:
        self._left = BURST
        self._at = time.monotonic()
        self.refused = 0

    def take(self) -> float:
        """Take one; 0, or the seconds until there is one."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._at) * EVENTS_PER_SECOND)
        self._at = now
        if self._left < 1:
            self.refused += 1
            return (1 - self._left) / EVENTS_PER_SECOND
        if self._left == BURST:  # it was quiet for a while
            self.refused = 0
        self._left -= 1
        return 0.0
