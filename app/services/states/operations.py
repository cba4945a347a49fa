"""Operations on one state: read, start, run transitions, reset, undo, set, clear, and read its history."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import Caller
from app.contracts.commands import Origin, ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.identifiers import require_state
from app.contracts.pages import Page
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore
from app.contracts.record import HistoryFilter, HistoryRecord
from app.contracts.results import Started, Verification
from app.contracts.state import FlowState, Payload, StateId
from app.flow import rules
from app.flow.permissions import require_entrance, require_resettable
from app.flow.position import require_active
from app.flow.values.payload import check_size, require_storable
from app.flow.values.removal import require_pointers
from app.kit.ids import new_id
from app.kit.numbers import with_doubles
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.states.changes import StateChanges
from app.services.states.history import HistoryReader
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
        clock: Clock,
        *,
        max_payload_bytes: int,
    ) -> None:
        self._states = states
        self._changes = changes
        self._catalog = catalog
        self._access = access
        self._history = history
        self._clock = clock
        self._max_payload_bytes = max_payload_bytes

    async def get(self, user_id: str, flow_id: str, caller: Caller) -> FlowState | None:
        """Return the state with the caller's transitions, None if none is running.

        Raises:
            FlowNotFoundError: There is neither a state nor a flow with this name.
        """
        require_state(user_id, flow_id)
        await self._access.require_visible(flow_id, caller)
        async with self._changes.with_recovery_advice(user_id, flow_id):
            stored = await self._states.load(flow_id, user_id)
            if stored is None or stored.state.is_gone_at(self._clock.now()):
                await self._catalog.current(flow_id)
                return None
            return await self._access.with_transitions(stored.state, caller)

    async def require(self, user_id: str, flow_id: str, caller: Caller) -> FlowState:
        """Return the state with the caller's transitions.

        Raises:
            FlowNotStartedError: None is running; the details say how the last one ended.
            FlowNotFoundError: There is no flow with this name.
        """
        state = await self.get(user_id, flow_id, caller)
        if state is None:
            raise await self._changes.not_started(user_id, flow_id)
        return state

    async def start(self, user_id: str, flow_id: str, command: StartCommand, origin: Origin) -> Started:
        """Start a flow, or return the state that is running already."""
        command = structs.replace(command, payload=with_doubles(command.payload))
        state_command = StateCommand.of_caller(user_id, flow_id, "started", command, origin)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            if state is not None:
                return None
            return await self._first_state(state_command, command, now)

        return Started(*await self._changes.change(state_command, decide))

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
    ) -> FlowState:
        """Run a transition of the current step."""
        payload = with_doubles(payload)
        if remove is not UNSET:
            require_pointers(remove)
        removed = remove if remove is UNSET else tuple(remove)
        command = TransitionCommand(payload=payload, ok=ok, message=message, remove=removed)
        state_command = StateCommand.of_caller(user_id, flow_id, transition, command, origin)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            present = await self._changes.started(state, flow_id)
            definition = await self._catalog.pinned(present)
            after = rules.transition(definition, present, transition, command, now, origin.caller)
            if payload is not UNSET:  # the rules have checked what it contains
                self._check_size(after)
            return ProposedChange("transitioned", transition, after, payload, definition.flow.ttl)

        after, _ = await self._changes.change(state_command, decide)
        return after

    async def reset(self, user_id: str, flow_id: str, command: ResetCommand, origin: Origin) -> FlowState:
        """Begin the state again on the newest version, or start it if none is running."""
        state_command = StateCommand.of_caller(user_id, flow_id, "reset", command, origin, replaces=True)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            if state is None:
                return await self._first_state(state_command, StartCommand(step=command.step), now)
            definition = await self._catalog.current_or_pinned(state)
            require_resettable(definition.flow, origin.caller)
            require_entrance(definition.flow, command.step, origin.caller)
            return ProposedChange.of_kind("reset", definition, rules.reset(definition, state, command, now))

        after, _ = await self._changes.change(state_command, decide)
        return after

    async def undo(self, user_id: str, flow_id: str, origin: Origin) -> FlowState:
        """Go back to the previous step, if the last transition was reversible. The payload stays."""
        state_command = StateCommand.of_caller(user_id, flow_id, "undone", None, origin)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            present = await self._changes.started(state, flow_id)
            definition = await self._catalog.pinned(present)
            return ProposedChange.of_kind(
                "undone", definition, rules.back(definition, present, now, origin.caller)
            )

        after, _ = await self._changes.change(state_command, decide)
        return after

    async def set(self, user_id: str, command: SetCommand, origin: Origin) -> FlowState:
        """Replace the state in ``command.flow``, or create it at the given step, on the newest version."""
        command = structs.replace(command, payload=with_doubles(command.payload))
        flow_id = command.flow
        if flow_id is UNSET:
            raise InvalidRequestError([Fault("/flow", "which flow?")])
        if command.remove is not UNSET:
            require_pointers(command.remove)

        async def decide(present: FlowState | None, now: datetime) -> ProposedChange:
            if present is None:
                definition = await self._catalog.current(flow_id)
                fresh = rules.start(
                    definition, StateId(flow_id, user_id), new_id(), StartCommand(step=command.step), now
                )
                present = structs.replace(fresh, revision=-1)  # the replacement is its first
            else:
                definition = await self._catalog.current_or_pinned(present)
            after = rules.replace(definition, present, command, now)
            self._check_payload(command.payload, after)
            return ProposedChange.of_kind("set", definition, after, command.payload)

        after, _ = await self._changes.change(
            StateCommand.of_caller(user_id, flow_id, "set", command, origin, replaces=True), decide
        )
        return after

    async def clear(self, user_id: str, flow_id: str, origin: Origin) -> bool:
        """Remove a state; its history stays. Return False if none was running."""
        state_command = StateCommand.of_caller(user_id, flow_id, "cleared", None, origin, replaces=True)

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
    ) -> list[HistoryRecord]:
        """Return the records that ``only`` selects, with their payloads, oldest first."""
        found: list[HistoryRecord] = []
        while True:
            page = await self._history_page(
                user_id, flow_id, caller, after, limit - len(found), only, with_payloads=True
            )
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
    ) -> Page[HistoryRecord]:
        """Return the next page of the records that ``only`` selects, as they are stored."""
        return await self._history_page(user_id, flow_id, caller, after, limit, only)

    async def verify_history(self, user_id: str, flow_id: str, caller: Caller) -> Verification:
        """Verify the chain of a state's records."""
        require_state(user_id, flow_id)
        await self._access.require_visible(flow_id, caller)
        found = await self._history.verify(flow_id, user_id)
        if not found.records:
            await self._catalog.current(flow_id)
        return found

    async def _history_page(
        self,
        user_id: str,
        flow_id: str,
        caller: Caller,
        after: str | None,
        limit: int,
        only: HistoryFilter,
        *,
        with_payloads: bool = False,
    ) -> Page[HistoryRecord]:
        require_state(user_id, flow_id)
        await self._access.require_visible(flow_id, caller)
        page = await self._history.read(flow_id, user_id, after, limit, only, with_payloads=with_payloads)
        if not page.items and after is None:
            await self._catalog.current(flow_id)
        return page

    async def _first_state(
        self, state_command: StateCommand, command: StartCommand, now: datetime
    ) -> ProposedChange:
        definition = await self._catalog.current(state_command.flow_id)
        require_entrance(definition.flow, command.step, state_command.origin.caller)
        after = rules.start(
            definition, StateId(state_command.flow_id, state_command.user_id), new_id(), command, now
        )
        self._check_payload(command.payload, after)
        return ProposedChange.of_kind("started", definition, after, command.payload)

    def _check_payload(self, given: Payload | UnsetType, after: FlowState) -> None:
        if given is not UNSET:
            require_storable(given)
            self._check_size(after)

    def _check_size(self, after: FlowState) -> None:
        if after.payload is not UNSET:
            check_size(after.payload, self._max_payload_bytes)
