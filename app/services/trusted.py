"""Operations of trusted code in this process."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from app.contracts.callers import trusted_caller
from app.contracts.commands import ResetCommand, SetCommand, StartCommand, trusted_origin
from app.contracts.definition import ExpectedVersion
from app.contracts.flow import Flow, FlowPatch
from app.contracts.pages import Page
from app.contracts.ports.states import ListedStatus, StatePage
from app.contracts.positions import NOTHING_HELD, HeldPosition
from app.contracts.record import EVERYTHING, HistoryFilter, HistoryRecord
from app.contracts.results import CaughtUp, Retired, Started, Verification
from app.contracts.state import FlowState, Payload
from app.contracts.statistics import FlowStatistics
from app.flow.tokens.prefabs import with_prefabs
from app.services.wiring import Components

PROGRAM = "python"
"""The actor of changes of definitions."""


class TrustedFlows:
    """The operations of FlowService without a caller: every check of roles and scopes is passed.

    A change is recorded as one by the owner of the state. See FlowService for arguments and errors.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        self._operations = components.operations

    async def create_flow(self, definition: Flow | dict[str, object]) -> str:
        """Publish a flow as version 1 and return its slug."""
        created = await self._components.definitions.create(definition, actor=PROGRAM, source="python")
        return created.flow.flow

    async def update_flow(
        self,
        flow_id: str,
        changes: FlowPatch | dict[str, object],
        *,
        expected_version: ExpectedVersion = None,
    ) -> None:
        """Publish the next version: the newest one with the given top-level members replaced."""
        await self._components.definitions.update(
            flow_id, changes, actor=PROGRAM, source="python", expected_version=expected_version
        )

    async def delete_flow(
        self, flow_id: str, *, force: bool = False, expected_version: ExpectedVersion = None
    ) -> Retired:
        """Retire a flow; with ``force``, clear its running states too."""
        return await self._components.retirement.retire(
            flow_id,
            trusted_origin(PROGRAM),
            source="python",
            force=force,
            expected_version=expected_version,
        )

    async def list_flows(self) -> list[Flow]:
        """Return the newest version of every flow, ordered by slug."""
        found = self._components.definitions.all(caller=trusted_caller(PROGRAM))
        return [with_prefabs(definition.flow) async for definition in found]

    async def get_flow_state(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None
    ) -> FlowState | None:
        """Return the state with its transitions, None if no state is running."""
        return await self._operations.get(user_id, flow_id, trusted_caller(user_id), entity_id)

    async def require_flow_state(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None
    ) -> FlowState:
        """Return the state, or raise FlowNotStartedError."""
        return await self._operations.require(user_id, flow_id, trusted_caller(user_id), entity_id)

    async def get_flow_events(
        self,
        user_id: str,
        flow_id: str,
        held: HeldPosition = NOTHING_HELD,
        *,
        entity_id: str | None = None,
    ) -> CaughtUp:
        """Return the commits after the position that a subscriber holds."""
        caller = trusted_caller(user_id)
        state_id = await self._components.identification.of(user_id, flow_id, entity_id, caller)
        return await self._components.catch_up.for_subscriber(state_id, held, caller)

    async def list_flow_states(
        self,
        user_id: str,
        flow_id: str,
        *,
        status: ListedStatus | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> StatePage:
        """Return a user's states in a flow with many for each user, the newest start first."""
        return await self._operations.list_instances(
            user_id, flow_id, trusted_caller(user_id), status=status, after=after, limit=limit
        )

    async def get_user_flows(self, user_id: str) -> list[FlowState]:
        """Return a user's states in all flows, ordered by flow."""
        administration = self._components.administration
        return await administration.list_states_of_user(user_id, trusted_caller(user_id))

    async def start_flow(self, user_id: str, flow_id: str, command: StartCommand | None = None) -> Started:
        """Start a flow, unless the user has a running state of it."""
        origin = trusted_origin(user_id)
        return await self._operations.start(user_id, flow_id, command or StartCommand(), origin)

    async def execute_transition(
        self,
        user_id: str,
        flow_id: str,
        transition: str,
        payload: Payload | UnsetType = UNSET,
        *,
        ok: bool = True,
        message: str | UnsetType = UNSET,
        remove: Sequence[str] | UnsetType = UNSET,
        entity_id: str | None = None,
    ) -> FlowState:
        """Run a transition of the current step."""
        origin = trusted_origin(user_id)
        return await self._operations.transition(
            user_id,
            flow_id,
            transition,
            payload,
            origin,
            ok=ok,
            message=message,
            remove=remove,
            entity_id=entity_id,
        )

    async def reset_flow(
        self, user_id: str, flow_id: str, step: str | None = None, *, entity_id: str | None = None
    ) -> FlowState:
        """Begin the state again on the newest version, or start the flow if no state is running."""
        return await self._operations.reset(
            user_id, flow_id, ResetCommand(step=step), trusted_origin(user_id), entity_id=entity_id
        )

    async def undo_transition(self, user_id: str, flow_id: str, *, entity_id: str | None = None) -> FlowState:
        """Return to ``previous``, if the last transition was reversible."""
        return await self._operations.undo(user_id, flow_id, trusted_origin(user_id), entity_id=entity_id)

    async def set_flow_state(
        self, user_id: str, state: SetCommand, *, entity_id: str | None = None
    ) -> FlowState:
        """Replace the state in ``state.flow``, or create it at the given step."""
        return await self._operations.set(user_id, state, trusted_origin(user_id), entity_id=entity_id)

    async def clear_flow_state(self, user_id: str, flow_id: str, *, entity_id: str | None = None) -> bool:
        """Remove a state; its history stays. Return False if no state was running."""
        return await self._operations.clear(user_id, flow_id, trusted_origin(user_id), entity_id=entity_id)

    async def get_flow_history(
        self,
        user_id: str,
        flow_id: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        only: HistoryFilter = EVERYTHING,
        entity_id: str | None = None,
    ) -> list[HistoryRecord]:
        """Return the records of a state that ``only`` selects, oldest first."""
        return await self._operations.read_history(
            user_id,
            flow_id,
            trusted_caller(user_id),
            after=after,
            limit=limit,
            only=only,
            entity_id=entity_id,
        )

    async def page_flow_history(
        self,
        user_id: str,
        flow_id: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        only: HistoryFilter = EVERYTHING,
        entity_id: str | None = None,
    ) -> Page[HistoryRecord]:
        """Return one page of what ``get_flow_history`` returns."""
        return await self._operations.page_history(
            user_id,
            flow_id,
            trusted_caller(user_id),
            after=after,
            limit=limit,
            only=only,
            entity_id=entity_id,
        )

    async def verify_flow_history(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None
    ) -> Verification:
        """Verify the chain of a state's records."""
        return await self._operations.verify_history(user_id, flow_id, trusted_caller(user_id), entity_id)

    async def get_flow_statistics(self) -> FlowStatistics:
        """Return statistics over all states and their history."""
        return await self._components.read_statistics()

    async def purge_expired_flows(self) -> int:
        """End all expired states, and return their number."""
        return await self._components.purge_expired()
