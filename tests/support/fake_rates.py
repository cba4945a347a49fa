"""The use of rate budgets in memory."""

import time
from collections.abc import Callable, Mapping

from app.contracts.errors import BusUnavailableError
from app.contracts.ports.rate_limits import CountedRequests, RateKey

MAX_USE_SECONDS = 120
MAX_SPAN_SECONDS = 60


class FakeRateCounters:
    """The RateCounters port without Redis; several workers may share one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[RateKey, float] = {}
        self.available = True
        self.reports: list[dict[RateKey, CountedRequests]] = []

    async def add(self, requests: Mapping[RateKey, CountedRequests]) -> Mapping[RateKey, float]:
        if not self.available:
            raise BusUnavailableError
        self.reports.append(dict(requests))
        now = self._clock()
        uses = {}
        for key, counted in requests.items():
            if counted.count:
                begin = now - min(counted.seconds, MAX_SPAN_SECONDS)
                full_at = max(self._full_at.get(key, begin), begin) + counted.count * 60 / key.per_minute
                self._full_at[key] = min(full_at, now + MAX_USE_SECONDS)
            uses[key] = max(0.0, self._full_at.get(key, now) - now) * key.per_minute / 60
        return uses
