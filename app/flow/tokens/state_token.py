"""State tokens: the position of a state as a text for URLs (``?flow=<token>``).

They are byte for byte those of the base system. A token is the base64url, without padding, of the compact
JSON ``{"f", "s", "o", "e"?, "m"?, "p"?}``. It names steps by their indexes, and has the members of the
payload that are in the step's ``payload_map``, as text without escaping. It is not signed: it is a hint,
and authorises nothing.

Differences from the base system: a ``s``, ``e``, ``m`` or ``p`` that is not a text is refused, while the base
system accepts most; so is JSON nested some hundreds of levels deep. A lone surrogate is read as U+FFFD, as
answers are Unicode. A payload key such as ``constructor`` that is not in the payload is missing, while
JavaScript finds it in every object.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from app.contracts.errors import (
    Fault,
    FlowNotFoundError,
    FlowStateCorruptionError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from app.contracts.flow import Flow, FlowStep
from app.contracts.state import FlowState, Payload
from app.flow.tokens.javascript import ARRAY_LIMIT, json_of, members_of, parse_int, text_of, well_formed

MAX_TOKEN = 60_000
"""Characters of a token: a URL with one stays below 64 KiB, beyond which some clients and servers refuse
it."""
_MAX_SLUG = 64
_ALPHABET = re.compile(r"[A-Za-z0-9_-]*\Z")
_ADVICE = "; a state can be requested without a token at /api/flow/{flowId}/state"


class TokenContent(Struct, frozen=True):
    """The content of a token, before its flow is looked up.

    ``index`` and ``previous`` are as written, ``values`` are those of the payload, joined by commas;
    ``entity_id`` is empty for null.
    """

    flow: str
    index: str
    ok: bool
    service: str | UnsetType = UNSET
    previous: str | UnsetType = UNSET
    entity_id: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    values: str | UnsetType = UNSET


class StateHint(Struct, frozen=True, rename="camel"):
    """A state as a token describes it, which anybody could have written.

    All values of ``payload`` are text, or null if the token has no place for the key.
    """

    flow: str
    step: str
    ok: bool
    service: str | UnsetType = UNSET
    previous: str | UnsetType = UNSET
    entity_id: str | UnsetType | None = UNSET
    payload: dict[str, str | None] | UnsetType = UNSET
    message: str | UnsetType = UNSET


def encode_token(flow: Flow, state: FlowState) -> str:
    """Return the token of a state on the version of the flow that it is pinned to.

    Raises:
        PayloadTooLargeError: The token is longer than ``MAX_TOKEN``.
        FlowStateCorruptionError: The flow does not have the steps of the state.
    """
    step = _step(flow, state, state.step)
    content = TokenContent(
        flow=state.flow,
        index=text_of(step.index),
        ok=state.ok,
        service=state.service,
        previous=UNSET if state.previous is UNSET else text_of(_step(flow, state, state.previous).index),
        entity_id="" if state.entity is None else state.entity,
        message=state.message,
        values=_written(step, state.payload),
    )
    token = _write(content)
    if len(token) > MAX_TOKEN:
        raise PayloadTooLargeError("token of the state", MAX_TOKEN)
    return token


def fresh_token(flow: Flow, step: FlowStep) -> str:
    """Return the token of a new state at a step, without service and entity."""
    return _write(TokenContent(flow=flow.flow, index=text_of(step.index), ok=True, service=""))


def read_token(text: str) -> TokenContent:
    """Return the content of a token.

    Raises:
        InvalidRequestError: It is not a state token.
        FlowNotFoundError: No flow can have its slug.
    """
    members = _decode_members(text)
    given = {name: well_formed(value) if isinstance(value, str) else value for name, value in members.items()}
    if not isinstance(given.get("f"), str):
        raise _refusal("This is not a state token: it has no text f with flow and step" + _ADVICE)
    slug, *indexes = given["f"].split(":")[:3]
    if len(slug) > _MAX_SLUG:
        raise FlowNotFoundError(f"{slug[:_MAX_SLUG]}…")
    if not indexes:
        raise _refusal("The token names a flow but no step: its f must be <flow>:<index of the step>")
    texts = {name: UNSET if given.get(name) is None else given[name] for name in "semp"}
    faulty = [name for name, value in texts.items() if not isinstance(value, str | UnsetType)]
    if faulty:
        raise _refusal(*(f"The token has a member {name} that is not a text" for name in faulty))
    outcome = given.get("o")
    return TokenContent(
        flow=slug,
        index=indexes[0],
        ok=isinstance(outcome, float) and outcome == 1,
        service=texts["s"],
        previous=indexes[1] if indexes[1:] else UNSET,
        entity_id=texts["e"],
        message=texts["m"],
        values=texts["p"],
    )


def state_from_token(flow: Flow, content: TokenContent) -> StateHint:
    """Return the state that a token describes, by a version of its flow.

    A previous step that the flow does not have is dropped.

    Raises:
        InvalidRequestError: The flow does not have the step.
    """
    step = _by_index(flow, content.index)
    if step is None:
        raise _refusal(
            f"The token is at the step with the index {content.index[:32]!r}, which {flow.flow} does not have"
        )
    previous = None if content.previous is UNSET else _by_index(flow, content.previous)
    return StateHint(
        flow=flow.flow,
        step=step.step,
        ok=content.ok,
        service=content.service,
        previous=UNSET if previous is None else previous.step,
        entity_id=_entity(content.entity_id),
        payload=_named_values(step, content.values),
        message=content.message,
    )


def differences(flow: Flow, hint: StateHint, state: FlowState) -> list[str]:
    """Return the members of a hint, by their names in JSON, that differ from a state.

    There are none for a token of that state. Payloads are compared as text, and only the members in the
    ``payload_map`` of the hint's step.
    """
    step = flow.steps[hint.step]
    seen = StateHint(
        flow=state.flow,
        step=state.step,
        ok=state.ok,
        service=state.service,
        previous=state.previous,
        entity_id=_entity(state.entity),
        payload=_named_values(step, _written(step, state.payload)),
        message=state.message,
    )
    names = zip(StateHint.__struct_fields__, StateHint.__struct_encode_fields__, strict=True)
    return [written for name, written in names if getattr(hint, name) != getattr(seen, name)]


def _step(flow: Flow, state: FlowState, name: str) -> FlowStep:
    step = flow.steps.get(name)
    if step is None:
        raise FlowStateCorruptionError(state.user_id, state.flow, f"step {name} is not in the flow")
    return step


def _by_index(flow: Flow, written: str) -> FlowStep | None:
    index = parse_int(written)
    return next((step for step in flow.steps.values() if float(step.index) == index), None)


def _entity(given: str | UnsetType | None) -> str | UnsetType | None:
    """Return None for an empty entity: a token has the same text for null and for empty."""
    return None if given == "" else given


def _write(content: TokenContent) -> str:
    places = [content.flow, content.index, content.previous]
    members = {
        "f": ":".join(place for place in places if place is not UNSET),
        "s": content.service,
        "o": int(content.ok),
        "e": content.entity_id,
        "m": content.message,
        "p": content.values,
    }
    raw = json_of({name: value for name, value in members.items() if value is not UNSET})
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _written(step: FlowStep, payload: Payload | UnsetType) -> str | UnsetType:
    """Return the values of the payload by their positions in the map, joined by commas.

    There is a place for each key of the map, and up to the largest position; of keys that share a position
    the last counts. A position that is not an index of an array is ignored.
    """
    if payload is UNSET or step.payload_map is None:
        return UNSET
    placed = [m for m in members_of(step.payload_map) if 0 <= m[1] < ARRAY_LIMIT]
    length = max(len(step.payload_map), 1 + max((position for _, position in placed), default=-1))
    if length > MAX_TOKEN:
        raise PayloadTooLargeError("token of the state", MAX_TOKEN)
    places = [""] * length
    for key, position in placed:
        places[position] = text_of(payload.get(key))
    return ",".join(places)


def _named_values(step: FlowStep, values: str | UnsetType) -> dict[str, str | None] | UnsetType:
    if values is UNSET or step.payload_map is None:
        return UNSET
    places = values.split(",")
    return {
        key: places[position] if 0 <= position < len(places) else None
        for key, position in members_of(step.payload_map)
    }


def _decode_members(text: str) -> dict[str, Any]:
    if len(text) > MAX_TOKEN:
        raise _refusal(f"The token is longer than {MAX_TOKEN} characters")
    if not _ALPHABET.match(text):
        raise _refusal(
            "A token has only letters, digits, '-' and '_': it is base64url without padding" + _ADVICE
        )
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if urlsafe_b64encode(raw).rstrip(b"=") != text.encode():
            raise _refusal("This is not a state token: its last character is not valid" + _ADVICE)
        # JSON has no NaN; every number is a double, however long it is
        value = json.loads(raw.decode(), parse_int=float, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # also what base64 and UTF-8 refuse
        raise _refusal("This is not a state token: it does not encode JSON" + _ADVICE) from None
    if not isinstance(value, dict):
        raise _refusal("This is not a state token: it does not encode a JSON object" + _ADVICE)
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _refusal(*messages: str) -> InvalidRequestError:
    return InvalidRequestError([Fault("/token", message) for message in messages])
