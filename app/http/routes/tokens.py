"""The routes of state tokens, in which clients of the base system carry a position from page to page."""

from typing import Annotated

from msgspec import Meta, Struct

from app.contracts.errors import (
    FlowNotFoundError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    PayloadTooLargeError,
)
from app.contracts.state import FlowState
from app.contracts.wire.states import StateView, state_view
from app.flow.tokens.state_token import (
    MAX_TOKEN,
    StateHint,
    differences,
    encode_token,
    read_token,
    state_from_token,
)
from app.http.endpoint import Answer, Call, Endpoint, UserQuery


class TokenQuery(UserQuery, frozen=True, rename="camel", kw_only=True):
    """A token as a client got it in an address; not a slug."""

    token: Annotated[str, Meta(max_length=MAX_TOKEN, description="A state token.")]


class TokenView(Struct, frozen=True, rename="camel"):
    """The token of a state, and where the state stood."""

    token: str
    flow: str
    step: str
    version: int
    epoch: str
    revision: int


class ComparisonView(Struct, frozen=True, rename="camel"):
    """A token, read by the ``version`` of the flow that the stored state runs on, or by the newest when
    there is none; and which members of the hint are not the state's. A token has one text for an
    ``entityId`` of null and an empty one. ``matches``: there is a state, and nothing differs."""

    hint: StateHint
    state: StateView | None
    version: int
    matches: bool
    differences: list[str]


def _etag(state: FlowState) -> dict[str, str]:
    return {"ETag": f'"{state.epoch}.{state.revision}"'}


async def _token(call: Call) -> Answer:
    state = await call.service.require_flow_state(call.user_id, call.path["flow_id"], caller=call.caller)
    definition = await call.service.definitions.version(state.flow, state.version)
    token = encode_token(definition.flow, state)
    view = TokenView(token, state.flow, state.step, state.version, state.epoch, state.revision)
    return Answer(view, headers=_etag(state))


async def _compare(call: Call) -> Answer:
    user_id = call.user_id
    content = read_token(call.query.token)
    state = await call.service.get_flow_state(user_id, content.flow, caller=call.caller)
    definitions = call.service.definitions
    if state is None:
        definition = await definitions.current(content.flow)
        hint = state_from_token(definition.flow, content)
        return Answer(ComparisonView(hint, None, definition.version, matches=False, differences=[]))
    definition = await definitions.version(state.flow, state.version)
    hint = state_from_token(definition.flow, content)
    different = differences(definition.flow, hint, state)
    view = ComparisonView(hint, state_view(state), definition.version, not different, different)
    return Answer(view, headers=_etag(state))


_ERRORS = (InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError, PayloadTooLargeError)

TOKEN_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/token",
        name="getStateToken",
        summary="The state as a token for addresses (?flow=); it authorises nothing",
        handle=_token,
        query=UserQuery,
        answer_headers=("ETag",),
        answers={200: TokenView},
        errors=(*_ERRORS, FlowNotStartedError),
    ),
    Endpoint(
        method="GET",
        path="/api/flow/state",
        name="compareStateToken",
        summary="What a token says, as a hint, beside the stored state; changes nothing",
        handle=_compare,
        query=TokenQuery,
        answer_headers=("ETag",),
        answers={200: ComparisonView},
        errors=_ERRORS,
    ),
]
