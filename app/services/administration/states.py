"""Administration of states: pause, resume, recover and find."""

from datetime import datetime

from msgspec import structs

from app.auth.policy import require_acting_for
from app.contracts.callers import Caller
from app.contracts.commands import Origin, PauseCommand
from app.contracts.errors import FlowNotStartedError
from app.contracts.identifiers import require_ids
from app.contracts.people import Participant
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateFilter, StatePage, StateStore
from app.contracts.results import Recovered
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.services.audit.log import AuditLog
from app.services.audit.state_acts import is_administrative, state_act
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.states.changes import StateChanges
from app.services.states.identification import Identification
from app.services.states.recovery import Recovery
from app.services.states.state_command import ProposedChange, StateCommand


class Administration:
    """Pauses, resumes, recovers and finds states."""

    def __init__(
        self,
        states: StateStore,
        changes: StateChanges,
        catalog: DefinitionCatalog,
        access: Visibility,
        recovery: Recovery,
        identification: Identification,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._states = states
        self._changes = changes
        self._catalog = catalog
        self._access = access
        self._recovery = recovery
        self._identification = identification
        self._audit = audit
        self._clock = clock

    async def find_states(
        self,
        only: StateFilter,
        *,
        caller: Caller,
        after: str | None = None,
        limit: int = 1000,
    ) -> StatePage:
        """Find the states that match a filter and that the caller may see, by key.

        Args:
            only: The filter.
            caller: The reader.
            after: Only states with keys after this one.
            limit: The largest number of states.

        Raises:
            InvalidRequestError: The filter has faults.
        """
        wanted = {
            "flowId": only.flow_id,
            "step": only.step,
            "status": only.status,
            "userId": only.user_id,
            "entityId": only.entity_id,
        }
        require_ids({name: value for name, value in wanted.items() if value is not None})
        page = await self._states.find(only, after, limit, self._clock.now())
        return StatePage(await self._access.with_transitions_of_all(page.states, caller), page.next)

    async def list_awaiting(
        self, role: str, caller: Caller, *, after: str | None = None, limit: int = 1000
    ) -> StatePage:
        """Return the states that wait for the caller in a role, by key.

        They are of any owner: the caller is a participant with the role, as a user or by a group of the
        token, and a transition of the present step requires it.
        """
        require_ids({"as": role})
        roles = [Participant(role, user_id=caller.user_id)]
        roles += [Participant(role, group=group) for group in sorted(caller.groups)]
        page = await self._states.list_awaiting(roles, after=after, limit=limit, now=self._clock.now())
        return StatePage(await self._access.with_transitions_of_all(page.states, caller), page.next)

    async def list_states_of_user(self, user_id: str, caller: Caller) -> list[FlowState]:
        """Return a user's states that the caller may see, ordered by key."""
        require_ids({"userId": user_id})
        only = StateFilter(user_id=user_id)
        page = await self.find_states(only, caller=caller)
        found = page.states
        while page.next is not None:
            page = await self.find_states(only, after=page.next, caller=caller)
            found += page.states
        return found

    async def recover_flow(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, origin: Origin
    ) -> Recovered:
        """Rebuild a damaged state, or one that contradicts its history, from its last valid record.

        Without such a record the state restarts at the initial step. A valid state is left as it is.

        Raises:
            FlowNotStartedError: There is nothing to recover.
        """
        require_acting_for(origin.caller, user_id)
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller)
        try:
            done = await self._recover(state_id, origin)
        except FlowNotStartedError:
            raise await self._changes.not_started(state_id) from None
        if done.state is None:
            return done
        return structs.replace(done, state=await self._access.with_transitions(done.state, origin.caller))

    async def _recover(self, state_id: StateId, origin: Origin) -> Recovered:
        if not is_administrative("recover", state_id, origin):
            return await self._recovery.recover(state_id, origin)
        async with state_act(self._audit, "recover", state_id, origin) as act:
            done = await self._recovery.recover(state_id, origin)
            act.details.update(action=done.action, changed=done.action != "kept")
        return done

    async def pause_flow(
        self,
        user_id: str,
        flow_id: str,
        command: PauseCommand,
        *,
        entity_id: str | None = None,
        origin: Origin,
    ) -> FlowState:
        """Pause a state: until it is resumed, changes of its step raise StatePausedError.

        Pausing a paused state changes nothing.
        """
        require_acting_for(origin.caller, user_id)
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            present = await self._changes.started(state, state_id)
            if present.status == "paused":
                return None
            definition = await self._catalog.pinned(present)
            return ProposedChange.of_kind(
                "paused", definition, rules.pause(definition, present, command, now)
            )

        after, _ = await self._changes.change(
            StateCommand.of_caller(state_id, "paused", command, origin), decide
        )
        return after

    async def resume_flow(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, origin: Origin
    ) -> FlowState:
        """Resume a paused state. Resuming one that is not paused changes nothing."""
        require_acting_for(origin.caller, user_id)
        state_id = await self._identification.of(user_id, flow_id, entity_id, origin.caller)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            present = await self._changes.started(state, state_id)
            if present.status != "paused":
                return None
            definition = await self._catalog.pinned(present)
            return ProposedChange.of_kind("resumed", definition, rules.resume(definition, present, now))

        after, _ = await self._changes.change(
            StateCommand.of_caller(state_id, "resumed", None, origin), decide
        )
        return after
