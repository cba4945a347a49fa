"""The registry: all registered integrations in the memory of each worker, and changes of them."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import structlog
from msgspec import UNSET, structs

from app.contracts.errors import (
    BusUnavailableError,
    FlowError,
    ServiceConflictError,
    ServiceNotFoundError,
)
from app.contracts.events import EVERYONE, Event, Gap, IntegrationChanged, Topic
from app.contracts.integration import Integration
from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.integrations import IntegrationStore
from config.log import describe

log = structlog.get_logger("integrations")

REFRESH_SECONDS = 0.5
"""The time between two reads of the registrations, for which one command is sent."""
MAX_AGE_SECONDS = 1.0
"""The largest age of registrations by which a worker decides. A longer one reads them again at once."""
SETTLE_SECONDS = MAX_AGE_SECONDS
"""After so long every worker has read a change, also one that was not announced to it."""
MAX_ATTEMPTS = 5

Change = Callable[[Integration], Integration]


class IntegrationRegistry:
    """Registered integrations in memory.

    They are read every ``REFRESH_SECONDS``, and when a worker announces a change. ``current`` never returns
    what is older than ``MAX_AGE_SECONDS``, even if Redis is unavailable. So a change is in effect on all
    workers after ``settle``: no worker takes a record for one that concerns nobody by what it read before.
    """

    def __init__(
        self,
        store: IntegrationStore,
        bus: EventBus,
        clock: Clock,
        *,
        max_age_seconds: float = MAX_AGE_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._max_age_seconds = max_age_seconds
        self._settle_seconds = settle_seconds
        self._by_alias: dict[str, Integration] = {}
        self._fresh_until = float("-inf")
        self._invalidations = 0
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.registered: tuple[Integration, ...] = ()
        """The registrations as they were last read, by alias; empty before they are read first."""
        bus.subscribe(self.on_event)
        bus.on_gap(self.on_gap)

    def on_changed(self, callback: Callable[[], None]) -> None:
        """Call back after registrations were read that differ from those before."""
        self._callbacks.append(callback)

    async def current(self) -> tuple[Integration, ...]:
        """Return the registrations, at once if they were read within ``MAX_AGE_SECONDS``.

        Raises:
            StoreUnavailableError: They must be read, and cannot be.
        """
        if not self._is_fresh():
            async with self._reading:
                if not self._is_fresh():  # nobody else has read them meanwhile
                    while not await self._read():
                        pass
        return self.registered

    async def refresh(self) -> None:
        """Read the registrations. Raises StoreUnavailableError."""
        async with self._reading:
            await self._read()

    def find(self, alias: str) -> Integration | None:
        """Return a registration as it was last read, None if there was none."""
        return self._by_alias.get(alias)

    def fields_of(self, alias: str) -> Sequence[str]:
        """Return the fields that a registration lists, as it was last read; none if it lists none."""
        found = self.find(alias)
        return () if found is None else found.fields or ()

    def aliases(self) -> Collection[str]:
        """Return the aliases of the registrations as they were last read."""
        return self._by_alias.keys()

    async def stored(self, alias: str) -> Integration:
        """Read a registration from the store. Raises ServiceNotFoundError."""
        found = await self._store.get(alias)
        if found is None:
            raise ServiceNotFoundError(alias)
        return found

    async def add(self, integration: Integration) -> bool:
        """Store a new registration. Returns false if there is one already."""
        if not await self._store.put(integration, None):
            return False
        await self.announce(integration.alias)
        return True

    async def change(
        self, alias: str, change: Change, expected: Collection[int] | None = None
    ) -> Integration:
        """Change a registration, and announce that.

        Args:
            alias: The integration.
            change: Returns the changed registration; it is called again if another change came first.
            expected: The revisions that may be changed, None for any.

        Raises:
            ServiceNotFoundError: There is no such registration.
            ServiceConflictError: It is at another revision, or it changes all the time.
        """
        found = await self.stored(alias)
        for _ in range(MAX_ATTEMPTS):
            if expected is not None and found.revision not in expected:
                raise ServiceConflictError(alias, found.revision)
            changed = change(found)
            if changed == found:
                return found
            changed = structs.replace(changed, updated_at=self._clock.now(), revision=found.revision + 1)
            if await self._store.put(changed, found.revision):
                await self.announce(alias)
                return changed
            found = await self.stored(alias)
        raise ServiceConflictError(alias, found.revision)

    async def disable_by_receiver(self, alias: str, reason: str) -> None:
        """Disable an integration that refuses all further events. Its backlog is retained."""

        def disabled(found: Integration) -> Integration:
            if not found.enabled:
                return found
            return structs.replace(
                found, enabled=False, disabled_reason=reason[:500], disabled_by="receiver", backlog=UNSET
            )

        with suppress(ServiceNotFoundError):
            changed = await self.change(alias, disabled)
            if changed.disabled_by == "receiver":
                log.warning("service disabled by its receiver", service=alias, reason=reason[:500])

    async def announce(self, alias: str) -> None:
        """Announce a change to all workers, and read it here."""
        self.invalidate()
        try:
            await self._bus.publish([IntegrationChanged(alias)])
        except BusUnavailableError:
            log.warning("registration change not announced", service=alias)
        await self.refresh()

    async def settle(self) -> None:
        """Wait until the changes that were stored before are in effect on all workers."""
        await asyncio.sleep(self._settle_seconds)

    async def run(self) -> None:
        """Read the registrations regularly, until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self.refresh()
            except FlowError:
                pass  # ``current`` raises it to those who cannot wait
            except Exception as error:  # noqa: BLE001 - one failure must not end the loop
                log.error("registrations not read", **describe(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()

    def invalidate(self) -> None:
        """Read the registrations again before they are used next."""
        self._invalidations += 1
        self._fresh_until = float("-inf")
        self._changed.set()

    def on_gap(self, gap: Gap) -> None:
        """Invalidate the registrations if changes of them may have been missed."""
        if gap.concerns(EVERYONE):
            self.invalidate()

    def on_event(self, _: Topic, event: Event) -> None:
        """Invalidate the registrations when a worker announces a change."""
        if isinstance(event, IntegrationChanged):
            self.invalidate()

    def _is_fresh(self) -> bool:
        return asyncio.get_running_loop().time() <= self._fresh_until

    async def _read(self) -> bool:
        """Read the registrations. Returns false if some were changed meanwhile."""
        began, invalidations = asyncio.get_running_loop().time(), self._invalidations
        found = await self._store.list_all()
        before, self.registered = self.registered, tuple(found)
        self._by_alias = {integration.alias: integration for integration in found}
        if self.registered != before:
            for callback in self._callbacks:
                callback()
        if invalidations != self._invalidations:
            return False
        self._fresh_until = began + self._max_age_seconds
        return True
