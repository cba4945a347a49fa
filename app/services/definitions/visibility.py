"""Selects what a caller is shown: the flows that it may see, and the transitions that it may run."""

import asyncio

import structlog

from app.contracts.callers import ADMIN, Caller
from app.contracts.definition import FlowDefinition
from app.contracts.errors import InsufficientPermissionsError
from app.contracts.ports.clock import Clock
from app.contracts.state import FlowState
from app.flow import permissions as access
from app.flow import rules
from app.flow.conditions.guard_inputs import GuardBudget
from app.flow.conditions.guards import compile_all
from app.services.definitions.catalog import DefinitionCatalog

log = structlog.get_logger("access")

YIELD_SECONDS = 0.005
REPORT_EVERY_SECONDS = 60.0
REPORTED_LIMIT = 10_000
"""Steps of which it is known that their guards are compiled, and when skipped ones were logged."""
MANY_GUARDS = 4


class Visibility:
    """Asks the definitions: the newest version who may see a flow, a state's own version what may run."""

    def __init__(self, catalog: DefinitionCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._prepared: set[tuple[str, int, str]] = set()
        self._reported: dict[tuple[str, int, str], float] = {}

    async def require_visible(self, flow_id: str, caller: Caller) -> None:
        """Raise InsufficientPermissionsError when the caller must not see a flow. Whether there is such a
        flow is not asked."""
        if ADMIN in caller.scopes:
            return
        newest = await self._catalog.newest(flow_id)
        if newest is not None:
            access.require_visible(newest.flow, caller)

    async def is_same_for_everyone(self, flow_id: str) -> bool:
        """True if everybody may see a flow."""
        newest = await self._catalog.newest(flow_id)
        return newest is None or newest.flow.roles is None

    async def is_visible(self, flow_id: str, caller: Caller) -> bool:
        """True if the caller may see a flow."""
        try:
            await self.require_visible(flow_id, caller)
        except InsufficientPermissionsError:
            return False
        return True

    async def require_clearable(self, state: FlowState, caller: Caller) -> None:
        """Raise InsufficientPermissionsError when the caller must not clear a state."""
        if ADMIN not in caller.scopes:  # an administrator may, also when the definition is damaged
            definition = await self._catalog.current_or_pinned(state)
            access.require_clearable(definition.flow, caller)

    async def with_transitions(
        self, state: FlowState, caller: Caller, budget: GuardBudget | None = None
    ) -> FlowState:
        """The state with the transitions that the caller may run now. Those whose guards cost more than the
        budget (None: one of its own) has left are missing, which is logged."""
        definition = await self._catalog.pinned(state)
        await self._prepare(definition, state)
        budget = budget or GuardBudget()
        skipped, seconds = budget.skipped, budget.seconds
        state = rules.with_transitions(definition, state, caller, self._clock.now(), budget)
        if budget.skipped > skipped:
            self._report_skipped(state, budget.skipped - skipped)
        if budget.seconds - seconds > YIELD_SECONDS:
            await asyncio.sleep(0)  # the next of many must not hold up the others
        return state

    async def _prepare(self, definition: FlowDefinition, state: FlowState) -> None:
        """Compile the guards of a step in a thread where they are many: each takes some milliseconds."""
        place = (state.flow, state.version, state.step)
        if place in self._prepared:
            return
        step = definition.flow.steps.get(state.step)
        guards = (
            {each.guard for each in step.transitions.values() if each.guard is not None} if step else set()
        )
        if len(guards) > MANY_GUARDS:
            await asyncio.to_thread(compile_all, guards)
        if len(self._prepared) >= REPORTED_LIMIT:
            self._prepared.clear()
        self._prepared.add(place)

    def _report_skipped(self, state: FlowState, guards: int) -> None:
        """Log it once in a while for each step, not for every read of a state there."""
        now = asyncio.get_running_loop().time()
        place = (state.flow, state.version, state.step)
        if now < self._reported.get(place, 0.0):
            return
        if len(self._reported) >= REPORTED_LIMIT:
            self._reported.clear()
        self._reported[place] = now + REPORT_EVERY_SECONDS
        log.error(
            "guards skipped, they may take too long",
            state=state.key,
            version=state.version,
            step=state.step,
            guards=guards,
        )
