"""What one client may do and cost."""

import time

EVENTS_PER_SECOND = 50.0
BURST = 250.0
"""So many events at once are taken from a client that was quiet: enough to subscribe to everything again."""
OF_A_SERVICE = 20.0
"""So many times as much may a client send that acts for many users."""
REFUSALS = 1000
"""A client that goes on although so many events were refused, and never pauses, is disconnected."""
CONNECTS = 5
"""Of one connection: a client may try another token."""
CONNECTIONS_OF_A_USER = 100
"""On one worker."""
SUBSCRIPTIONS = 200
"""Of one client, watched flows among them."""
WAITING_PACKETS = 1000
WAITING_BYTES = 4_000_000
"""What may wait for a client that reads slower than it is told."""
DEVICE_CHARACTERS = 64


class TokenBucket:
    """So many events a second, and a burst of them; ``share`` times what a user's client may send."""

    def __init__(self, share: float = 1.0) -> None:
        self._rate = EVENTS_PER_SECOND * share
        self._burst = BURST * share
        self._left = self._burst
        self._at = time.monotonic()
        self.refused = 0

    def take(self) -> float:
        """Take one; 0, or the seconds until there is one."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            self.refused += 1
            return (1 - self._left) / self._rate
        if self._left == self._burst:  # it was quiet for a while
            self.refused = 0
        self._left -= 1
        return 0.0
