"""The service: the reference's thirteen operations, and ``start_flow``."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import Caller, trusted_caller
from app.contracts.commands import Origin, ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.definition import ExpectedVersion
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.flow import Flow, FlowPatch
from app.contracts.identifiers import require_ids, require_state
from app.contracts.pages import Page
from app.contracts.ports.states import StateFilter
from app.contracts.positions import NOTHING_HELD, HeldPosition
from app.contracts.record import EVERYTHING, HistoryFilter, HistoryRecord
from app.contracts.results import CaughtUp, Retired, Started, Verification
from app.contracts.state import FlowState, Payload
from app.contracts.statistics import FlowStatistics
from app.flow import rules
from app.flow.permissions import require_entrance, require_resettable
from app.flow.position import require_active
from app.flow.tokens.prefabs import with_prefabs
from app.flow.values.payload import check_size, require_storable
from app.flow.values.removal import require_pointers
from app.kit.numbers import with_doubles
from app.services.administration.batch import Bulk
from app.services.definitions.diagrams import FlowDiagrams
from app.services.definitions.exchange import DefinitionExchange
from app.services.definitions.tokens import StateTokens
from app.services.states.changes import changed, request
from app.services.states.committer import ProposedChange, new_id
from app.services.states.executor import StateCommand
from app.services.wiring import Components, Limits, Ports


class FlowService:
    """Flows, states and transitions, for doors and for other Python programs.

    Use it as an async context manager: on entry its background work begins (delivery to history
    and clients, expiry), on exit it is finished. ``user_id`` says whose state; ``origin`` who asks,
    by default the user. Every method raises StoreUnavailableError when MongoDB is away.
    """

    def __init__(self, ports: Ports, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        parts = Components(ports, limits)
        self._states = ports.states
        self._statistics = ports.statistics
        self._clock = ports.clock
        self._max_payload_bytes = limits.max_payload_bytes
        self._catalog = parts.catalog
        self._access = parts.access
        self._changes = parts.changes
        self._catch_up = parts.catch_up
        self._retirement = parts.retirement
        self.definitions = parts.definitions
        self.exchange = DefinitionExchange(parts.definitions)
        self.diagrams = FlowDiagrams(self, parts.definitions)
        self.tokens = StateTokens(self, parts.definitions)
        self.migration = parts.migration
        self.administration = parts.administration
        self.bulk = Bulk(self)
        self.personal_data = parts.personal_data
        self.history = parts.history
        self.updates = parts.updates
        self.audience = parts.audience
        self.presence = parts.presence
        self.background = parts.background

    async def __aenter__(self) -> "FlowService":
        self.background.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.background.stop()

    # Definitions

    async def create_flow(self, definition: Flow | dict[str, object], *, actor: str = "python") -> str:
        """Publish a flow as version 1 and return its slug. Raises InvalidDefinitionError with
        every fault, FlowExistsError."""
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
        States that run stay on theirs. Raises FlowNotFoundError, InvalidDefinitionError,
        VersionConflictError."""
        await self.definitions.update(
            flow_id, changes, actor=actor, source="python", expected_version=expected_version
        )

    async def delete_flow(
        self,
        flow_id: str,
        *,
        force: bool = False,
        expected_version: ExpectedVersion = None,
        origin: Origin | None = None,
        source: str = "python",
    ) -> Retired:
        """Retire a flow: nothing starts on it any more, states that run go on. ``force``: they are cleared
        too. Raises FlowNotFoundError, VersionConflictError."""
        return await self._retirement.retire(
            flow_id,
            origin or Origin(actor="python"),
            source=source,
            force=force,
            expected_version=expected_version,
        )

    async def list_flows(self) -> list[Flow]:
        """The newest version of every flow, by slug."""
        everything = self.definitions.all(caller=trusted_caller("python"))
        return [with_prefabs(definition.flow) async for definition in everything]

    # States

    async def get_flow_state(
        self, user_id: str, flow_id: str, *, caller: Caller | None = None
    ) -> FlowState | None:
        """The state with its available transitions; None when none was started. Raises
        FlowNotFoundError when there is neither a state nor such a flow."""
        require_state(user_id, flow_id)
        effective_caller = caller or trusted_caller(user_id)
        await self._access.require_visible(flow_id, effective_caller)
        async with self._changes.with_recovery_advice(user_id, flow_id):
            stored = await self._states.load(flow_id, user_id)
            if stored is None or stored.state.is_gone_at(self._clock.now()):
                await self._catalog.current(flow_id)
                return None
            return await self._access.with_transitions(stored.state, effective_caller)

    async def require_flow_state(
        self, user_id: str, flow_id: str, *, caller: Caller | None = None
    ) -> FlowState:
        """The state with its available transitions. Raises FlowNotStartedError with how the last one ended,
        FlowNotFoundError."""
        state = await self.get_flow_state(user_id, flow_id, caller=caller)
        if state is None:
            raise await self._changes.not_started(user_id, flow_id)
        return state

    async def get_flow_events(
        self,
        user_id: str,
        flow_id: str,
        held: HeldPosition = NOTHING_HELD,
        *,
        caller: Caller | None = None,
    ) -> CaughtUp:
        """The commits after the position that a follower holds. Raises as get_flow_state."""
        require_state(user_id, flow_id)
        effective_caller = caller or trusted_caller(user_id)
        await self._access.require_visible(flow_id, effective_caller)
        found = await self._catch_up.since(user_id, flow_id, held, effective_caller)
        if found is None:
            await self._catalog.current(flow_id)
        return found or CaughtUp(None)

    async def get_user_flows(self, user_id: str) -> list[FlowState]:
        """A user's states in all flows, by key."""
        require_ids({"userId": user_id})
        found: list[FlowState] = []
        caller, only = trusted_caller(user_id), StateFilter(user_id=user_id)
        page = await self.administration.find_states(only, caller=caller)
        found += page.states
        while page.next is not None:
            page = await self.administration.find_states(only, caller=caller, after=page.next)
            found += page.states
        return found

    async def start_flow(
        self,
        user_id: str,
        flow_id: str,
        command: StartCommand | None = None,
        *,
        origin: Origin | None = None,
    ) -> Started:
        """Start a flow, unless the user has a running state of it, which is returned as it is.

        Raises:
            FlowNotFoundError: There is no such flow.
            InvalidRequestError: The flow has no such step.
        """
        command = command or StartCommand()
        command = structs.replace(command, payload=with_doubles(command.payload))

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            if state is not None:
                return None
            return await self._fresh(user_id, flow_id, command, now, asked)

        asked = request(user_id, flow_id, "started", command, origin)
        return Started(*await self._changes.change(asked, decide))

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
        origin: Origin | None = None,
    ) -> FlowState:
        """Run a transition of the current step. ``remove`` are JSON pointers to members that are taken out of
        the state's payload before ``payload`` is merged into it. Raises InvalidRequestError,
        FlowNotFoundError, FlowNotStartedError, InvalidTransitionError, InsufficientPermissionsError,
        GuardRefusedError, InvalidPayloadError, PayloadTooLargeError, StatePausedError,
        RevisionConflictError, FlowStateCorruptionError."""
        payload = with_doubles(payload)
        if remove is not UNSET:
            require_pointers(remove)
        removed = remove if remove is UNSET else tuple(remove)
        command = TransitionCommand(payload=payload, ok=ok, message=message, remove=removed)
        asked = request(user_id, flow_id, transition, command, origin)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            present = await self._changes.started(state, flow_id)
            definition = await self._catalog.pinned(present)
            after = rules.transition(
                definition, present, transition, command, now, asked.origin.effective_caller
            )
            if payload is not UNSET:  # the rules have looked at what it is
                self._check_size(after)
            return ProposedChange("transitioned", transition, after, payload, definition.flow.ttl)

        after, _ = await self._changes.change(asked, decide)
        return after

    async def reset_flow(
        self, user_id: str, flow_id: str, step: str | None = None, *, origin: Origin | None = None
    ) -> FlowState:
        """The state begun again on the newest version, at the initial or the named step; started
        when there is none. Raises InsufficientPermissionsError, StatePausedError."""
        command = ResetCommand(step=step)
        asked = request(user_id, flow_id, "reset", command, origin, replaces=True)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            if state is None:
                return await self._fresh(user_id, flow_id, StartCommand(step=step), now, asked)
            definition = await self._catalog.current_or_pinned(state)
            require_resettable(definition.flow, asked.origin.effective_caller)
            require_entrance(definition.flow, step, asked.origin.effective_caller)
            return changed("reset", definition, rules.reset(definition, state, command, now))

        after, _ = await self._changes.change(asked, decide)
        return after

    async def undo_transition(self, user_id: str, flow_id: str, *, origin: Origin | None = None) -> FlowState:
        """Back to ``previous``, for a state whose last transition was reversible; the payload stays.
        Raises InvalidTransitionError, StatePausedError."""
        asked = request(user_id, flow_id, "undone", None, origin)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange:
            present = await self._changes.started(state, flow_id)
            definition = await self._catalog.pinned(present)
            return changed(
                "undone", definition, rules.back(definition, present, now, asked.origin.effective_caller)
            )

        after, _ = await self._changes.change(asked, decide)
        return after

    async def set_flow_state(
        self, user_id: str, state: SetCommand, *, origin: Origin | None = None
    ) -> FlowState:
        """Replace the state in ``state.flow`` wholesale, or make one at the given step: for repair.
        The result runs on the newest version."""
        state = structs.replace(state, payload=with_doubles(state.payload))
        flow_id = state.flow
        if flow_id is UNSET:
            raise InvalidRequestError([Fault("/flow", "which flow?")])
        if state.remove is not UNSET:
            require_pointers(state.remove)

        async def decide(present: FlowState | None, now: datetime) -> ProposedChange:
            if present is None:
                definition = await self._catalog.current(flow_id)
                fresh = rules.start(definition, user_id, new_id(), StartCommand(step=state.step), now)
                present = structs.replace(fresh, revision=-1)  # the replacement is its first
            else:
                definition = await self._catalog.current_or_pinned(present)
            after = rules.replace(definition, present, state, now)
            self._check_payload(state.payload, after)
            return changed("set", definition, after, state.payload)

        after, _ = await self._changes.change(
            request(user_id, flow_id, "set", state, origin, replaces=True), decide
        )
        return after

    async def clear_flow_state(self, user_id: str, flow_id: str, *, origin: Origin | None = None) -> bool:
        """Remove a state; its history stays. False when there was none. Raises InsufficientPermissionsError,
        StatePausedError."""
        asked = request(user_id, flow_id, "cleared", None, origin, replaces=True)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            if state is None:
                return None
            await self._access.require_clearable(state, asked.origin.effective_caller)
            require_active(state)
            return ProposedChange("cleared", "cleared", rules.end(state, "cleared", now))

        _, cleared = await self._changes.execute(asked, decide)
        if not cleared:
            await self._catalog.current(flow_id)
        return cleared

    # History and figures

    async def get_flow_history(
        self,
        user_id: str,
        flow_id: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        only: HistoryFilter = EVERYTHING,
        caller: Caller | None = None,
    ) -> list[HistoryRecord]:
        """Records of a state that ``only`` takes, oldest first, those after the record with the id
        ``after``; also those that are still on their way, so that a caller reads its own writes."""
        found: list[HistoryRecord] = []
        while True:
            wanted = limit - len(found)
            page = await self._history_page(user_id, flow_id, after, wanted, only, caller, with_payloads=True)
            found += page.items
            if page.next is None or len(found) >= limit:
                return found
            after = page.next

    async def page_flow_history(
        self,
        user_id: str,
        flow_id: str,
        *,
        after: str | None = None,
        limit: int = 1000,
        only: HistoryFilter = EVERYTHING,
        caller: Caller | None = None,
    ) -> Page[HistoryRecord]:
        """As get_flow_history, the next page alone, which ends at a number of bytes too; its ``next`` is the
        ``after`` to go on with. Payloads that records only name (``payload_revision``) are left out."""
        return await self._history_page(user_id, flow_id, after, limit, only, caller)

    async def _history_page(
        self,
        user_id: str,
        flow_id: str,
        after: str | None,
        limit: int,
        only: HistoryFilter,
        caller: Caller | None,
        *,
        with_payloads: bool = False,
    ) -> Page[HistoryRecord]:
        require_state(user_id, flow_id)
        await self._access.require_visible(flow_id, caller or trusted_caller(user_id))
        page = await self.history.read(flow_id, user_id, after, limit, only, with_payloads=with_payloads)
        if not page.items and after is None:
            await self._catalog.current(flow_id)
        return page

    async def verify_flow_history(
        self, user_id: str, flow_id: str, *, caller: Caller | None = None
    ) -> Verification:
        """Verify the chain of a state's records; if it is broken, return its first broken link."""
        require_state(user_id, flow_id)
        await self._access.require_visible(flow_id, caller or trusted_caller(user_id))
        found = await self.history.verify(flow_id, user_id)
        if not found.records:
            await self._catalog.current(flow_id)
        return found

    async def get_flow_statistics(self) -> FlowStatistics:
        """Figures over all states and their history."""
        return await self._statistics.statistics(self._clock.now())

    async def purge_expired_flows(self) -> int:
        """End all states that are past their time; how many were ended."""
        return await self.background.purge_expired()

    async def _fresh(
        self, user_id: str, flow_id: str, command: StartCommand, now: datetime, asked: StateCommand
    ) -> ProposedChange:
        definition = await self._catalog.current(flow_id)
        require_entrance(definition.flow, command.step, asked.origin.effective_caller)
        after = rules.start(definition, user_id, new_id(), command, now)
        self._check_payload(command.payload, after)
        return changed("started", definition, after, command.payload)

    def _check_payload(self, given: Payload | UnsetType, after: FlowState) -> None:
        if given is not UNSET:
            require_storable(given)
            self._check_size(after)

    def _check_size(self, after: FlowState) -> None:
        if after.payload is not UNSET:
            check_size(after.payload, self._max_payload_bytes)
