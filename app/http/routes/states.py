"""The routes of states."""

from msgspec import Struct, field, structs

from app.auth.policy import ADMIN
from app.contracts.commands import (
    PauseCommand,
    ResetCommand,
    Role,
    SetCommand,
    StartCommand,
    TransitionCommand,
)
from app.contracts.errors import (
    EntityRequiredError,
    Fault,
    FlowNotFoundError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    GuardRefusedError,
    InsufficientPermissionsError,
    InvalidPayloadError,
    InvalidRequestError,
    InvalidTransitionError,
    PayloadTooLargeError,
    RateLimitedError,
    RevisionConflictError,
    StateBusyError,
    StatePausedError,
)
from app.contracts.ports.states import ListedStatus, StateFilter
from app.contracts.state import FlowState
from app.contracts.wire.administration import RecoveryView, recovery_view
from app.contracts.wire.states import StateView, state_view
from app.http.endpoint import CONDITIONAL, Answer, Call, Endpoint, StateQuery, UserQuery
from app.http.paging import Limit, page_answer


class StatesQuery(UserQuery, frozen=True, rename="camel"):
    """``after`` is the ``next`` of the previous page.

    ``as`` is a role: the states of any owner in which a transition of the present step waits for the caller,
    who is a participant with that role.
    """

    after: str | None = None
    limit: Limit = 100
    role: Role | None = field(name="as", default=None)


class InstancesQuery(UserQuery, frozen=True, rename="camel"):
    """``after`` is the ``next`` of the previous page."""

    status: ListedStatus | None = None
    after: str | None = None
    limit: Limit = 100


class StartQuery(UserQuery, frozen=True, rename="camel"):
    """The owner of the state. The entity is in the body."""


class NoBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A command without members: no body, or an empty object."""


class StatesPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """States by flow. ``next`` is the ``after`` of the next page, absent on the last one.

    A page ends at 1 MB, so that it may have fewer states than ``limit``.
    """

    items: list[StateView]
    next: str | None = None


def _state_answer(state: FlowState, status: int = 200) -> Answer:
    return Answer(state_view(state), status, {"ETag": f'"{state.epoch}.{state.revision}"'})


async def _get(call: Call) -> Answer:
    state = await call.service.get_flow_state(
        call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, caller=call.caller
    )
    return Answer(None) if state is None else _state_answer(state)


async def _start(call: Call) -> Answer:
    state, started = await call.service.start_flow(
        call.owner_id, call.path["flow_id"], call.body, origin=call.origin
    )
    return _state_answer(state, 201 if started else 200)


async def _transition(call: Call) -> Answer:
    command: TransitionCommand = call.body
    state = await call.service.execute_transition(
        call.owner_id,
        call.path["flow_id"],
        call.path["transition"],
        command.payload,
        ok=command.ok,
        message=command.message,
        remove=command.remove,
        entity_id=call.query.entity_id,
        origin=call.origin,
    )
    return _state_answer(state)


async def _reset(call: Call) -> Answer:
    state = await call.service.reset_flow(
        call.owner_id,
        call.path["flow_id"],
        call.body.step,
        entity_id=call.query.entity_id,
        origin=call.origin,
    )
    return _state_answer(state)


async def _back(call: Call) -> Answer:
    return _state_answer(
        await call.service.undo_transition(
            call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, origin=call.origin
        )
    )


async def _pause(call: Call) -> Answer:
    return _state_answer(
        await call.service.administration.pause_flow(
            call.owner_id, call.path["flow_id"], call.body, entity_id=call.query.entity_id, origin=call.origin
        )
    )


async def _resume(call: Call) -> Answer:
    return _state_answer(
        await call.service.administration.resume_flow(
            call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, origin=call.origin
        )
    )


async def _set(call: Call) -> Answer:
    command: SetCommand = call.body
    flow_id = call.path["flow_id"]
    if command.flow and command.flow != flow_id:
        raise InvalidRequestError(
            [Fault("/flow", f"must be {flow_id!r}, the flow in the path, or be left out")]
        )
    state = await call.service.set_flow_state(
        call.owner_id,
        structs.replace(command, flow=flow_id),
        entity_id=call.query.entity_id,
        origin=call.origin,
    )
    return _state_answer(state)


async def _clear(call: Call) -> Answer:
    await call.service.clear_flow_state(
        call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, origin=call.origin
    )
    return Answer(status=204)


async def _recover(call: Call) -> Answer:
    done = await call.service.administration.recover_flow(
        call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, origin=call.origin
    )
    return Answer(recovery_view(done))


async def _list(call: Call) -> Answer:
    query: StatesQuery = call.query
    if query.role is not None:
        page = await call.service.administration.list_awaiting(
            query.role, call.caller, after=query.after, limit=query.limit
        )
        return page_answer(page.states, state_view, lambda state: state.key, page.next)
    page = await call.service.administration.find_states(
        StateFilter(user_id=call.user_id), after=query.after, limit=query.limit, caller=call.caller
    )
    return page_answer(page.states, state_view, lambda state: state.key, page.next)


async def _list_of_flow(call: Call) -> Answer:
    query: InstancesQuery = call.query
    page = await call.service.list_flow_states(
        call.user_id,
        call.path["flow_id"],
        status=query.status,
        after=query.after,
        limit=query.limit,
        caller=call.caller,
    )
    return page_answer(page.states, state_view, lambda state: state.place_in_list, page.next)


_READING = (InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError, EntityRequiredError)
_CHANGING = (*_READING, RateLimitedError, RevisionConflictError, StateBusyError)
_WITH_PAYLOAD = (*_CHANGING, InvalidPayloadError, PayloadTooLargeError)

STATE_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/state",
        name="getFlowState",
        summary="Get the state, or null if none was started",
        handle=_get,
        query=StateQuery,
        answers={200: StateView | None},
        answer_headers=("ETag",),
        errors=_READING,
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/start",
        name="startFlow",
        summary="Start the flow; 200 with the running state if it was started before",
        handle=_start,
        query=StartQuery,
        body=StartCommand,
        answers={201: StateView, 200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=_WITH_PAYLOAD,
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/transition/{transition}",
        name="executeTransition",
        summary="Run a transition of the current step",
        handle=_transition,
        query=StateQuery,
        body=TransitionCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(
            *_WITH_PAYLOAD,
            FlowNotStartedError,
            InvalidTransitionError,
            GuardRefusedError,
            StatePausedError,
        ),
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/back",
        name="undoTransition",
        summary="Undo a reversible transition: back to the step before it; the payload stays",
        handle=_back,
        query=StateQuery,
        body=NoBody,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(
            *_CHANGING,
            FlowNotStartedError,
            InvalidTransitionError,
            GuardRefusedError,
            StatePausedError,
        ),
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/pause",
        name="pauseFlow",
        summary="Pause the state: transitions are refused until it is resumed",
        handle=_pause,
        query=StateQuery,
        body=PauseCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(*_CHANGING, FlowNotStartedError, InvalidTransitionError),
        scope=ADMIN,
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/resume",
        name="resumeFlow",
        summary="Resume a paused state",
        handle=_resume,
        query=StateQuery,
        body=NoBody,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(*_CHANGING, FlowNotStartedError),
        scope=ADMIN,
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/recover",
        name="recoverFlow",
        summary="Rebuild a damaged state from its history; a valid one stays as it is",
        handle=_recover,
        query=StateQuery,
        body=NoBody,
        answers={200: RecoveryView},
        errors=(
            InsufficientPermissionsError,
            FlowNotFoundError,
            FlowNotStartedError,
            EntityRequiredError,
            StateBusyError,
        ),
        scope=ADMIN,
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/reset",
        name="resetFlow",
        summary="Restart at the initial or the named step; starts the flow if there is no state",
        handle=_reset,
        query=StateQuery,
        body=ResetCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(*_CHANGING, StatePausedError),
    ),
    Endpoint(
        method="PUT",
        path="/api/flow/{flow_id}/state",
        name="setFlowState",
        summary="Replace the whole state, or create one (repair)",
        handle=_set,
        query=StateQuery,
        body=SetCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=_WITH_PAYLOAD,
        scope=ADMIN,
    ),
    Endpoint(
        method="DELETE",
        path="/api/flow/{flow_id}/state",
        name="clearFlowState",
        summary="Remove the state; its history stays",
        handle=_clear,
        query=StateQuery,
        answers={204: None},
        request_headers=CONDITIONAL,
        errors=(*_CHANGING, StatePausedError),
    ),
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/states",
        name="listFlowStates",
        summary="List the states of the user in a flow with many for each user, the newest first",
        handle=_list_of_flow,
        query=InstancesQuery,
        answers={200: StatesPage},
        errors=(InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError),
    ),
    Endpoint(
        method="GET",
        path="/api/states",
        name="getUserFlows",
        summary="List the states of the user in all flows; as: those that wait for the caller in a role",
        handle=_list,
        query=StatesQuery,
        answers={200: StatesPage},
        errors=_READING,
    ),
]
