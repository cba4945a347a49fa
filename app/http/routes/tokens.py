"""The routes of state tokens, with which clients of the base system pass a position from page to page."""

from typing import Annotated

from msgspec import Meta, Struct

from app.auth.policy import Access, Permission
from app.contracts.errors import (
    EntityRequiredError,
    FlowNotFoundError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    PayloadTooLargeError,
)
from app.contracts.state import FlowState
from app.contracts.wire.states import StateView, state_view
from app.flow.tokens.state_token import MAX_TOKEN, StateHint
from app.http.endpoint import Answer, Call, Endpoint, StateQuery


class TokenQuery(StateQuery, frozen=True, rename="camel", kw_only=True):
    """``token``: a state token as a client found it in an address, not a slug."""

    token: Annotated[str, Meta(max_length=MAX_TOKEN, description="A state token.")]


class TokenView(Struct, frozen=True, rename="camel"):
    """The token of a state, and the position of the state."""

    token: str
    flow: str
    step: str
    version: int
    epoch: str
    revision: int


class ComparisonView(Struct, frozen=True, rename="camel"):
    """A token beside the stored state.

    The token is read by the ``version`` that the state runs on, or by the newest if there is no state.
    ``differences`` are the members of the hint that differ from the state; a token does not distinguish an
    ``entityId`` of null from an empty one. ``matches``: there is a state, and nothing differs.
    """

    hint: StateHint
    state: StateView | None
    version: int
    matches: bool
    differences: list[str]


def _etag(state: FlowState) -> dict[str, str]:
    return {"ETag": f'"{state.epoch}.{state.revision}"'}


async def _token(call: Call) -> Answer:
    made = await call.service.tokens.encode(
        call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, caller=call.caller
    )
    state = made.state
    view = TokenView(made.token, state.flow, state.step, state.version, state.epoch, state.revision)
    return Answer(view, headers=_etag(state))


async def _compare(call: Call) -> Answer:
    found = await call.service.tokens.compare(
        call.owner_id, call.query.token, entity_id=call.query.entity_id, caller=call.caller
    )
    state = None if found.state is None else state_view(found.state)
    view = ComparisonView(found.hint, state, found.version, found.matches, found.differences)
    return Answer(view, headers={} if found.state is None else _etag(found.state))


_ERRORS = (
    EntityRequiredError,
    InsufficientPermissionsError,
    FlowNotFoundError,
    FlowStateCorruptionError,
    PayloadTooLargeError,
)

TOKEN_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/token",
        name="getStateToken",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Get the state as a token for addresses (?flow=); it authorises nothing",
        handle=_token,
        query=StateQuery,
        answer_headers=("ETag",),
        answers={200: TokenView},
        errors=(*_ERRORS, FlowNotStartedError),
    ),
    Endpoint(
        method="GET",
        path="/api/flow/state",
        name="compareStateToken",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Compare a token, which is a hint, with the stored state; changes nothing",
        handle=_compare,
        query=TokenQuery,
        answer_headers=("ETag",),
        answers={200: ComparisonView},
        errors=_ERRORS,
    ),
]
