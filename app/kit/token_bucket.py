"""A rate limit that allows bursts."""

import time
from collections.abc import Callable


class TokenBucket:
    """A bucket that gains ``rate`` tokens a second, up to ``burst``. It starts full."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()
        self.refused = 0
        """Number of refusals since the bucket was last full."""

    def take(self) -> float:
        """Take one token. Returns 0, or the seconds until there is one."""
        self._fill()
        if self._left < 1:
            self.refused += 1
            return (1 - self._left) / self._rate
        if self._left == self._burst:  # it was quiet for a while
            self.refused = 0
        self._left -= 1
        return 0.0

    @property
    def full(self) -> bool:
        """True if no token is missing."""
        self._fill()
        return self._left == self._burst

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
