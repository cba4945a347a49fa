"""State tokens: a state's position in a text for addresses (``?flow=<token>``), byte for byte as the base
system writes and reads them.

A token is the base64url, without padding, of the compact JSON ``{"f", "s", "o", "e"?, "m"?, "p"?}``. It
names steps by their indexes, and has of the payload what the step's ``payload_map`` takes, as text without
escaping. Nobody signs it: it is a hint, and authorises nothing.

Where this differs from the base system: a ``s``, ``e``, ``m`` or ``p`` that is no text is refused, while it
goes on with most; so is JSON nested some hundreds deep. A lone surrogate is read as U+FFFD, as answers are
Unicode. A payload key such as ``constructor`` that the payload has not is missing, while JavaScript finds
it in every object.
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
"""Characters of a token, written or read: an address with one stays below 64 KiB, beyond which some clients
and servers refuse it."""
_MAX_SLUG = 64
_ALPHABET = re.compile(r"[A-Za-z0-9_-]*\Z")
_ADVICE = "; a flow that is named by its slug is asked for at /api/flow/{flowId}/state"


class TokenContent(Struct, frozen=True):
    """The content of a token, before its flow is looked up. ``index`` and ``previous`` are as written,
    ``values`` are the payload's, joined by commas; ``entity_id`` is empty for null."""

    flow: str
    index: str
    ok: bool
    service: str | UnsetType = UNSET
    previous: str | UnsetType = UNSET
    entity_id: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    values: str | UnsetType = UNSET


class StateHint(Struct, frozen=True, rename="camel"):
    """A state as a token tells it, which anybody could have written. All values of ``payload`` are text;
    null: the token has no place for the key."""

    flow: str
    step: str
    ok: bool
    service: str | UnsetType = UNSET
    previous: str | UnsetType = UNSET
    entity_id: str | UnsetType | None = UNSET
    payload: dict[str, str | None] | UnsetType = UNSET
    message: str | UnsetType = UNSET


def encode_token(flow: Flow, state: FlowState) -> str:
    """The token of a state on the version of the flow that it is pinned to. Raises PayloadTooLargeError
    above ``MAX_TOKEN``, FlowStateCorruptionError when the flow has not its steps."""
    step = _step(flow, state, state.step)
    content = TokenContent(
        flow=state.flow,
        index=text_of(step.index),
        ok=state.ok,
        service=state.service,
        previous=UNSET if state.previous is UNSET else text_of(_step(flow, state, state.previous).index),
        entity_id="" if state.entity_id is None else state.entity_id,
        message=state.message,
        values=_written(step, state.payload),
    )
    token = _write(content)
    if len(token) > MAX_TOKEN:
        raise PayloadTooLargeError("token of the state", MAX_TOKEN)
    return token


def fresh_token(flow: Flow, step: FlowStep) -> str:
    """The token of a state that has just been started at a step, for no service or entity."""
    return _write(TokenContent(flow=flow.flow, index=text_of(step.index), ok=True, service=""))


def read_token(text: str) -> TokenContent:
    """The content of a token. Raises InvalidRequestError with what is wrong, FlowNotFoundError for a slug
    that no flow can have."""
    members = _members(text)
    given = {name: well_formed(value) if isinstance(value, str) else value for name, value in members.items()}
    if not isinstance(given.get("f"), str):
        raise _refusal("is no state token: it has no text f, which says flow and step" + _ADVICE)
    slug, *indexes = given["f"].split(":")[:3]
    if len(slug) > _MAX_SLUG:
        raise FlowNotFoundError(f"{slug[:_MAX_SLUG]}…")
    if not indexes:
        raise _refusal("names a flow but no step: its f is to be <flow>:<index of the step>")
    texts = {name: UNSET if given.get(name) is None else given[name] for name in "semp"}
    faulty = [name for name, value in texts.items() if not isinstance(value, str | UnsetType)]
    if faulty:
        raise _refusal(*(f"holds a member {name} that is no text" for name in faulty))
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
    """The state that a token tells of, by a version of its flow. A previous step that the flow has not is
    dropped. Raises InvalidRequestError when it has not the step."""
    step = _by_index(flow, content.index)
    if step is None:
        raise _refusal(f"stands at a step with the index {content.index[:32]!r}, which {flow.flow} has not")
    previous = None if content.previous is UNSET else _by_index(flow, content.previous)
    return StateHint(
        flow=flow.flow,
        step=step.step,
        ok=content.ok,
        service=content.service,
        previous=UNSET if previous is None else previous.step,
        entity_id=_entity(content.entity_id),
        payload=_read(step, content.values),
        message=content.message,
    )


def differences(flow: Flow, hint: StateHint, state: FlowState) -> list[str]:
    """The members of a hint, by their names in JSON, that are not those of a state; none for a token of
    that state. Payloads are compared as text, where the map of the hint's step has them."""
    step = flow.steps[hint.step]
    seen = StateHint(
        flow=state.flow,
        step=state.step,
        ok=state.ok,
        service=state.service,
        previous=state.previous,
        entity_id=_entity(state.entity_id),
        payload=_read(step, _written(step, state.payload)),
        message=state.message,
    )
    names = zip(StateHint.__struct_fields__, StateHint.__struct_encode_fields__, strict=True)
    return [said for name, said in names if getattr(hint, name) != getattr(seen, name)]


def _step(flow: Flow, state: FlowState, name: str) -> FlowStep:
    step = flow.steps.get(name)
    if step is None:
        raise FlowStateCorruptionError(state.user_id, state.flow, f"step {name} is not in the flow")
    return step


def _by_index(flow: Flow, written: str) -> FlowStep | None:
    index = parse_int(written)
    return next((step for step in flow.steps.values() if float(step.index) == index), None)


def _entity(given: str | UnsetType | None) -> str | UnsetType | None:
    """A token has one text for null and for empty."""
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
    """A list with a place for each key of the map, longer where a position is beyond; of keys that share
    one the last counts. A position that no array has is none."""
    if payload is UNSET or step.payload_map is None:
        return UNSET
    taken = [m for m in members_of(step.payload_map) if 0 <= m[1] < ARRAY_LIMIT]
    length = max(len(step.payload_map), 1 + max((position for _, position in taken), default=-1))
    if length > MAX_TOKEN:
        raise PayloadTooLargeError("token of the state", MAX_TOKEN)
    places = [""] * length
    for key, position in taken:
        places[position] = text_of(payload.get(key))
    return ",".join(places)


def _read(step: FlowStep, values: str | UnsetType) -> dict[str, str | None] | UnsetType:
    if values is UNSET or step.payload_map is None:
        return UNSET
    places = values.split(",")
    return {
        key: places[position] if 0 <= position < len(places) else None
        for key, position in members_of(step.payload_map)
    }


def _members(text: str) -> dict[str, Any]:
    if len(text) > MAX_TOKEN:
        raise _refusal(f"is longer than the {MAX_TOKEN} characters of a token")
    if not _ALPHABET.match(text):
        raise _refusal("takes letters, digits, '-' and '_' only: base64url without padding" + _ADVICE)
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if urlsafe_b64encode(raw).rstrip(b"=") != text.encode():
            raise _refusal("is no state token: its last character does not fit" + _ADVICE)
        # JSON has no NaN; every number is a double, however long it is
        value = json.loads(raw.decode(), parse_int=float, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # also what base64 and UTF-8 refuse
        raise _refusal("is no state token: it does not encode JSON" + _ADVICE) from None
    if not isinstance(value, dict):
        raise _refusal("is no state token: it encodes no JSON object" + _ADVICE)
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _refusal(*complaints: str) -> InvalidRequestError:
    return InvalidRequestError([Fault("/token", complaint) for complaint in complaints])
