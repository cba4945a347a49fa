"""Operations on one state: read, start, run transitions, reset, undo, set, clear, and read its history."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import UNSET, UnsetType, structs

from app.auth.policy import named_user, require_acting_for
from app.contracts.callers import Caller
from app.contracts.commands import Origin, ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.errors import Fault, FlowNotFoundError, InvalidRequestError
from app.contracts.identifiers import require_state
from app.contracts.pages import Page
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import ListedStatus, StatePage, StateStore
from app.contracts.record import HistoryFilter, HistoryRecord
from app.contracts.results import Started, Verification
from app.contracts.state import FlowState, Payload, StateId
from app.flow import rules
from app.flow.people.assignment import require_assignable
from app.flow.people.callers import caller_at_start, caller_on
from app.flow.people.participants import group_participants
from app.flow.permissions import require_entrance, require_resettable
from app.flow.position import require_active
from app.flow.values.payload import PayloadLimits, check_payload
from app.flow.values.removal import require_pointers
from app.kit.ids import new_id
from app.kit.numbers import with_doubles
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.states.changes import StateChanges
from app.services.states.executor import Decide
from app.services.states.history import HistoryReader
from app.services.states.identification import Identification, require_kind
from app.services.states.state_command import ProposedChange, StateCommand


class StateOperations:
    """Decides each operation with the rules of ``app.flow`` and has it executed."""

    def __init__(
        self,
        states: StateStore,
        changes: StateChanges,
        catalog: DefinitionCatalog,
        access: Visibility,
        history: HistoryReader,
        identification: Identification,
        clock: Clock,
        payload_limits: PayloadLimits,
    ) -> None:
        self._states = states
        self._changes = changes
        self._catalog = catalog
        self._access = access
        self._history = history
        self._identification = identification
        self._clock = clock
        self._payload_limits = payload_limits

    async def get(
        self, user_id: str, flow_id: str, caller: Caller, entity_id: str | None = None
    ) -> FlowState | None:
        """Return the state with the caller's transitions, None if none is running.

        Raises:
            FlowNotFoundError: There is neither a state nor a flow with this name.
            UserErasedError: The user was erased, and the caller is another one, who may know it.
            EntityRequiredError: The entity is missing, and there are several states.
        """
        state_id = await self._identify(user_id, flow_id, entity_id, caller)
        async with self._changes.with_recovery_advice(state_id):
            stored = await self._states.load(state_id)
            await self._access.require_seen(state_id, None if stored is None else stored.state, caller)
            if stored is None or stored.state.is_gone_at(self._clock.now()):
                await self._catalog.current(flow_id)
                await self._changes.require_not_erased(stored, caller)
                return None
            return await self._access.with_transitions(stored.state, caller)

    async def require(
        self, user_id: str, flow_id: str, caller: Caller, entity_id: str | None = None
    ) -> FlowState:
        """Return the state with the caller's transitions.

        Raises:
            FlowNotStartedError: None is running; the details say how the last one ended.
            FlowNotFoundError: There is no flow with this name.
        """
        state = await self.get(user_id, flow_id, caller, entity_id)
        if state is None:
            state_id = await self._identification.of(user_id, flow_id, entity_id, caller)
            raise await self._changes.not_started(state_id)
        return state

    async def list_instances(
        self,
        user_id: str,
        flow_id: str,
        caller: Caller,
        *,
        status: ListedStatus | None,
        after: str | None,
        limit: int,
    ) -> StatePage:
        """Return a user's states in a flow with many for each user, the newest first."""
        require_state(user_id, flow_id)
        named_user(caller, user_id)
        await self._access.require_visible(flow_id, caller)
        if await self._catalog.newest(flow_id) is None:
            raise FlowNotFoundError(flow_id)
        page = await self._states.list_instances(
            flow_id, user_id, status=status, after=after, limit=limit, now=self._clock.now()
        )
        return StatePage(await self._access.with_transitions_of_all(page.states, caller), page.next)

    async def start(self, user_id: str, flow_id: str, command: StartCommand, origin: Origin) -> Started:
        """Start a flow, or return the state that is running already."""
        command = structs.replace(command, payload=with_doubles(command.payload))
        tried: object = command.entity_id
        while True:
            state_id = await self._identification.of_new(user_id, flow_id, command.entity_id, origin)
            state_command = StateCommand.of_caller(state_id, "started", command, origin)
            started = Started(*await self._changes.change(state_command, self._first(state_command, command)))
            if started.started or state_id.instance_id in (None, tried):
                return started  # otherwise another start got the same new entity
            tried = state_id.instance_id  # if it comes again it is reserved for this request

    def _first(self, state_command: StateCommand, command: StartCommand) -> Decide:
        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            if state is not None:
                return None
            return await self._first_state(state_command, command, now)

        return decide

    async def transition(
        self,
        user_id: str,
        flow_id: str,
        transition: str,
        payload: Payload | UnsetType,
        origin: Origin,
        *,
        ok: bool = True,
        message: str | UnsetType = UNSET,
        remove: Sequence[str] | UnsetType = UNSET,
        entity_id: str | None = None,
    ) -> FlowState:
        """Run a transition of the current step."""
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller)
        payload = with_doubles(payload)
        if remove is not UNSET:
            require_pointers(remove)
        removed = remove if remove is UNSET else tuple(remove)
        command = TransitionCommand(payload=payload, ok=ok, message=message, remove=removed)
        state_command = StateCommand.of_caller(state_id, transition, command, origin, of_step=True)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            present = await self._changes.started(state, state_id)
            definition = await self._catalog.pinned(present)
            caller, mask = self._access.effective(definition.flow, present, origin.caller)
            after = rules.transition(definition, present, transition, command, now, caller, mask)
            kind = rules.run_kind(present, after)
            if kind is None:
                return None
            check_payload(payload, after.payload, self._payload_limits, known=True)
            return ProposedChange(kind, transition, after, payload, definition.flow.ttl)

        return (await self._changes.change(state_command, decide))[0]

    async def reset(
        self,
        user_id: str,
        flow_id: str,
        command: ResetCommand,
        origin: Origin,
        *,
        entity_id: str | None = None,
    ) -> FlowState:
        """Begin the state again on the newest version, or start it if none is running."""
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller, guess=False)
        state_command = StateCommand.of_caller(state_id, "reset", command, origin, replaces=True)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            if state is None:
                return await self._first_state(state_command, StartCommand(step=command.step), now)
            definition = await self._catalog.current_or_pinned(state)
            caller = caller_on(definition.flow, state, origin.caller)
            require_resettable(definition.flow, caller)
            require_entrance(definition.flow, command.step, caller)
            return ProposedChange.of_kind("reset", definition, rules.reset(definition, state, command, now))

        return (await self._changes.change(state_command, decide))[0]

    async def undo(
        self, user_id: str, flow_id: str, origin: Origin, *, entity_id: str | None = None
    ) -> FlowState:
        """Go back to the previous step, if the last transition was reversible. The payload stays."""
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller)
        state_command = StateCommand.of_caller(state_id, "undone", None, origin)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            present = await self._changes.started(state, state_id)
            definition = await self._catalog.pinned(present)
            caller, mask = self._access.effective(definition.flow, present, origin.caller)
            after = rules.back(definition, present, now, caller, mask)
            return ProposedChange.of_kind("undone", definition, after)

        return (await self._changes.change(state_command, decide))[0]

    async def set(
        self, user_id: str, command: SetCommand, origin: Origin, *, entity_id: str | None = None
    ) -> FlowState:
        """Replace the state in ``command.flow``, or create it at the given step, on the newest version."""
        command = structs.replace(command, payload=with_doubles(command.payload))
        flow_id = command.flow
        if flow_id is UNSET:
            raise InvalidRequestError([Fault("/flow", "which flow?")])
        if command.remove is not UNSET:
            require_pointers(command.remove)
        require_acting_for(origin.caller, user_id)
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller, guess=False)
        state_command = StateCommand.of_caller(state_id, "set", command, origin, replaces=True)

        async def decide(present: FlowState | None, now: datetime) -> ProposedChange:
            if present is None:
                definition = await self._catalog.current(flow_id)
                require_kind(definition.flow, state_id)
                fresh = rules.start(definition, state_id, new_id(), StartCommand(step=command.step), now)
                present = structs.replace(fresh, revision=-1)  # the replacement is its first
            else:
                definition = await self._catalog.current_or_pinned(present)
            after = rules.replace(definition, present, command, now)
            check_payload(command.payload, after.payload, self._payload_limits)
            return ProposedChange.of_kind("set", definition, after, command.payload)

        return (await self._changes.change(state_command, decide))[0]

    async def clear(
        self, user_id: str, flow_id: str, origin: Origin, *, entity_id: str | None = None
    ) -> bool:
        """Remove a state; its history stays. Return False if none was running."""
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller, guess=False)
        state_command = StateCommand.of_caller(state_id, "cleared", None, origin, replaces=True)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            if state is None:
                return None
            await self._access.require_clearable(state, origin.caller)
            require_active(state)
            return ProposedChange("cleared", "cleared", rules.end(state, "cleared", now))

        _, cleared = await self._changes.execute(state_command, decide)
        if not cleared:
            await self._catalog.current(flow_id)
        return cleared

    async def read_history(
        self,
        user_id: str,
        flow_id: str,
        caller: Caller,
        *,
        after: str | None,
        limit: int,
        only: HistoryFilter,
        entity_id: str | None = None,
    ) -> list[HistoryRecord]:
        """Return the records that ``only`` selects, with their payloads, oldest first."""
        state_id = await self._identify(user_id, flow_id, entity_id, caller)
        found: list[HistoryRecord] = []
        while True:
            left = limit - len(found)
            page = await self._history_page(state_id, after, left, only, caller, with_payloads=True)
            found += page.items
            if page.next is None or len(found) >= limit:
                return found
            after = page.next

    async def page_history(
        self,
        user_id: str,
        flow_id: str,
        caller: Caller,
        *,
        after: str | None,
        limit: int,
        only: HistoryFilter,
        entity_id: str | None = None,
    ) -> Page[HistoryRecord]:
        """Return the next page of the records that ``only`` selects, as they are stored."""
        state_id = await self._identify(user_id, flow_id, entity_id, caller)
        return await self._history_page(state_id, after, limit, only, caller)

    async def verify_history(
        self, user_id: str, flow_id: str, caller: Caller, entity_id: str | None = None
    ) -> Verification:
        """Verify the chain of a state's records."""
        found = await self._history.verify(await self._identify(user_id, flow_id, entity_id, caller))
        if not found.records:
            await self._catalog.current(flow_id)
        return found

    async def _history_page(
        self,
        state_id: StateId,
        after: str | None,
        limit: int,
        only: HistoryFilter,
        caller: Caller,
        *,
        with_payloads: bool = False,
    ) -> Page[HistoryRecord]:
        page = await self._history.read(state_id, after, limit, only, caller, with_payloads=with_payloads)
        if not page.items and after is None:
            await self._catalog.current(state_id.flow_id)
        return page

    async def _identify(self, user_id: str, flow_id: str, entity_id: str | None, caller: Caller) -> StateId:
        """Return the identity of a state that the caller may see."""
        state_id = await self._identification.of(user_id, flow_id, entity_id, caller)
        await self._access.require_access(state_id, caller)
        return state_id

    async def _first_state(
        self, state_command: StateCommand, command: StartCommand, now: datetime
    ) -> ProposedChange:
        state_id = state_command.state_id
        definition = await self._catalog.current(state_id.flow_id)
        require_kind(definition.flow, state_id)
        caller = caller_at_start(definition.flow, state_id.user_id, state_command.origin.caller)
        require_entrance(definition.flow, command.step, caller)
        after = rules.start(definition, state_id, new_id(), command, now)
        if command.participants is not UNSET:
            require_assignable(
                definition.flow, group_participants(definition.flow), after.participants, caller
            )
        check_payload(command.payload, after.payload, self._payload_limits)
        return ProposedChange.of_kind("started", definition, after, command.payload)
