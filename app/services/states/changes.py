"""Changes of states by commands, answered with the transitions that may run next."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

from msgspec import structs

from app.auth.policy import as_user
from app.contracts.callers import Caller
from app.contracts.commands import TransitionCommand
from app.contracts.errors import (
    FlowNotStartedError,
    FlowStateCorruptionError,
    RevisionConflictError,
    UserErasedError,
    service_limit_error,
)
from app.contracts.ports.states import StoredState
from app.contracts.state import FlowState, StateId
from app.contracts.wire.states import state_view
from app.contracts.wire.times import iso
from app.services.audit.log import AuditLog
from app.services.audit.state_acts import BY_NAME, is_administrative, note_commit, state_act
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.rates.request_limits import RequestLimits
from app.services.states.endings import Endings
from app.services.states.executor import Decide, Executor
from app.services.states.recovery import Recovery
from app.services.states.state_command import ProposedChange, StateCommand


class StateChanges:
    """Executes commands for callers: visibility, rate limit, and answers with transitions."""

    def __init__(
        self,
        executor: Executor,
        catalog: DefinitionCatalog,
        access: Visibility,
        recovery: Recovery,
        endings: Endings,
        limits: RequestLimits,
        audit: AuditLog,
    ) -> None:
        self._executor = executor
        self._catalog = catalog
        self._access = access
        self._recovery = recovery
        self._endings = endings
        self._limits = limits
        self._audit = audit

    async def change(self, command: StateCommand, decide: Decide) -> tuple[FlowState, bool]:
        """Execute a command that leaves a state.

        Returns:
            The state afterwards with the caller's transitions, and true if this request changed it.

        Raises:
            FlowNotStartedError: There is no state afterwards.
        """
        after, changed = await self.execute(command, decide)
        if after is None:
            raise await self.not_started(command.state_id)
        return await self._access.with_transitions(after, command.origin.caller), changed

    async def execute(self, command: StateCommand, decide: Decide) -> tuple[FlowState | None, bool]:
        """Execute a command like ``Executor.execute``, with details in its errors.

        A conflict carries the present state as the caller may see it, a damaged state the advice of the
        recovery, and a missing one how the last one ended.

        Raises:
            InsufficientPermissionsError: The caller may not see the flow, or this state.
            RateLimitedError: The caller requested too many changes.
        """
        caller = command.origin.caller
        if caller.service and not command.of_step:
            raise service_limit_error(caller.service)
        caller = as_user(caller)
        await self._access.require_access(command.state_id, caller)
        if command.limited and not command.origin.dry_run:
            self._limits.admit_change(command.origin)
        try:
            async with self.with_recovery_advice(command.state_id):
                return await self._execute(command, self._for_caller(command, decide))
        except FlowNotStartedError:
            raise await self.not_started(command.state_id) from None
        except RevisionConflictError as conflict:
            await self._access.require_seen(command.state_id, conflict.state, caller)
            if conflict.state is not None:
                present = await self._access.with_transitions(conflict.state, caller)
                conflict.details["state"] = state_view(present)
            elif command.origin.expected is not None:
                conflict.details.update(await self._endings.of(command.state_id))
            raise

    async def _execute(self, command: StateCommand, decide: Decide) -> tuple[FlowState | None, bool]:
        act = "transition" if _is_transition(command) else BY_NAME[command.name]
        if not is_administrative(act, command.state_id, command.origin):
            return await self._executor.execute(command, decide)
        async with state_act(self._audit, act, command.state_id, command.origin) as opened:
            audited = structs.replace(command, on_commit=partial(note_commit, opened))
            return await self._executor.execute(audited, decide)

    def _for_caller(self, command: StateCommand, decide: Decide) -> Decide:
        """Return the decision for a caller who may be a participant, or the credential of an integration.

        The state may have lost the participant since access to it was checked, and one that has ended must
        not begin again for those who had a role on it. An integration must own the current step.
        """
        state_id, caller = command.state_id, as_user(command.origin.caller)
        if caller.acts_for(state_id.user_id):
            return decide

        async def decide_if_seen(state: FlowState | None, now: datetime) -> ProposedChange | None:
            await self._access.require_seen(state_id, state, caller)
            if caller.service and state is not None:
                await self._access.services.require_current_step(state, caller)
            return await decide(state, now)

        return decide_if_seen

    async def not_started(self, state_id: StateId) -> FlowNotStartedError:
        """Create the error for a missing state, with how the last one ended."""
        return FlowNotStartedError(state_id.flow_id, await self._endings.of(state_id))

    async def require_not_erased(self, stored: StoredState | None, caller: Caller) -> None:
        """Raise UserErasedError if a state ended because its user was erased, who is not the caller."""
        if stored is None or not caller.reads_others(stored.state.user_id):
            return
        erased = await self._endings.erasure_of(stored)
        if erased is not None:
            raise UserErasedError(stored.state.flow, iso(erased.at), erased.by)

    @asynccontextmanager
    async def with_recovery_advice(self, state_id: StateId) -> AsyncIterator[None]:
        """Add the advice of the recovery to a corruption that is raised inside the block."""
        try:
            yield
        except FlowStateCorruptionError as damage:
            raise await self._recovery.with_advice(state_id, damage) from None

    async def started(self, state: FlowState | None, state_id: StateId) -> FlowState:
        """Return the state, or raise FlowNotStartedError, FlowNotFoundError if there is no such flow."""
        if state is None:
            await self._catalog.current(state_id.flow_id)
            raise FlowNotStartedError(state_id.flow_id)
        return state


def _is_transition(command: StateCommand) -> bool:
    """Return whether a command runs a transition, whose name may be any."""
    return isinstance(command.command, TransitionCommand)
