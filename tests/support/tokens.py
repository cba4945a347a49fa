"""Flows, states and tokens for the tests of state tokens."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, structs

from app.contracts.errors import FlowNotFoundError
from app.contracts.flow import Flow
from app.contracts.state import FlowState
from app.flow.tokens.state_token import StateHint, read_token, state_from_token

T0 = datetime(2026, 1, 1, tzinfo=UTC)
Json = dict[str, Any]


def flow_of(slug: str, *steps: tuple[int, str, bool, dict[str, int] | None]) -> Flow:
    """A flow of steps (index, name, initial, payload map)."""
    table = {
        name: {
            "index": index,
            "step": name,
            "service": "-",
            "transitions": {},
            **({"initial": True} if initial else {}),
            **({} if payload_map is None else {"payloadMap": payload_map}),
        }
        for index, name, initial, payload_map in steps
    }
    return msgspec.convert({"flow": slug, "initialStep": steps[0][1], "steps": table}, Flow)


def state_of(flow: Flow, step: str, **members: Any) -> FlowState:
    state = FlowState(
        flow=flow.flow,
        user_id="ada",
        version=1,
        epoch="e1",
        revision=3,
        status="active",
        step=step,
        service="",
        ok=True,
        created_at=T0,
        updated_at=T0,
    )
    return structs.replace(state, **members)


def as_json(state: FlowState) -> Json:
    """The base system's members of a state."""
    names = {"entity_id": "entityId"}
    members = ("flow", "step", "previous", "entity_id", "service", "payload", "message", "ok")
    return {names.get(m, m): getattr(state, m) for m in members if getattr(state, m) is not UNSET}


def flow_json(flow: Flow) -> Json:
    found: Json = msgspec.to_builtins(flow)
    return found


def token_of(content: object) -> str:
    """Return any content as a token."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def content_of(token: str) -> str:
    return urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()


def read(flow: Flow, token: str) -> StateHint:
    content = read_token(token)
    if content.flow != flow.flow:
        raise FlowNotFoundError(content.flow)
    return state_from_token(flow, content)


def well_formed(value: Any) -> Any:
    """With U+FFFD for lone surrogates, wherever they are."""
    if isinstance(value, dict):
        return {key: well_formed(member) for key, member in value.items()}
    if not isinstance(value, str):
        return value
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)


T = flow_of(
    "t",
    (0, "first", True, None),
    (1, "second", False, {"x": 0, "y": 1}),
    (2, "third", False, None),
    (3, "sparse", False, {"x": 0, "y": 3}),
    (4, "doubled", False, {"x": 0, "y": 1, "z": 1}),
)
STANDARD = [
    flow_of(
        "_oidc",
        (0, "dispatch", True, {"simplified": 0}),
        (1, "authen", False, {"simplified": 0}),
        (2, "post-authen", False, {"purpose": 0, "simplified": 1}),
        (3, "org-choice", False, {"token": 0, "purpose": 1, "simplified": 1}),
        (4, "payment", False, {"simplified": 0}),
        (5, "success", False, {"simplified": 0}),
        (6, "target", False, {"simplified": 0}),
        (7, "ephemeral", False, None),
    ),
    flow_of(
        "_oidp",
        (0, "unknown", True, {"uid": 0}),
        (1, "create-id", True, {"uid": 0}),
        (2, "auth", False, None),
        (3, "post-auth", False, None),
        (4, "link-id", False, None),
        (5, "denied", False, None),
        (6, "dispatch", False, {"uid": 0}),
        (7, "target", False, None),
    ),
    flow_of(
        "_oa",
        (0, "choice", True, None),
        (1, "signup", True, None),
        (2, "signin", True, None),
        (3, "new", True, None),
        (4, "existing", False, None),
        (5, "payment", False, None),
        (6, "success", False, None),
        (7, "target", False, None),
    ),
    flow_of("_stb", (0, "only", True, None)),
]
FRESH = token_of({"f": "t:0", "s": "", "o": 1})
