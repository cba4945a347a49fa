"""Visibility: the flows that a caller may see, and the transitions that it may run."""

import asyncio
from collections.abc import Iterable

import structlog
from msgspec import structs

from app.auth.policy import require_reading_for
from app.contracts.callers import Caller, Purpose
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    service_limit_error,
)
from app.contracts.flow import Flow
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore
from app.contracts.state import FlowState, StateId
from app.flow import permissions as access
from app.flow import rules
from app.flow.conditions.guard_inputs import GuardBudget
from app.flow.conditions.guards import compile_all
from app.flow.people.callers import caller_on, may_see
from app.flow.step_services import owns_current_step
from app.flow.values.masking import Mask
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.field_masks import FieldMasks
from app.services.definitions.service_access import ServiceAccess, is_readable

log = structlog.get_logger("access")

YIELD_SECONDS = 0.005
REPORT_EVERY_SECONDS = 60.0
MAX_KNOWN_STEPS = 10_000
"""Steps that are remembered as compiled, and for the rate of the log."""
MAX_GUARDS_ON_LOOP = 4
"""Guards of a step that are compiled on the event loop; more are compiled in a thread."""


class Visibility:
    """Applies definitions to callers: the newest version for visibility, a state's own for the rest."""

    def __init__(
        self, catalog: DefinitionCatalog, states: StateStore, masks: FieldMasks, clock: Clock
    ) -> None:
        self._masks = masks
        self._states = states
        self._catalog = catalog
        self.services = ServiceAccess(catalog)
        self._clock = clock
        self._prepared: set[tuple[str, int, str]] = set()
        self._reported: dict[tuple[str, int, str], float] = {}

    async def require_access(self, state_id: StateId, caller: Caller) -> None:
        """Raise InsufficientPermissionsError unless the caller may see a flow and this state of it.

        A credential of an integration may if that owns a step of the flow, as ServiceAccess decides.
        Participants may see a state of another user. To all others the error is the same, whether or not the
        state exists. For a change the caller is that of ``policy.as_user``.
        """
        if caller.service:
            if await self.services.owns_newest(state_id.flow_id, caller):
                return
        else:
            await self.require_visible(state_id.flow_id, caller)
        if caller.may_read(state_id.user_id):
            return
        try:
            stored = await self._states.load(state_id)
        except FlowStateCorruptionError:
            stored = None
        await self.require_seen(state_id, None if stored is None else stored.state, caller)

    async def require_seen(self, state_id: StateId, state: FlowState | None, caller: Caller) -> None:
        """Raise InsufficientPermissionsError unless the caller may see a state that was loaded.

        A state that was loaded after ``require_access`` may have lost the participant, or have ended.
        """
        if caller.service:
            if not await self.services.sees(state_id.flow_id, state, caller):
                raise service_limit_error(caller.service)
            return
        if state is None or state.is_gone_at(self._clock.now()) or not may_see(state, caller):
            require_reading_for(caller, state_id.user_id)

    async def sees(self, state: FlowState, caller: Caller) -> bool:
        """Return true if the caller may see the flow of a state, and the state."""
        if caller.service:
            return await self.services.sees(state.flow, state, caller)
        return await self.is_visible(state.flow, caller) and may_see(state, caller)

    async def require_visible(self, flow_id: str, caller: Caller, version: int | None = None) -> None:
        """Raise InsufficientPermissionsError if the caller must not see a flow. An unknown flow passes.

        Args:
            flow_id: The flow.
            caller: The caller.
            version: The version that it reads, None for the newest: a credential of an integration may see
                the versions in which that owns a step.
        """
        if caller.service:
            if not await self.services.sees_flow(flow_id, version, caller):
                raise service_limit_error(caller.service)
            return
        if caller.reads_all:
            return
        newest = await self._catalog.newest(flow_id)
        if newest is not None:
            access.require_visible(newest.flow, caller)

    def may_list(self, flow: Flow, caller: Caller) -> bool:
        """Return true if the caller may see a flow whose newest version this is."""
        if caller.service:
            return is_readable(flow, caller.service)
        return caller.reads_all or caller.has_a_role(flow.roles)

    async def is_same_for_everyone(self, flow_id: str) -> bool:
        """Return true if everybody may see a flow."""
        newest = await self._catalog.newest(flow_id)
        return newest is None or newest.flow.roles is None

    async def is_visible(self, flow_id: str, caller: Caller) -> bool:
        """Return true if the caller may see a flow."""
        try:
            await self.require_visible(flow_id, caller)
        except InsufficientPermissionsError:
            return False
        return True

    async def require_clearable(self, state: FlowState, caller: Caller) -> None:
        """Raise InsufficientPermissionsError if the caller must not clear a state."""
        if not caller.is_administrator:  # they may, even if the definition is damaged
            definition = await self._catalog.current_or_pinned(state)
            access.require_clearable(definition.flow, caller_on(definition.flow, state, caller))

    async def with_transitions(
        self,
        state: FlowState,
        caller: Caller,
        budget: GuardBudget | None = None,
        *,
        purpose: Purpose = "read",
    ) -> FlowState:
        """Return the state as the caller may see it, with the transitions that it may run now.

        Args:
            state: The state, with its whole payload.
            caller: The caller.
            purpose: The reason why it is shown.
            budget: A bound of the evaluation of guards, None for one of this state alone. Transitions whose
                guards exceed it are left out, which is logged.
        """
        definition = await self._catalog.pinned(state)
        await self._prepare(definition, state)
        budget = budget or GuardBudget()
        if not caller.may_use:
            return self._masks.state(definition.flow, structs.replace(state, transitions=()), caller, purpose)
        if caller.service and not owns_current_step(definition.flow, state, caller.service):
            return self._masks.state(definition.flow, structs.replace(state, transitions=()), caller, purpose)
        skipped, seconds = budget.skipped, budget.seconds
        effective = caller_on(definition.flow, state, caller)
        state = rules.with_transitions(definition, state, effective, self._clock.now(), budget)
        if budget.skipped > skipped:
            self._report_skipped(state, budget.skipped - skipped)
        if budget.seconds - seconds > YIELD_SECONDS:
            await asyncio.sleep(0)  # so that many states in a row do not block other requests
        return self._masks.state(definition.flow, state, caller, purpose)

    def mask(self, flow: Flow, state: FlowState, caller: Caller, purpose: Purpose = "read") -> Mask | None:
        """Return the parts of a state's payload that the caller does not see, None if it sees all."""
        return self._masks.mask(flow, state, caller, purpose)

    def effective(self, flow: Flow, state: FlowState, caller: Caller) -> tuple[Caller, Mask | None]:
        """Return the caller with the roles that it has on a state, and what the payload hides from it."""
        return caller_on(flow, state, caller), self.mask(flow, state, caller)

    async def without_transitions(self, state: FlowState, caller: Caller, purpose: Purpose) -> FlowState:
        """Return a state as the caller may see it, also one whose definition cannot be read."""
        return await self._masks.damaged_state(structs.replace(state, transitions=()), caller, purpose)

    async def with_transitions_of_all(self, states: Iterable[FlowState], caller: Caller) -> list[FlowState]:
        """Return the states that the caller may see, with the transitions that it may run now.

        Their guards share one budget. A damaged state is returned as it is, and logged: it must not hide the
        others, and reading it alone raises.
        """
        found = []
        budget = GuardBudget.of_many()
        for state in states:
            if not await self.sees(state, caller):
                continue
            try:
                found.append(await self.with_transitions(state, caller, budget, purpose="list"))
            except FlowStateCorruptionError as damage:
                log.error("damaged state", state=state.key, reason=damage.details["reason"])
                found.append(await self.without_transitions(state, caller, "list"))
        return found

    async def _prepare(self, definition: FlowDefinition, state: FlowState) -> None:
        """Compile the guards of a step, in a thread if they are many: each takes some milliseconds."""
        step_key = (state.flow, state.version, state.step)
        if step_key in self._prepared:
            return
        step = definition.flow.steps.get(state.step)
        guards = (
            {each.guard for each in step.transitions.values() if each.guard is not None} if step else set()
        )
        if len(guards) > MAX_GUARDS_ON_LOOP:
            await asyncio.to_thread(compile_all, guards)
        if len(self._prepared) >= MAX_KNOWN_STEPS:
            self._prepared.clear()
        self._prepared.add(step_key)

    def _report_skipped(self, state: FlowState, guards: int) -> None:
        """Log skipped guards, at most once in ``REPORT_EVERY_SECONDS`` for each step."""
        now = asyncio.get_running_loop().time()
        step_key = (state.flow, state.version, state.step)
        if now < self._reported.get(step_key, 0.0):
            return
        if len(self._reported) >= MAX_KNOWN_STEPS:
            self._reported.clear()
        self._reported[step_key] = now + REPORT_EVERY_SECONDS
        log.error(
            "guards skipped, evaluation budget exceeded",
            state=state.key,
            version=state.version,
            step=state.step,
            guards=guards,
        )
