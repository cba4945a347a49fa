"""Changes of states as the use cases make them: executed, and answered with what may run next."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import UNSET, UnsetType

from app.contracts.commands import Origin
from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowNotStartedError, FlowStateCorruptionError, RevisionConflictError
from app.contracts.identifiers import require_state
from app.contracts.record import Kind
from app.contracts.state import FlowState, Payload
from app.contracts.wire.states import state_view
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.states.change_limit import ChangeLimit
from app.services.states.committer import ProposedChange
from app.services.states.endings import Endings
from app.services.states.executor import Decide, Executor, StateCommand
from app.services.states.recovery import Recovery


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

    async def change(self, asked: StateCommand, decide: Decide) -> tuple[FlowState, bool]:
        """The state afterwards with the caller's transitions, and whether this request changed it. Raises
        FlowNotStartedError when there is none."""
        after, changed = await self.execute(asked, decide)
        if after is None:
            raise await self.not_started(asked.user_id, asked.flow_id)
        return await self._access.with_transitions(after, asked.origin.caller), changed

    async def execute(self, asked: StateCommand, decide: Decide) -> tuple[FlowState | None, bool]:
        """As Executor.execute; a conflict carries the present state as it is answered, corruption what
        a recovery would do, and the absence of a state how the last one ended. Raises
        InsufficientPermissionsError when the caller must not see the flow, RateLimitedError."""
        await self._access.require_visible(asked.flow_id, asked.origin.caller)
        if asked.limited and not asked.origin.dry_run:
            self._limit.take(asked.origin)
        try:
            async with self.with_recovery_advice(asked.user_id, asked.flow_id):
                return await self._executor.execute(asked, decide)
        except FlowNotStartedError:
            raise await self.not_started(asked.user_id, asked.flow_id) from None
        except RevisionConflictError as conflict:
            if conflict.state is not None:
                present = await self._access.with_transitions(conflict.state, asked.origin.caller)
                conflict.details["state"] = state_view(present)
            elif asked.origin.expected is not None:
                conflict.details.update(await self._endings.of(asked.user_id, asked.flow_id))
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


def changed(
    kind: Kind, definition: FlowDefinition, after: FlowState, payload: Payload | UnsetType = UNSET
) -> ProposedChange:
    """A change that is recorded by its kind."""
    return ProposedChange(kind, kind, after, payload, definition.flow.ttl)


def request(
    user_id: str,
    flow_id: str,
    name: str,
    command: object,
    origin: Origin,
    *,
    replaces: bool = False,
) -> StateCommand:
    """Build a command that counts against the limit of its caller's changes. Raises InvalidRequestError."""
    require_state(user_id, flow_id)
    return StateCommand(user_id, flow_id, name, command, origin, replaces, limited=True)
