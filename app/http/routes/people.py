"""The routes of people on a state: participants, claims and votes."""

from app.auth.policy import Access, Permission
from app.contracts.commands import ClaimCommand, ParticipantsCommand
from app.contracts.errors import (
    ClaimedError,
    EntityRequiredError,
    FlowNotFoundError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    InvalidTransitionError,
    RateLimitedError,
    RevisionConflictError,
    StateBusyError,
    StatePausedError,
)
from app.contracts.wire.states import StateView
from app.http.endpoint import CONDITIONAL, Answer, Call, Endpoint, StateQuery
from app.http.routes.states import NoBody, state_answer


async def _assign(call: Call) -> Answer:
    state = await call.service.people.assign(
        call.owner_id, call.path["flow_id"], call.body, entity_id=call.query.entity_id, origin=call.origin
    )
    return state_answer(state)


async def _claim(call: Call) -> Answer:
    state = await call.service.people.claim(
        call.owner_id, call.path["flow_id"], call.body, entity_id=call.query.entity_id, origin=call.origin
    )
    return state_answer(state)


async def _release(call: Call) -> Answer:
    state = await call.service.people.release(
        call.owner_id, call.path["flow_id"], call.body, entity_id=call.query.entity_id, origin=call.origin
    )
    return state_answer(state)


async def _withdraw(call: Call) -> Answer:
    state = await call.service.people.withdraw(
        call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, origin=call.origin
    )
    return state_answer(state)


_ERRORS = (
    InsufficientPermissionsError,
    EntityRequiredError,
    FlowNotFoundError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    RateLimitedError,
    RevisionConflictError,
    StateBusyError,
)

PEOPLE_ENDPOINTS = [
    Endpoint(
        method="PUT",
        path="/api/flow/{flow_id}/participants",
        name="setParticipants",
        access=Access(Permission.USE),
        summary="Replace the people who have roles on the state",
        handle=_assign,
        query=StateQuery,
        body=ParticipantsCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/claim",
        name="claimTask",
        access=Access(Permission.USE),
        summary="Claim the tasks of a role at the current step, or renew the claim",
        handle=_claim,
        query=StateQuery,
        body=ClaimCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(*_ERRORS, ClaimedError, InvalidTransitionError, StatePausedError),
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/release",
        name="releaseTask",
        access=Access(Permission.USE),
        summary="Release a claim",
        handle=_release,
        query=StateQuery,
        body=ClaimCommand,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/api/flow/{flow_id}/withdraw",
        name="withdrawVote",
        access=Access(Permission.USE),
        summary="Withdraw the caller's vote at the current step",
        handle=_withdraw,
        query=StateQuery,
        body=NoBody,
        answers={200: StateView},
        request_headers=CONDITIONAL,
        answer_headers=("ETag",),
        errors=(*_ERRORS, StatePausedError),
    ),
]
