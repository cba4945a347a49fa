"""Changes of states as the use cases make them: executed, and answered with what may run next."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.contracts.errors import FlowNotStartedError, FlowStateCorruptionError, RevisionConflictError
from app.contracts.state import FlowState
from app.contracts.wire.states import state_view
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.states.change_limit import ChangeLimit
from app.services.states.endings import Endings
from app.services.states.executor import Decide, Executor
from app.services.states.recovery import Recovery
from app.services.states.state_command import StateCommand


class StateChanges:
    """The executor, with the definitions beside it."""

    def __init__(
        self,
        executor: Executor,
        catalog: DefinitionCatalog,
        access: Visibility,
        recovery: Recovery,
        endings: Endings,
        limit: ChangeLimit,
    ) -> None:
        self._executor = executor
        self._catalog = catalog
        self._access = access
        self._recovery = recovery
        self._endings = endings
        self._limit = limit

    async def change(self, command: StateCommand, decide: Decide) -> tuple[FlowState, bool]:
        """The state afterwards with the caller's transitions, and whether this request changed it. Raises
        FlowNotStartedError when there is none."""
        after, changed = await self.execute(command, decide)
        if after is None:
            raise await self.not_started(command.user_id, command.flow_id)
        return await self._access.with_transitions(after, command.origin.caller), changed

    async def execute(self, command: StateCommand, decide: Decide) -> tuple[FlowState | None, bool]:
        """As Executor.execute; a conflict carries the present state as it is answered, corruption what
        a recovery would do, and the absence of a state how the last one ended. Raises
        InsufficientPermissionsError when the caller must not see the flow, RateLimitedError."""
        await self._access.require_visible(command.flow_id, command.origin.caller)
        if command.limited and not command.origin.dry_run:
            self._limit.take(command.origin)
        try:
            async with self.with_recovery_advice(command.user_id, command.flow_id):
                return await self._executor.execute(command, decide)
        except FlowNotStartedError:
            raise await self.not_started(command.user_id, command.flow_id) from None
        except RevisionConflictError as conflict:
            if conflict.state is not None:
                present = await self._access.with_transitions(conflict.state, command.origin.caller)
                conflict.details["state"] = state_view(present)
            elif command.origin.expected is not None:
                conflict.details.update(await self._endings.of(command.user_id, command.flow_id))
            raise

    async def not_started(self, user_id: str, flow_id: str) -> FlowNotStartedError:
        """The error for a state that is not there, with how the last one ended."""
        return FlowNotStartedError(flow_id, await self._endings.of(user_id, flow_id))

    @asynccontextmanager
    async def with_recovery_advice(self, user_id: str, flow_id: str) -> AsyncIterator[None]:
        """Corruption that is met inside is told with what a recovery would do."""
        try:
            yield
        except FlowStateCorruptionError as damage:
            raise await self._recovery.with_advice(user_id, flow_id, damage) from None

    async def started(self, state: FlowState | None, flow_id: str) -> FlowState:
        """The state. Raises FlowNotStartedError, or FlowNotFoundError when there is no such flow."""
        if state is None:
            await self._catalog.current(flow_id)
            raise FlowNotStartedError(flow_id)
        return state
