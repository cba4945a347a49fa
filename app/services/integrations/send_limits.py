"""Bounds of webhook requests: a fair share of a worker's senders, and the rate of an integration."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.ports.integrations import IntegrationStore

MAX_SENDS = 64
"""The largest number of webhook requests of a worker at a time."""


class ClosingError(Exception):
    """The worker ends: no request begins any more."""


class SendLimits:
    """The senders of a worker, shared by all integrations.

    An integration gets another sender only while it has fewer than are free. So one alone gets half of
    them, two a third each, and a few are always free: a slow receiver never costs the others theirs.
    Those that wait are served in turn.
    """

    def __init__(self, max_sends: int = MAX_SENDS) -> None:
        self._free = max_sends
        self._used: Counter[str] = Counter()
        self._limits: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._closing = False

    def set_limit(self, alias: str, limit: int) -> None:
        """Set the largest number of requests of an integration at a time."""
        if self._limits.get(alias) != limit:
            self._limits[alias] = limit
            self._grant()

    def forget(self, alias: str) -> None:
        """Forget the limit of an integration."""
        self._limits.pop(alias, None)

    def close(self) -> None:
        """Let no request begin any more."""
        self._closing = True
        for queue in self._waiting.values():
            for waiter in queue:
                if not waiter.done():
                    waiter.set_exception(ClosingError())

    async def take(self, alias: str) -> None:
        """Take a sender; wait until there is one. ``give_back`` returns it.

        Raises:
            ClosingError: The worker ends.
        """
        if self._closing:
            raise ClosingError
        if alias not in self._waiting and self._permits(alias):
            self._use(alias)
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(alias, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(alias)  # it was granted at the same moment
            raise

    def give_back(self, alias: str) -> None:
        """Return a sender."""
        self._free += 1
        self._used[alias] -= 1
        if not self._used[alias]:
            del self._used[alias]
        self._grant()

    def _permits(self, alias: str) -> bool:
        return self._used[alias] < min(self._limits.get(alias, 1), self._free)

    def _use(self, alias: str) -> None:
        self._used[alias] += 1
        self._free -= 1

    def _grant(self) -> None:
        """Serve those that wait, one of each integration in turn, as far as limits permit."""
        granted = True
        while granted:
            granted = False
            for alias in list(self._waiting):
                queue = self._waiting[alias]
                while queue and queue[0].done():
                    queue.popleft()
                if queue and self._permits(alias):
                    self._use(alias)
                    queue.popleft().set_result(None)
                    granted = True
                    self._waiting.move_to_end(alias)
                if not queue:
                    del self._waiting[alias]


class RateAllowance:
    """The requests that an integration with a ``rate`` may send, taken from the rate of all workers."""

    def __init__(self, store: IntegrationStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._second = 0
        self._left = 0

    @asynccontextmanager
    async def turn(self, integration: Integration) -> AsyncIterator[None]:
        """Let those that wait for the rate go one by one, so that only one of them has a sender."""
        if integration.rate is None:
            yield
            return
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1

    async def take(self, integration: Integration) -> None:
        """Wait, in a ``turn``, until one more request may be sent. Raises StoreUnavailableError."""
        while integration.rate is not None:
            moment = self._clock.now().timestamp()
            second = int(moment)
            if self._second != second:
                self._second, self._left = second, 0
            if not self._left:
                wanted = min(integration.rate, self._waiting)
                self._left = await self._store.take_rate(integration.alias, second, wanted, integration.rate)
            if self._left:
                self._left -= 1
                return
            await asyncio.sleep(second + 1 - moment)
