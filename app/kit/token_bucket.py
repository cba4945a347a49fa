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

    @property
    def burst(self) -> float:
        """The tokens of a full bucket."""
        return self._burst

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

    def wait_seconds(self) -> float:
        """Return the seconds until there is a token, 0 if there is one."""
        self._fill()
        return max(0.0, (1 - self._left) / self._rate)

    @property
    def missing(self) -> float:
        """The tokens that are missing until the bucket is full; more than ``burst`` if it is in debt."""
        self._fill()
        return self._burst - self._left

    @property
    def used_share(self) -> float:
        """The missing tokens as a share of all."""
        return self.missing / self._burst

    def set_missing(self, tokens: float) -> None:
        """Set the missing tokens, if others take from the same bucket."""
        self._fill()
        self._left = min(self._burst, self._burst - tokens)

    @property
    def full(self) -> bool:
        """True if no token is missing."""
        self._fill()
        return self._left == self._burst

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
