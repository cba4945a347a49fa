"""The routes of states."""

from msgspec import Struct, structs

from app.auth.policy import Access, Permission
from app.contracts.commands import (
    PauseCommand,
    ResetCommand,
    SetCommand,
    StartCommand,
    TransitionCommand,
)
from app.contracts.errors import (
    ClaimedError,
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
    SeparationOfDutiesError,
    StateBusyError,
    StatePausedError,
    UserErasedError,
)
from app.contracts.state import FlowState
from app.contracts.wire.administration import RecoveryView, recovery_view
from app.contracts.wire.states import StateView, state_view
from app.http.endpoint import CONDITIONAL, Answer, Call, Endpoint, StateQuery


class NoBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A command without members: no body, or an empty object."""


def state_answer(state: FlowState, status: int = 200) -> Answer:
    """Return the answer with a state and its ETag."""
    return Answer(state_view(state), status, {"ETag": f'"{state.epoch}.{state.revision}"'})


async def _get(call: Call) -> Answer:
    state = await call.service.get_flow_state(
        call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, caller=call.caller
    )
    return Answer(None) if state is None else state_answer(state)


async def _start(call: Call) -> Answer:
    command: StartCommand = call.body
    named = call.query.entity_id
    if named is not None:
        if command.entity_id and command.entity_id != named:
            raise InvalidRequestError(
                [Fault("/entityId", "must be the entityId of the query, or be left out")]
            )
        command = structs.replace(command, entity_id=named)
    state, started = await call.service.start_flow(
        call.owner_id, call.path["flow_id"], command, origin=call.origin
    )
    return state_answer(state, 201 if started else 200)


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
    return state_answer(state)


async def _reset(call: Call) -> Answer:
    state = await call.service.reset_flow(
        call.owner_id,
        call.path["flow_id"],
        call.body.step,
        entity_id=call.query.entity_id,
        origin=call.origin,
    )
    return state_answer(state)


async def _back(call: Call) -> Answer:
    return state_answer(
        await call.service.undo_transition(
            call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, origin=call.origin
        )
    )


async def _pause(call: Call) -> Answer:
    return state_answer(
        await call.service.administration.pause_flow(
            call.owner_id, call.path["flow_id"], call.body, entity_id=call.query.entity_id, origin=call.origin
        )
    )


async def _resume(call: Call) -> Answer:
    return state_answer(
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
    return state_answer(state)


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


_READING = (InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError, EntityRequiredError)
_CHANGING = (*_READING, RateLimitedError, RevisionConflictError, StateBusyError)
_WITH_PAYLOAD = (*_CHANGING, InvalidPayloadError, PayloadTooLargeError)

STATE_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/state",
        name="getFlowState",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Get the state, or null if none was started",
        handle=_get,
        query=StateQuery,
        answers={200: StateView | None},
        answer_headers=("ETag",),
        errors=(*_READING, UserErasedError),
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/start",
        name="startFlow",
        access=Access(Permission.USE),
        summary="Start the flow; 200 with the running state if it was started before",
        handle=_start,
        query=StateQuery,
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
        access=Access(Permission.USE, for_services=True),
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
            SeparationOfDutiesError,
            ClaimedError,
            StatePausedError,
        ),
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/back",
        name="undoTransition",
        access=Access(Permission.USE),
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
        access=Access(Permission.ADMIN),
        summary="Pause the state: transitions are refused until it is resumed",
        handle=_pause,
        query=StateQuery,
        body=PauseCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(*_CHANGING, FlowNotStartedError, InvalidTransitionError),
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/resume",
        name="resumeFlow",
        access=Access(Permission.ADMIN),
        summary="Resume a paused state",
        handle=_resume,
        query=StateQuery,
        body=NoBody,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(*_CHANGING, FlowNotStartedError),
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/recover",
        name="recoverFlow",
        access=Access(Permission.ADMIN),
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
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/reset",
        name="resetFlow",
        access=Access(Permission.USE),
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
        access=Access(Permission.ADMIN),
        summary="Replace the whole state, or create one (repair)",
        handle=_set,
        query=StateQuery,
        body=SetCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=_WITH_PAYLOAD,
    ),
    Endpoint(
        method="DELETE",
        path="/api/flow/{flow_id}/state",
        name="clearFlowState",
        access=Access(Permission.USE),
        summary="Remove the state; its history stays",
        handle=_clear,
        query=StateQuery,
        answers={204: None},
        request_headers=CONDITIONAL,
        errors=(*_CHANGING, StatePausedError),
    ),
]
