"""The face of the use cases, for the interfaces and for other Python programs."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from app.contracts.callers import Caller
from app.contracts.commands import Origin, ResetCommand, SetCommand, StartCommand
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
from app.services.trusted import TrustedFlows
from app.services.wiring import Components, Limits, Ports


class FlowService:
    """Flows, states and transitions.

    Use it as an async context manager: its background jobs (delivery to the history and to clients, expiry)
    start on entry and end on exit. ``user_id`` names the owner of a state; ``caller``, or ``origin.caller``,
    is who requests the operation, whose roles and scopes decide. ``entity_id`` names one of many states of a
    user in a flow; None is the one without an entity, or else the only one, and raises EntityRequiredError if
    there are several. ``as_trusted`` gives programs the same operations without a caller. Every method raises
    StoreUnavailableError if MongoDB cannot be reached.
    """

    def __init__(self, ports: Ports, limits: Limits | None = None) -> None:
        self._components = components = Components(ports, limits or Limits())
        self._operations = components.operations
        self.definitions = components.definitions
        self.exchange = components.exchange
        self.diagrams = components.diagrams
        self.tokens = components.tokens
        self.migration = components.migration
        self.administration = components.administration
        self.search = components.search
        self.people = components.people
        self.explanations = components.explanations
        self.identification = components.identification
        self.catch_up = components.catch_up
        self.bulk = components.bulk
        self.personal_data = components.personal_data
        self.history = components.history
        self.updates = components.updates
        self.subscribers, self.presence = components.subscribers, components.presence
        self.integrations = components.integrations
        self.key_rotation = components.key_rotation
        self.clear_data = components.clear_data
        self.background = components.background
        self.audit, self.clients = components.audit, components.clients

    async def __aenter__(self) -> "FlowService":
        self.background.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.background.stop()
        await self.audit.close()

    def as_trusted(self) -> TrustedFlows:
        """Return the operations without a caller, for code that decides itself who may do what."""
        return TrustedFlows(self._components)

    async def create_flow(self, definition: Flow | dict[str, object], *, actor: str = "python") -> str:
        """Publish a flow as version 1 and return its slug.

        Raises:
            InvalidDefinitionError: With every fault of the definition.
            FlowExistsError: A flow with this slug is published already.
        """
        created = await self.definitions.create(definition, actor=actor, source="python")
        return created.flow.flow

    async def update_flow(
        self,
        flow_id: str,
        changes: FlowPatch | dict[str, object],
        *,
        actor: str = "python",
        expected_version: ExpectedVersion = None,
    ) -> None:
        """Publish the next version: the newest one with the given top-level members replaced.

        Running states stay on their version.

        Raises:
            FlowNotFoundError: There is no such flow, or it is retired.
            InvalidDefinitionError: With every fault of the result.
            VersionConflictError: The newest version is not the expected one.
        """
        await self.definitions.update(
            flow_id, changes, actor=actor, source="python", expected_version=expected_version
        )

    async def delete_flow(
        self,
        flow_id: str,
        *,
        origin: Origin,
        force: bool = False,
        expected_version: ExpectedVersion = None,
        source: str = "python",
    ) -> Retired:
        """Retire a flow: no new state starts on it, and running states go on.

        Args:
            flow_id: The flow.
            origin: The source of the request.
            force: Clear the running states too.
            expected_version: The newest version, as the caller knows it.
            source: The kind of interface, stored with the last version.

        Raises:
            FlowNotFoundError: There is no such flow, or it is retired.
            VersionConflictError: The newest version is not the expected one.
        """
        return await self._components.retirement.retire(
            flow_id, origin, source=source, force=force, expected_version=expected_version
        )

    async def list_flows(self, *, caller: Caller) -> list[Flow]:
        """Return the newest version of every flow that the caller may see, ordered by slug."""
        return [with_prefabs(found.flow) async for found in self.definitions.all(caller=caller)]

    async def get_flow_state(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, caller: Caller
    ) -> FlowState | None:
        """Return the state with the transitions that the caller may run, None if no state is running.

        Raises:
            InsufficientPermissionsError: The caller may not see the flow.
            FlowNotFoundError: There is neither a state nor a flow with this name.
            FlowStateCorruptionError: The stored state is damaged; the details say what a recovery would do.
        """
        return await self._operations.get(user_id, flow_id, caller, entity_id)

    async def require_flow_state(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, caller: Caller
    ) -> FlowState:
        """Return the state like ``get_flow_state``.

        Raises:
            FlowNotStartedError: No state is running; the details say how the last one ended.
        """
        return await self._operations.require(user_id, flow_id, caller, entity_id)

    async def get_flow_events(
        self,
        user_id: str,
        flow_id: str,
        held: HeldPosition = NOTHING_HELD,
        *,
        entity_id: str | None = None,
        caller: Caller,
    ) -> CaughtUp:
        """Return the commits after the position that a subscriber holds. Raises as ``get_flow_state``."""
        state_id = await self.identification.of(user_id, flow_id, entity_id, caller)
        return await self.catch_up.for_subscriber(state_id, held, caller)

    async def list_flow_states(
        self,
        user_id: str,
        flow_id: str,
        *,
        caller: Caller,
        status: ListedStatus | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> StatePage:
        """Return a user's states with an entity in a flow, the newest first. ``after``: the last ``next``."""
        return await self._operations.list_instances(
            user_id, flow_id, caller, status=status, after=after, limit=limit
        )

    async def get_user_flows(self, user_id: str, *, caller: Caller) -> list[FlowState]:
        """Return a user's states in all flows that the caller may see, ordered by flow."""
        return await self.administration.list_states_of_user(user_id, caller)

    async def start_flow(
        self, user_id: str, flow_id: str, command: StartCommand | None = None, *, origin: Origin
    ) -> Started:
        """Start a flow, unless the user has a running state of it, which is returned as it is.

        Raises:
            FlowNotFoundError: There is no such flow.
            InvalidRequestError: The flow has no such step.
            InsufficientPermissionsError: The caller may not see the flow, or not start it at this step.
        """
        return await self._operations.start(user_id, flow_id, command or StartCommand(), origin)

    async def execute_transition(
        self,
        user_id: str,
        flow_id: str,
        transition: str,
        payload: Payload | UnsetType = UNSET,
        *,
        origin: Origin,
        ok: bool = True,
        message: str | UnsetType = UNSET,
        remove: Sequence[str] | UnsetType = UNSET,
        entity_id: str | None = None,
    ) -> FlowState:
        """Run a transition of the current step.

        Args:
            user_id: The owner of the state.
            flow_id: The flow.
            transition: The name of the transition.
            payload: Members that are merged into the payload of the state.
            origin: The source of the command.
            ok: The outcome as the caller sees it; stored with the state.
            message: Replaces the message of the state, or clears it when absent.
            remove: JSON pointers to members that are removed before ``payload`` is merged.
            entity_id: The entity of the state.

        Raises:
            InvalidRequestError: A pointer is malformed.
            FlowNotFoundError, FlowNotStartedError: There is no such flow, no running state.
            InvalidTransitionError: The current step has no such transition.
            InsufficientPermissionsError, GuardRefusedError: The caller may not run it, or not now.
            InvalidPayloadError, PayloadTooLargeError: With every fault of the payload.
            StatePausedError: An administrator has paused the state.
            RevisionConflictError: The state is not at the position that ``origin`` expects.
            FlowStateCorruptionError: The stored state is damaged.
        """
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
        self,
        user_id: str,
        flow_id: str,
        step: str | None = None,
        *,
        entity_id: str | None = None,
        origin: Origin,
    ) -> FlowState:
        """Begin the state again on the newest version, at the initial or the named step.

        Starts the flow if no state is running.

        Raises:
            InsufficientPermissionsError: The caller may not reset states of the flow.
            StatePausedError: An administrator has paused the state.
        """
        return await self._operations.reset(
            user_id, flow_id, ResetCommand(step=step), origin, entity_id=entity_id
        )

    async def undo_transition(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, origin: Origin
    ) -> FlowState:
        """Return to ``previous``, if the last transition was reversible. The payload stays as it is.

        Raises:
            InvalidTransitionError: There is nothing to undo.
            StatePausedError: An administrator has paused the state.
        """
        return await self._operations.undo(user_id, flow_id, origin, entity_id=entity_id)

    async def set_flow_state(
        self, user_id: str, state: SetCommand, *, entity_id: str | None = None, origin: Origin
    ) -> FlowState:
        """Replace the state in ``state.flow``, or create it at the given step: a repair.

        The result runs on the newest version.
        """
        return await self._operations.set(user_id, state, origin, entity_id=entity_id)

    async def clear_flow_state(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, origin: Origin
    ) -> bool:
        """Remove a state; its history stays. Return False if no state was running.

        Raises:
            InsufficientPermissionsError: The caller may not clear states of the flow.
            StatePausedError: An administrator has paused the state.
        """
        return await self._operations.clear(user_id, flow_id, origin, entity_id=entity_id)

    async def get_flow_history(
        self,
        user_id: str,
        flow_id: str,
        *,
        caller: Caller,
        after: str | None = None,
        limit: int = 1000,
        only: HistoryFilter = EVERYTHING,
        entity_id: str | None = None,
    ) -> list[HistoryRecord]:
        """Return the records of a state that ``only`` selects, oldest first.

        They include those that are not in the history yet, so that callers read their own writes. ``after``
        is the id of the record after which to begin.
        """
        return await self._operations.read_history(
            user_id, flow_id, caller, after=after, limit=limit, only=only, entity_id=entity_id
        )

    async def page_flow_history(
        self,
        user_id: str,
        flow_id: str,
        *,
        caller: Caller,
        after: str | None = None,
        limit: int = 1000,
        only: HistoryFilter = EVERYTHING,
        entity_id: str | None = None,
    ) -> Page[HistoryRecord]:
        """Return one page of what ``get_flow_history`` returns.

        A page ends at a number of bytes too; its ``next`` is the ``after`` of the next page. Payloads that
        records only name (``payload_revision``) are left out.
        """
        return await self._operations.page_history(
            user_id, flow_id, caller, after=after, limit=limit, only=only, entity_id=entity_id
        )

    async def verify_flow_history(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, caller: Caller
    ) -> Verification:
        """Verify the chain of a state's records; if it is broken, return its first broken link."""
        return await self._operations.verify_history(user_id, flow_id, caller, entity_id)

    async def get_flow_statistics(self) -> FlowStatistics:
        """Return statistics over all states and their history."""
        return await self._components.read_statistics()

    async def purge_expired_flows(self, *, caller: Caller | None = None) -> int:
        """End all expired states, and return their number."""
        return await self._components.purge_expired(caller)
