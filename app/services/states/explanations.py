"""Explanations: why a transition of a state is possible now or not, and how to get to a step."""

import asyncio
import time
from collections.abc import Collection
from datetime import datetime

from msgspec import UNSET, UnsetType

from app.contracts.callers import READ, SERVICE, USE, Caller
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    Fault,
    InsufficientPermissionsError,
    InvalidRequestError,
    StateBusyError,
)
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore
from app.contracts.state import FlowState, Payload
from app.contracts.wire.explanations import ExplanationView, TransitionExplanation, WayView
from app.contracts.wire.states import state_view
from app.contracts.wire.times import iso
from app.flow.conditions.guard_inputs import GuardBudget
from app.flow.explanation import explain_transition
from app.flow.people.callers import caller_on
from app.flow.position import current_step
from app.flow.step_services import owner_of
from app.flow.ways import shortest_way
from app.services.definitions.catalog import DefinitionCatalog
from app.services.states.operations import StateOperations

MAX_READS = 5
MAX_PAYLOAD_SECONDS = 0.25
"""Time for the transitions of one explanation. After it the payload counts as unknown: its validation may
take long, and a step may have many transitions. The one that is named comes first."""


class Explanations:
    """Explains the transitions of one state to its owner, its participants, and support staff."""

    def __init__(
        self, operations: StateOperations, states: StateStore, catalog: DefinitionCatalog, clock: Clock
    ) -> None:
        self._operations = operations
        self._states = states
        self._catalog = catalog
        self._clock = clock

    async def explain(
        self,
        user_id: str,
        flow_id: str,
        *,
        caller: Caller,
        transition: str | None = None,
        to: str | None = None,
        payload: Payload | UnsetType = UNSET,
        roles: Collection[str] | None = None,
        entity_id: str | None = None,
    ) -> ExplanationView:
        """Explain the transitions of the current step, or one of them, and the shortest way to a step.

        Args:
            user_id: The owner of the state.
            flow_id: The flow.
            caller: Who asks. Support staff get the explanation of what the owner may do, all others that of
                what they may do themselves.
            transition: The transition to explain; None: all of the step.
            to: The step to find the shortest way to; None: no way.
            payload: The payload that would be sent; UNSET: it is not known.
            roles: Explain what the owner could do with a token that has these roles. Only administrators,
                services and support staff may ask that.
            entity_id: The entity of one of many states.

        Raises:
            FlowNotStartedError: No state is running; the details say how the last one ended.
            InvalidRequestError: The flow has no such step.
            InsufficientPermissionsError: The caller may not read the state, or not name ``roles``.
        """
        if roles is not None and (caller.service or not (caller.reads_all or caller.acts_for_all)):
            raise InsufficientPermissionsError(
                f"Explaining for other roles needs a token with the scope {READ} or {SERVICE}", scope=READ
            )
        shown, state = await self._both(user_id, flow_id, caller, entity_id)
        definition = await self._catalog.pinned(state)
        if to is not None and to not in definition.flow.steps:
            listed = ", ".join(definition.flow.steps)
            raise InvalidRequestError([Fault("/to", f"The flow has no step {to!r}; it has {listed}")])
        subject = _subject(definition, state, caller, roles)
        assumed = payload is not UNSET or roles is not None
        now = self._clock.now()
        return await _explanation(
            definition, state, shown, subject, transition, to, payload, now, assumed=assumed
        )

    async def _both(
        self, user_id: str, flow_id: str, caller: Caller, entity_id: str | None
    ) -> tuple[FlowState, FlowState]:
        """Return the state as the caller may see it, and as it is stored.

        Raises:
            StateBusyError: It changed between the two reads too often.
        """
        for _ in range(MAX_READS):
            shown = await self._operations.require(user_id, flow_id, caller, entity_id)
            stored = await self._states.load(shown.id)
            if stored is not None and stored.state.position == shown.position:
                return shown, stored.state
        raise StateBusyError(flow_id)


def _subject(
    definition: FlowDefinition, state: FlowState, caller: Caller, roles: Collection[str] | None
) -> Caller:
    """Return the effective caller for whom conditions are checked."""
    if roles is not None or (caller.reads_all and not caller.acts_for(state.user_id)):
        caller = Caller(state.user_id, roles=frozenset(roles or ()), scopes=frozenset({USE}))
    return caller_on(definition.flow, state, caller)


async def _explanation(
    definition: FlowDefinition,
    state: FlowState,
    shown: FlowState,
    subject: Caller,
    transition: str | None,
    to: str | None,
    payload: Payload | UnsetType,
    now: datetime,
    *,
    assumed: bool,
) -> ExplanationView:
    step, budget = current_step(definition, state), GuardBudget()
    every: dict[str, TransitionExplanation] = {}
    seconds = 0.0
    wanted = [] if transition is None else [transition]
    if transition is None or to is not None:
        wanted += step.transitions
    for name in dict.fromkeys(wanted):
        began = time.perf_counter()
        given = UNSET if every and seconds >= MAX_PAYLOAD_SECONDS else payload
        every[name] = explain_transition(
            definition, state, name, given, subject, now, shown=shown, budget=budget, assumed=assumed
        )
        seconds += time.perf_counter() - began
        await asyncio.sleep(0)  # so that many transitions do not block other requests
    way: WayView | UnsetType = UNSET
    if to is not None:
        first = {name: each.possible for name, each in every.items()}
        way = WayView(to, shortest_way(definition.flow, state.step, to, subject, first))
    owner = owner_of(definition.flow, step, state.service)
    return ExplanationView(
        state=state_view(shown),
        roles=sorted(subject.roles),
        transitions=list(every.values()) if transition is None else [every[transition]],
        service=owner or UNSET,
        timeout_at=UNSET if state.timeout_at is UNSET else iso(state.timeout_at),
        timeout_runs=UNSET if step.timeout is None else step.timeout.transition,
        way=way,
    )
