"""Change events for the subscribers of a state."""

import structlog
from msgspec import UNSET, Raw, Struct, json, structs

from app.contracts.callers import Caller, Purpose, trusted_caller
from app.contracts.errors import FlowError
from app.contracts.events import StateChanged
from app.contracts.record import HistoryRecord, state_after
from app.contracts.state import TERMINAL_STATUSES
from app.contracts.wire.encoding import encode
from app.contracts.wire.states import StateUpdatedEvent, state_of_view, state_updated_event
from app.flow.conditions.guard_inputs import GuardBudget
from app.flow.permissions import depends_on_caller
from app.flow.position import current_step
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from config.log import describe

log = structlog.get_logger("updates")


class StateEvents:
    """Creates events from the records of commits."""

    def __init__(self, catalog: DefinitionCatalog, access: Visibility) -> None:
        self._catalog = catalog
        self._access = access

    async def from_record(self, record: HistoryRecord, budget: GuardBudget | None = None) -> StateChanged:
        """Create the change event for a commit record.

        Its transitions are those that an administrator may run. ``budget`` bounds the guards of all events of
        one read.
        """
        state = state_after(record)
        depends = True  # unless all may see the same
        try:
            if state.status in TERMINAL_STATUSES:
                depends = False
            else:
                definition = await self._catalog.pinned(state)
                step = current_step(definition, state)
                state = await self._access.with_transitions(state, trusted_caller(state.user_id), budget)
                depends = depends_on_caller(definition.flow, step)
        except Exception as error:  # noqa: BLE001 - the change itself must be published
            log.error("event published without transitions", state=state.key, **describe(error))
        return StateChanged(
            user_id=state.user_id,
            flow_id=state.flow,
            epoch=state.epoch,
            revision=state.revision,
            at=int(record.timestamp.timestamp() * 1000),
            depends_on_caller=depends or state.participants is not UNSET,
            instance_id=state.id.instance_id,
            body=Raw(encode(state_updated_event(state, record))),
        )

    async def is_same_for_everyone(self, event: StateChanged) -> bool:
        """Return true if every subscriber may receive the event as it is."""
        return not event.depends_on_caller and await self._access.is_same_for_everyone(event.flow_id)

    async def for_caller(
        self,
        event: StateChanged,
        caller: Caller,
        budget: GuardBudget | None = None,
        *,
        purpose: Purpose = "follow",
    ) -> StateChanged | None:
        """Return the event as the caller may see it, None if it may not see the flow or the state.

        ``purpose`` is that of the caller: it follows the state, or watches the flow.

        The end of a state, which has no data, is for everybody who could see it up to then.
        """
        if not caller.service and not await self._access.is_visible(event.flow_id, caller):
            return None
        may_read = caller.may_read(event.user_id)
        if not event.depends_on_caller and not caller.service:
            if caller.acts_for(event.user_id) or has_ended(event):
                return event
            if not may_read:
                return None
        update = json.decode(event.body, type=StateUpdatedEvent)
        state = state_of_view(update)
        if not may_read and not await self._access.sees(state, caller):
            return None
        try:
            shown = await self._access.with_transitions(state, caller, budget, purpose=purpose)
        except FlowError:  # the change itself must be delivered
            shown = await self._access.without_transitions(state, caller, purpose)
        own = structs.replace(
            update, transitions=shown.transitions, payload=shown.payload, masked=shown.masked
        )
        return structs.replace(event, body=Raw(encode(own)))


class _Status(Struct):
    status: str


def has_ended(event: StateChanged) -> bool:
    """Return whether an event is the last one of a state."""
    return json.decode(event.body, type=_Status).status in TERMINAL_STATUSES
