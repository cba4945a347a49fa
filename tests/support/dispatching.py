"""A service over fakes with integrations, and dispatchers that deliver to them, in virtual time."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from msgspec import structs

from app.contracts.deliveries import Lane, LaneId, LanePosition, LoggedDelivery, Mark
from app.contracts.errors import StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId
from app.services.integrations.dispatcher import Dispatcher
from app.services.integrations.events import IntegrationEvents
from app.services.integrations.ports import IntegrationPorts
from app.services.states.history import HistoryReader
from tests.support.fake_deliveries import FakeDeadLetters, FakeDeliveryLanes, FakeDeliveryLog
from tests.support.fake_integrations import FakeIntegrationStore
from tests.support.fake_transports import FakeEventStreams, FakeWebhooks
from tests.support.rig import Rig
from tests.support.virtual_time import START, VirtualClock

FLOW = "ring"


def ring_dict(service: str = "payment") -> dict[str, Any]:
    """A flow that goes round: a, b (of ``service``), a, ...; from b also ``pay`` to c."""
    steps = {"a": ("user", {"go": "b"}), "b": (service, {"back": "a", "pay": "c"}), "c": ("user", {})}
    return {
        "flow": FLOW,
        "initialStep": "a",
        "steps": {
            name: {
                "index": index,
                "step": name,
                "service": owner,
                "transitions": {t: {"transition": t, "step": target} for t, target in moves.items()},
            }
            for index, (name, (owner, moves)) in enumerate(steps.items())
        },
    }


class FakeSecrets:
    async def secret(self, name: str) -> bytes:
        return b"s" * 32


class CountingLanes(FakeDeliveryLanes):
    """``lists`` counts queries for due lanes, by integration; ``claims`` and ``releases`` are commands.

    ``claimed`` is set when lanes are claimed, ``answer_seconds`` before the command ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lists: defaultdict[str, int] = defaultdict(int)
        self.claims = 0
        self.releases = 0
        self.claimed = asyncio.Event()
        self.answer_seconds = 0.0

    async def list_due(self, alias: str, now: Any, limit: int) -> list[LaneId]:
        self.lists[alias] += 1
        return await super().list_due(alias, now, limit)

    async def claim(self, ids: Sequence[LaneId], holder: str, now: Any, until: Any) -> list[Lane]:
        self.claims += 1
        lanes = await super().claim(ids, holder, now, until)
        self.claimed.set()
        if self.answer_seconds:
            await asyncio.sleep(self.answer_seconds)
        return lanes

    async def release(self, updates: Any, now: Any) -> None:
        self.releases += 1
        await super().release(updates, now)


class BreakableLog(FakeDeliveryLog):
    """A log that is unavailable within ``failing``."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False

    @contextmanager
    def failing(self) -> Iterator[None]:
        self.fails = True
        try:
            yield
        finally:
            self.fails = False

    async def append(self, alias: str, deliveries: Sequence[LoggedDelivery]) -> int:
        if self.fails:
            raise StoreUnavailableError
        return await super().append(alias, deliveries)


class Deliveries:
    """The fakes of one test. All flows of a user are changed with ``change``, which marks the lanes."""

    def __init__(self, *integrations: Integration, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.rig = Rig()
        self.clock = VirtualClock()
        self.rig.clock = self.clock  # type: ignore[assignment]
        self.use_new_service()
        self.registrations = FakeIntegrationStore()
        self.lanes = CountingLanes()
        self.log = BreakableLog()
        self.letters = FakeDeadLetters()
        self.webhooks = FakeWebhooks()
        self.streams = FakeEventStreams()
        self.since = START
        self.disabled: list[tuple[str, str]] = []
        self._registered: tuple[Integration, ...] = ()
        self._initial = integrations
        self._marked: dict[str, set[str]] = defaultdict(set)

    def use_new_service(self) -> None:
        """Build the service over the fakes of the rig."""
        self.service = self.rig.make()
        self._components = self.service._components  # the dispatcher becomes one of them
        self.flows = self.service.as_trusted()

    async def prepare(self) -> None:
        """Register the integrations, and publish the flow."""
        for each in self._initial:
            await self.register(each)
        await self.service.create_flow(ring_dict())

    async def register(self, integration: Integration) -> None:
        """Store a registration, or a changed one."""
        stored = await self.registrations.get(integration.alias)
        await self.registrations.put(integration, None if stored is None else stored.revision)
        self._registered = tuple(await self.registrations.list_all())

    async def unregister(self, alias: str) -> None:
        """Remove a registration."""
        await self.registrations.delete(alias)
        self._registered = tuple(await self.registrations.list_all())

    @property
    def history(self) -> HistoryReader:
        return self.service.history

    @property
    def ports(self) -> IntegrationPorts:
        return IntegrationPorts(
            registrations=self.registrations,
            api_keys=None,  # type: ignore[arg-type]  # no test here has keys
            lanes=self.lanes,
            log=self.log,
            letters=self.letters,
            webhooks=self.webhooks,
            streams=self.streams,
            secrets=FakeSecrets(),
        )

    def dispatcher(self, ports: IntegrationPorts | None = None, **options: Any) -> Dispatcher:
        """Create the dispatcher of a worker."""
        used = ports or self.ports
        return Dispatcher(
            used,
            lambda: self._registered,
            self._disable,
            IntegrationEvents(used.secrets),
            self.history,
            self._components.operations,
            self._components.catalog,
            self.clock,
            random=self.random.random,
            **options,
        )

    @asynccontextmanager
    async def running(self, *dispatchers: Dispatcher) -> AsyncIterator[None]:
        """Run dispatchers in this block."""
        tasks = [asyncio.create_task(dispatcher.run()) for dispatcher in dispatchers]
        await asyncio.sleep(0)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def change(self, user: str, *transitions: str) -> list[HistoryRecord]:
        """Start the flow of a user, or run transitions, and mark the lanes of all integrations.

        Returns:
            The new records.
        """
        if not transitions:
            await self.flows.start_flow(user, FLOW)
        for transition in transitions:
            await self.flows.execute_transition(user, FLOW, transition)
        return await self.mark(user)

    async def mark(self, user: str) -> list[HistoryRecord]:
        """Mark the lanes of a user's state for the changes since the last time."""
        records = [r for r in self.records(user) if r.id not in self._marked[user]]
        self._marked[user] |= {record.id for record in records}
        marks = [self.mark_of(alias, record) for record in records for alias in self.aliases]
        await self.lanes.mark(marks, self.clock.now())
        return records

    @property
    def aliases(self) -> list[str]:
        return [integration.alias for integration in self._registered]

    def mark_of(self, alias: str, record: HistoryRecord) -> Mark:
        state_id = StateId(record.flow_id, record.user_id)
        return Mark(alias, state_id, LanePosition(record.epoch, record.revision), self.since)

    def records(self, user: str) -> list[HistoryRecord]:
        """Return the records of a user's state, which stay in its outbox."""
        stored = self.rig.states.stored.get(StateId(FLOW, user).key)
        return [] if stored is None else list(stored.pending)

    def logged(self, alias: str, user: str | None = None) -> list[LoggedDelivery]:
        """Return what is delivered to an integration."""
        entries = self.log.entries.get(alias, [])
        return [entry for entry in entries if user in (None, entry.state_id.user_id)]

    def revisions(self, alias: str, user: str) -> list[int]:
        """Return the revisions of a user's state in the order of their deliveries."""
        return [entry.revision for entry in self.logged(alias, user)]

    def lane(self, alias: str, user: str) -> Lane:
        return self.lanes.lanes[LaneId(alias, StateId(FLOW, user)).key]

    async def _disable(self, alias: str, reason: str) -> None:
        self.disabled.append((alias, reason))
        found = await self.registrations.get(alias)
        assert found is not None
        changed = structs.replace(found, enabled=False, disabled_reason=reason, revision=found.revision + 1)
        await self.registrations.put(changed, found.revision)
        self._registered = tuple(await self.registrations.list_all())
