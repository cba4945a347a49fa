"""Job: lists the states that waited at the steps of an integration before it was registered."""

from collections.abc import Sequence
from datetime import timedelta

import structlog
from msgspec import structs

from app.contracts.definition import FlowDefinition
from app.contracts.deliveries import LanePosition, Mark
from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.ports.deliveries import DeliveryLanes
from app.contracts.ports.integrations import IntegrationStore
from app.contracts.ports.states import StateFilter, StateStore
from app.contracts.state import FlowState
from app.flow.step_services import TARGET, static_owner
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.matching import waits_at_own_step
from app.services.integrations.registry import IntegrationRegistry

log = structlog.get_logger("integrations")

BACKFILL_EVERY = timedelta(seconds=2)
SETTLED_AFTER = timedelta(seconds=3)
"""The age of a registration at which every worker marks the lanes of new changes."""
PAGE_SIZE = 500
MAX_ATTEMPTS = 5


class WaitingBackfill:
    """Walks the active states of flows with steps of newly registered integrations.

    It marks the lane of each state that waits. A lane begins with the registration, so no event of an earlier
    change is delivered. Marks can be repeated: after an interruption the walk starts again. A state that
    changes meanwhile is marked for its change, and an older mark has no effect then.
    """

    def __init__(
        self,
        registry: IntegrationRegistry,
        registrations: IntegrationStore,
        lanes: DeliveryLanes,
        states: StateStore,
        definitions: DefinitionStore,
        catalog: DefinitionCatalog,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._registrations = registrations
        self._lanes = lanes
        self._states = states
        self._definitions = definitions
        self._catalog = catalog
        self._clock = clock

    async def run(self) -> None:
        """List the waiting states of all integrations for which that was not done. Raises FlowError."""
        settled = self._clock.now() - SETTLED_AFTER
        new = [
            each
            for each in await self._registry.current()
            if not each.waiting_listed and each.registered_at <= settled
        ]
        if not new:
            return
        marked = 0
        for flow_id in await self._definitions.list_flow_ids():
            owners = await self._owners(flow_id)
            concerned = [each for each in new if each.alias in owners or TARGET in owners]
            if concerned:
                marked += await self._walk(flow_id, concerned)
        for integration in new:
            await self._finish(integration)
        log.info("waiting states listed", services=len(new), states=marked)

    async def _owners(self, flow_id: str) -> set[str]:
        """Return the services of the steps of all versions of a flow."""
        owners: set[str] = set()
        for version in await self._definitions.versions(flow_id):
            definition = await self._definition(flow_id, version.version)
            if definition is not None:
                flow = definition.flow
                owners |= {static_owner(flow, step) for step in flow.steps.values()}
        return owners

    async def _walk(self, flow_id: str, integrations: Sequence[Integration]) -> int:
        after: str | None = None
        marked = 0
        while True:
            now = self._clock.now()
            only = StateFilter(flow_id=flow_id, status="active")
            page = await self._states.find(only, after, PAGE_SIZE, now)
            marks: list[Mark] = []
            for state in page.states:
                marks += await self._marks(state, integrations)
            if marks:
                await self._lanes.mark(marks, now)
                marked += len(marks)
            after = page.next
            if after is None:
                return marked

    async def _marks(self, state: FlowState, integrations: Sequence[Integration]) -> list[Mark]:
        """Return the marks of a state: it waits since its last change at the latest."""
        definition = await self._definition(state.flow, state.version)
        if definition is None:
            return []
        position = LanePosition(state.epoch, state.revision)
        return [
            Mark(each.alias, state.id, position, each.registered_at, state.updated_at, stays=True)
            for each in integrations
            if waits_at_own_step(each.alias, state, definition.flow)
        ]

    async def _definition(self, flow_id: str, version: int) -> FlowDefinition | None:
        """Return a version, None if it cannot be read: no step of its states has a known owner."""
        try:
            return await self._catalog.version(flow_id, version)
        except StoreUnavailableError:
            raise
        except FlowError:
            return None

    async def _finish(self, integration: Integration) -> None:
        """Store that the list is complete; the registration may change at the same time."""
        for _ in range(MAX_ATTEMPTS):
            found = await self._registrations.get(integration.alias)
            if found is None or found.registered_at != integration.registered_at:
                return  # it was removed, and perhaps registered anew
            # The revision stays: nothing that its owner can change has changed.
            if await self._registrations.put(structs.replace(found, waiting_listed=True), found.revision):
                await self._registry.announce(integration.alias)
                return
