"""Budgets of requests: counted in this process, and shared with the other workers in the background."""

import asyncio
import math
import time
from collections.abc import Callable

import structlog

from app.contracts.errors import BusUnavailableError, RateLimitedError
from app.contracts.ports.rate_limits import CountedRequests, RateCounters, RateKey
from app.kit.token_bucket import TokenBucket

log = structlog.get_logger("rates")

MAX_BUDGETS = 20_000
"""Budgets in the memory of a worker. Beyond them those are dropped that have been used least."""
MAX_REPORTED = 2_000
"""Budgets in one report; the others follow in the next one."""
MIN_REPORTED_SHARE = 0.01
"""The unreported part of a budget that is due for a report. Users who send little cost few reports."""
MAX_SPAN_SECONDS = 60.0
"""The time in which a budget is regained: of a longer one, a part of the requests is reported."""
MIN_WATCHED_SHARE = 0.5
"""The use of a budget from which on each second is reported."""
REPORT_SECONDS = 1.0


class _Budget(TokenBucket):
    """The budget of one key, as this worker knows it."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        super().__init__(per_minute / 60, per_minute, clock)
        self.unreported = 0
        """Requests since the last report."""
        self.since = 0.0
        """The time of the first of them."""

    def count_unreported(self, now: float) -> CountedRequests:
        """Return the unreported requests, and count them as reported."""
        count, seconds = self.unreported, now - self.since
        self.unreported = 0
        if not count:
            return CountedRequests(0)
        if seconds > MAX_SPAN_SECONDS:  # after an outage, or a user who sends little
            return CountedRequests(math.ceil(count * MAX_SPAN_SECONDS / seconds), MAX_SPAN_SECONDS)
        return CountedRequests(count, seconds)

    @property
    def is_due(self) -> bool:
        """True if the use is to be reported now."""
        is_large = self.unreported >= MIN_REPORTED_SHARE * self.burst
        return is_large or self.used_share >= MIN_WATCHED_SHARE


class SharedBudgets:
    """Counts requests without waiting for anything.

    Each second the budgets that were used are reported, and their use by other workers is learnt. A limit is
    exact with one worker. With several, requests of the last second may exceed it; the budget pays for them
    later, so that the rate over a longer time is exact. Without Redis each worker counts alone.
    """

    def __init__(self, counters: RateCounters, clock: Callable[[], float] = time.monotonic) -> None:
        self._counters = counters
        self._clock = clock
        self._budgets: dict[RateKey, _Budget] = {}
        self._used: dict[RateKey, None] = {}
        """Budgets that were requested since the last report, those without success among them."""

    def __len__(self) -> int:
        """Return the number of budgets in memory."""
        return len(self._budgets)

    def take(self, key: RateKey) -> float:
        """Count a request. Returns 0, or the seconds to wait if it is one too many, and is not counted."""
        budget = self._budgets.get(key)
        if budget is None:
            if len(self._budgets) >= MAX_BUDGETS:
                self._drop_least_used()
            budget = self._budgets[key] = _Budget(key.per_minute, self._clock)
        self._used[key] = None
        seconds = budget.take()
        if not seconds:
            if not budget.unreported:
                budget.since = self._clock()
            budget.unreported += 1
        return seconds

    def require(self, key: RateKey, refusal: str) -> None:
        """Count a request, or raise RateLimitedError with the text and the limit."""
        seconds = self.take(key)
        if seconds:
            raise RateLimitedError(refusal, seconds, policy=(key.subject, key.per_minute))

    def check(self, key: RateKey, refusal: str) -> None:
        """Raise RateLimitedError if the budget is used up; nothing is counted."""
        budget = self._budgets.get(key)
        seconds = 0.0 if budget is None else budget.wait_seconds()
        if seconds:
            raise RateLimitedError(refusal, seconds, policy=(key.subject, key.per_minute))

    async def run(self) -> None:
        """Report each second, for ever."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self.report()

    async def report(self) -> None:
        """Report the budgets that were used since the last report, and learn their use by all workers."""
        keys = list(self._used)[:MAX_REPORTED]
        requests, now = {}, self._clock()
        for key in keys:
            del self._used[key]
            budget = self._budgets.get(key)
            if budget is not None and budget.is_due:
                requests[key] = budget.count_unreported(now)
        if not requests:
            return
        try:
            uses = await self._counters.add(requests)
        except BusUnavailableError:  # the bus logs it
            for key, counted in requests.items():
                budget = self._budgets.get(key)
                if budget is not None and counted.count:
                    budget.unreported += counted.count
                    budget.since = now - counted.seconds
                    self._used[key] = None
            return
        for key, use in uses.items():
            budget = self._budgets.get(key)
            if budget is not None:
                budget.set_missing(max(budget.missing, use + budget.unreported))

    def _drop_least_used(self) -> None:
        """Drop half of the budgets: full ones, which carry no information, then those with the least use.

        Whoever sends from many addresses so gets no budget dropped that is nearly used up.
        """
        by_use = sorted(self._budgets.items(), key=lambda item: item[1].used_share, reverse=True)
        self._budgets = {key: budget for key, budget in by_use[: MAX_BUDGETS // 2] if not budget.full}
        self._used = {key: None for key in self._used if key in self._budgets}
