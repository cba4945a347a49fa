"""The use of rate budgets in memory."""

import time
from collections.abc import Callable, Mapping

from app.contracts.errors import BusUnavailableError
from app.contracts.ports.rate_limits import RateKey

MAX_USE_SECONDS = 120


class FakeRateCounters:
    """The RateCounters port without Redis; several workers may share one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[RateKey, float] = {}
        self.available = True
        self.reports: list[dict[RateKey, int]] = []

    async def add(self, requests: Mapping[RateKey, int]) -> Mapping[RateKey, float]:
        if not self.available:
            raise BusUnavailableError
        self.reports.append(dict(requests))
        now = self._clock()
        uses = {}
        for key, count in requests.items():
            full_at = max(self._full_at.get(key, now), now) + count * 60 / key.per_minute
            self._full_at[key] = min(full_at, now + MAX_USE_SECONDS)
            uses[key] = (self._full_at[key] - now) * key.per_minute / 60
        return uses
