"""Identification: the state that a request is about, in flows of which a user has one state or many."""

from msgspec import UNSET

from app.contracts.callers import Caller
from app.contracts.commands import Origin
from app.contracts.errors import EntityRequiredError, Fault, FlowStateCorruptionError, InvalidRequestError
from app.contracts.flow import Flow
from app.contracts.identifiers import require_state
from app.contracts.ports.clock import Clock
from app.contracts.ports.entities import EntityReservations
from app.contracts.ports.states import StateStore
from app.contracts.record import request_key
from app.contracts.state import StateId
from app.kit.ids import new_short_id
from app.services.definitions.catalog import DefinitionCatalog

MAX_LISTED = 10
"""Entities that an error lists."""


class Identification:
    """Finds the identity of existing states, and makes that of new ones."""

    def __init__(
        self, states: StateStore, reservations: EntityReservations, catalog: DefinitionCatalog, clock: Clock
    ) -> None:
        self._states = states
        self._reservations = reservations
        self._catalog = catalog
        self._clock = clock

    async def of(
        self, user_id: str, flow_id: str, entity_id: str | None, caller: Caller, *, guess: bool = True
    ) -> StateId:
        """Return the identity of a state, whether or not it exists.

        Args:
            user_id: The owner.
            flow_id: The flow.
            entity_id: The entity. None: the state without one, or else the only state of the user.
            caller: Who requests it. Only those who may read all states of the owner learn which
                entities there are.
            guess: An only state with an entity need not be named. False for what drops a state: the same
                request again must not drop the next one.

        Raises:
            InvalidRequestError: An id is malformed.
            FlowNotFoundError: No flow can be named so.
            EntityRequiredError: There are states with entities, and the entity is missing.
        """
        require_state(user_id, flow_id, entity_id)
        if entity_id is not None:
            return StateId(flow_id, user_id, entity_id)
        only = StateId(flow_id, user_id)
        if not await self._has_many(flow_id) or not caller.may_read(user_id):
            return only
        stored = await self._states.load(only)
        if stored is not None and not stored.state.is_gone_at(self._clock.now()):
            return only
        page = await self._states.list_instances(
            flow_id, user_id, status=None, after=None, limit=MAX_LISTED + 1, now=self._clock.now()
        )
        if len(page.states) > 1 or (page.states and not guess):
            entities = [str(state.instance_id) for state in page.states]
            more = len(entities) > MAX_LISTED or page.next is not None
            raise EntityRequiredError(flow_id, entities[:MAX_LISTED], more=more)
        return page.states[0].id if page.states else only

    async def of_new(self, user_id: str, flow_id: str, entity_id: object, origin: Origin) -> StateId:
        """Return the identity of the state that a start is about.

        In a flow with many states for each user a missing entity is a new one. The same request gets the same
        entity again, so that a repeated start does not start twice.

        Raises:
            InvalidRequestError: An id is malformed.
            FlowNotFoundError: No flow can be named so.
        """
        require_state(user_id, flow_id)
        if not await self._has_many(flow_id):
            return StateId(flow_id, user_id)
        if entity_id is not None and entity_id is not UNSET:
            require_state(user_id, flow_id, entity_id)
            return StateId(flow_id, user_id, str(entity_id))
        minted = new_short_id()
        if isinstance(origin.request_id, str) and not origin.dry_run and origin.caller.acts_for(user_id):
            key = f"{StateId(flow_id, user_id).key}\0{request_key(origin.actor, origin.request_id)}"
            minted = await self._reservations.reserve(key, minted, self._clock.now())
        return StateId(flow_id, user_id, minted)

    async def _has_many(self, flow_id: str) -> bool:
        try:
            newest = await self._catalog.newest(flow_id)
        except FlowStateCorruptionError:  # a state can be read, and cleared, without its definition
            return False
        return newest is not None and newest.flow.instances == "many"


def require_kind(flow: Flow, state_id: StateId) -> None:
    """Require that a new state has an entity if and only if its flow has many states for each user.

    Raises:
        InvalidRequestError: The entity is missing or must be left out.
    """
    if flow.instances == "one" and state_id.instance_id is not None:
        fault = f"must be left out: a user has one state in flow {flow.flow}"
        raise InvalidRequestError([Fault("/entityId", fault)])
    if flow.instances == "many" and state_id.instance_id is None:
        fault = f"is required: a user has many states in flow {flow.flow}"
        raise InvalidRequestError([Fault("/entityId", fault)])
