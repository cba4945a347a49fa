"""API keys in the memory of a worker, for a few seconds."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from app.contracts.errors import RateLimitedError
from app.contracts.integration import ApiKey
from app.contracts.ports.integrations import ApiKeyStore
from app.kit.token_bucket import TokenBucket

FRESH_SECONDS = 5.0
"""The age up to which a key is used without a read, if no event announces a change."""
MISSING_SECONDS = 30.0
"""The time for which an id without a key is remembered: ids are random, so none gets a key later."""
MAX_KEYS = 10_000
MAX_MISSING = 10_000
UNKNOWN_READS_PER_SECOND = 20.0
UNKNOWN_READS_BURST = 100.0


class KeyCache:
    """Reads keys by their ids.

    Ids that this worker does not know are read at a bounded rate, whoever sends them. Keys that it has seen
    are not counted, so that nobody who sends made-up keys gets them refused.
    """

    def __init__(self, store: ApiKeyStore, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now = now
        self._known: OrderedDict[str, tuple[ApiKey, float]] = OrderedDict()
        self._missing: OrderedDict[str, float] = OrderedDict()
        self._reads: dict[str, asyncio.Task[ApiKey | None]] = {}
        self._unknown_reads = TokenBucket(UNKNOWN_READS_PER_SECOND, UNKNOWN_READS_BURST, now)
        self._invalidations = 0

    async def find(self, key_id: str) -> ApiKey | None:
        """Return a key, None if there is none.

        Raises:
            StoreUnavailableError: The key must be read, and cannot be.
            RateLimitedError: Too many unknown ids were sent to this worker.
        """
        now = self._now()
        known = self._known.get(key_id)
        if known is not None and now < known[1]:
            return known[0]
        if now < self._missing.get(key_id, now):
            return None
        task = self._reads.get(key_id)
        if task is None:
            seconds = 0.0 if known is not None else self._unknown_reads.take()
            if seconds:
                raise RateLimitedError("Too many unknown API keys were sent; try again", seconds)
            task = self._reads[key_id] = asyncio.ensure_future(self._read(key_id))
        return await asyncio.shield(task)

    def known(self, key_id: str) -> ApiKey | None:
        """Return a key that was read lately, which may have changed since."""
        found = self._known.get(key_id)
        return None if found is None else found[0]

    def invalidate(self, alias: str | None = None) -> None:
        """Read the keys of an integration, or all keys, again at their next use."""
        self._invalidations += 1
        self._reads.clear()
        for key_id, (key, _) in self._known.items():
            if alias is None or key.alias == alias:
                self._known[key_id] = (key, 0.0)

    async def _read(self, key_id: str) -> ApiKey | None:
        invalidations = self._invalidations
        try:
            key = await self._store.get(key_id)
        finally:
            if self._reads.get(key_id) is asyncio.current_task():
                del self._reads[key_id]
        if key is None:
            self._known.pop(key_id, None)
            self._missing[key_id] = self._now() + MISSING_SECONDS
            if len(self._missing) > MAX_MISSING:
                self._missing.popitem(last=False)
            return None
        # A key that was read before a change was announced is not used again.
        until = self._now() + FRESH_SECONDS if invalidations == self._invalidations else 0.0
        self._known[key_id] = (key, until)
        self._known.move_to_end(key_id)
        if len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)
        return key
