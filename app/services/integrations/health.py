"""The health of all integrations as this worker knows it, changed together with the other workers."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from msgspec import structs

from app.contracts.errors import StoreUnavailableError
from app.contracts.integration import Integration, IntegrationHealth
from app.contracts.ports.clock import Clock
from app.contracts.ports.integrations import IntegrationStore
from app.services.integrations import breaker
from app.services.integrations.breaker import Outcome

log = structlog.get_logger("deliveries")

MAX_AGE = timedelta(seconds=1)
MAX_TRIES = 5
"""Attempts to change a health record that other workers change too."""


class SharedHealth:
    """A copy of the stored health of each integration, and its conditional changes.

    ``random`` returns a number from 0 to 1.
    """

    def __init__(self, store: IntegrationStore, clock: Clock, random: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._known: dict[str, IntegrationHealth] = {}
        self._read_at: datetime | None = None
        self._reading = asyncio.Lock()
        self._changing: dict[str, asyncio.Lock] = {}
        self._outcomes: dict[str, list[Outcome]] = {}
        self._counts: dict[str, Counter[str]] = {}

    def of(self, alias: str) -> IntegrationHealth:
        """Return the health of an integration as far as it is known."""
        return self._known.get(alias) or IntegrationHealth(alias=alias)

    def forget(self, alias: str) -> None:
        """Forget an integration that was removed."""
        for known in (self._known, self._changing, self._outcomes, self._counts):
            known.pop(alias, None)

    async def refresh(self, max_age: timedelta = MAX_AGE) -> None:
        """Read the health of all integrations again if it is older. Raises StoreUnavailableError.

        A ``max_age`` of zero also replaces what looks newer, as an integration may have been registered anew.
        """
        async with self._reading:
            now = self._clock.now()
            if self._read_at is not None and now - self._read_at < max_age:
                return
            read = {health.alias: health for health in await self._store.list_health()}
            self._read_at = now
            for alias, health in read.items():
                known = self._known.get(alias)
                if known is None or known.revision <= health.revision or not max_age:
                    self._known[alias] = health
            for alias in self._known.keys() - read.keys():
                del self._known[alias]

    async def report(self, integration: Integration, outcome: Outcome) -> None:
        """Change the breaker of an integration by the outcome of a delivery.

        Outcomes that arrive during a change are stored together. While the store is unavailable they change
        the breaker of this worker alone.
        """
        alias = integration.alias
        if self._with(integration, self.of(alias), [outcome]) is self.of(alias):
            return
        self._outcomes.setdefault(alias, []).append(outcome)
        async with self._changing.setdefault(alias, asyncio.Lock()):
            outcomes = self._outcomes.pop(alias, None)
            if outcomes is None:  # stored together with those before
                return
            try:
                await self._store_outcomes(integration, outcomes)
            except StoreUnavailableError:
                before = self.of(alias)
                self._note(before, self._with(integration, before, outcomes))

    async def begin_probe(self, alias: str) -> bool:
        """Claim the next probe of an open breaker. Returns false if it is not due or another worker has it.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        before, now = self.of(alias), self._clock.now()
        if not breaker.probe_due(before, now):
            return False
        probing = _next_revision(breaker.begin_probe(before, now))
        if not await self._store.put_health(probing):
            await self.refresh(timedelta(0))
            return False
        self._known[alias] = probing
        return True

    def count(self, alias: str, *, delivered: int = 0, failed: int = 0, internal: int = 0) -> None:
        """Add to the counts of an integration; ``store_counts`` stores them."""
        counts = self._counts.setdefault(alias, Counter())
        counts["delivered"] += delivered
        counts["failed"] += failed
        counts["internal"] += internal

    async def store_counts(self) -> None:
        """Store the counts since the last time. Raises StoreUnavailableError; nothing is lost then."""
        for alias in list(self._counts):
            counts = self._counts.pop(alias)
            try:
                await self._store.count(alias, **counts)
            except StoreUnavailableError:
                self.count(alias, **counts)
                raise

    def _with(
        self, integration: Integration, health: IntegrationHealth, outcomes: list[Outcome]
    ) -> IntegrationHealth:
        now = self._clock.now()
        for outcome in outcomes:
            health = breaker.after(
                health, outcome, now, concurrency=integration.concurrency, random=self._random
            )
        return health

    async def _store_outcomes(self, integration: Integration, outcomes: list[Outcome]) -> None:
        for _ in range(MAX_TRIES):
            before = self.of(integration.alias)
            changed = self._with(integration, before, outcomes)
            if changed is before:
                return
            changed = _next_revision(changed)
            if await self._store.put_health(changed):
                self._note(before, changed)
                return
            await self.refresh(timedelta(0))
            if integration.alias not in self._known:  # it was removed meanwhile
                return

    def _note(self, before: IntegrationHealth, changed: IntegrationHealth) -> None:
        self._known[changed.alias] = changed
        if changed.breaker == "open" and before.breaker in ("closed", "ramping"):
            log.warning("breaker opened", service=changed.alias, reason=changed.reason or None)
        elif changed.breaker == "closed" and before.breaker != "closed":
            log.info("breaker closed", service=changed.alias)


def _next_revision(health: IntegrationHealth) -> IntegrationHealth:
    return structs.replace(health, revision=health.revision + 1)
