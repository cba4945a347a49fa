"""State tokens, by example: written, read, and beside a stored state."""

import json

import msgspec
import pytest
from msgspec import UNSET, structs

from app.contracts.errors import (
    FlowNotFoundError,
    FlowStateCorruptionError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from app.contracts.state import FlowState
from app.flow.tokens.prefabs import with_prefabs
from app.flow.tokens.state_token import (
    MAX_TOKEN,
    StateHint,
    differences,
    encode_token,
    fresh_token,
    read_token,
    state_from_token,
)
from tests.support.tokens import (
    STANDARD,
    Json,
    T,
    content_of,
    flow_of,
    read,
    state_of,
    token_of,
)

CHECK_VALUES = [
    (state_of(T, "first"), "eyJmIjoidDowIiwicyI6IiIsIm8iOjF9"),
    (
        state_of(T, "first", service="web", entity_id="org1"),
        "eyJmIjoidDowIiwicyI6IndlYiIsIm8iOjEsImUiOiJvcmcxIn0",
    ),
    (state_of(T, "first", service="web", entity_id=None), "eyJmIjoidDowIiwicyI6IndlYiIsIm8iOjEsImUiOiIifQ"),
    (
        state_of(T, "second", service="web", previous="first", payload={"x": "1", "y": True, "z": "no"}),
        "eyJmIjoidDoxOjAiLCJzIjoid2ViIiwibyI6MSwicCI6IjEsdHJ1ZSJ9",
    ),
    (
        state_of(T, "third", service="web", ok=False, message="bad thing ✓ żółć"),
        "eyJmIjoidDoyIiwicyI6IndlYiIsIm8iOjAsIm0iOiJiYWQgdGhpbmcg4pyTIMW8w7PFgsSHIn0",
    ),
]


@pytest.mark.parametrize(("state", "token"), CHECK_VALUES)
def test_the_known_tokens(state: FlowState, token: str) -> None:
    assert encode_token(T, state) == token


def test_no_values_without_a_payload_or_without_a_map() -> None:
    assert content_of(encode_token(T, state_of(T, "second"))) == '{"f":"t:1","s":"","o":1}'
    assert content_of(encode_token(T, state_of(T, "first", payload={"x": 1}))) == '{"f":"t:0","s":"","o":1}'


def test_a_lone_surrogate_is_escaped_and_a_pair_in_two_parts_is_one_character() -> None:
    token = encode_token(T, state_of(T, "first", message="a\udc80\ud83d", service="\ud83d\ude00"))
    assert content_of(token) == '{"f":"t:0","s":"😀","o":1,"m":"a\\udc80\\ud83d"}'


def test_a_key_that_every_object_has_in_javascript_is_missing_when_the_payload_has_it_not() -> None:
    flow = flow_of("t", (0, "a", True, {"constructor": 0, "x": 1}))
    assert json.loads(content_of(encode_token(flow, state_of(flow, "a", payload={"x": 1}))))["p"] == ",1"


def test_a_token_is_bounded() -> None:
    fits = state_of(T, "first", message="m" * 44_950)
    assert MAX_TOKEN - 80 < len(encode_token(T, fits)) <= MAX_TOKEN
    for state in (
        structs.replace(fits, message="m" * 45_050),
        state_of(T, "second", payload={"x": "x" * 50_000}),
    ):
        with pytest.raises(PayloadTooLargeError) as refusal:
            encode_token(T, state)
        assert refusal.value.details == {"limit": MAX_TOKEN}


def test_a_far_position_is_refused_before_a_list_is_made_for_it() -> None:
    flow = flow_of("t", (0, "a", True, {"x": 2**32 - 2}))
    with pytest.raises(PayloadTooLargeError):
        encode_token(flow, state_of(flow, "a", payload={"x": 1}))
    assert encode_token(flow, state_of(flow, "a"))


@pytest.mark.parametrize("members", [{"step": "missing"}, {"step": "first", "previous": "missing"}])
def test_a_state_that_does_not_fit_its_flow(members: Json) -> None:
    with pytest.raises(FlowStateCorruptionError, match="step missing is not in the flow"):
        encode_token(T, structs.replace(state_of(T, "first"), **members))


def test_the_known_tokens_read_back() -> None:
    hints = [read(T, token) for _, token in CHECK_VALUES]
    assert hints == [
        StateHint("t", "first", ok=True, service=""),
        StateHint("t", "first", ok=True, service="web", entity_id="org1"),
        StateHint("t", "first", ok=True, service="web", entity_id=None),
        StateHint("t", "second", ok=True, service="web", previous="first", payload={"x": "1", "y": "true"}),
        StateHint("t", "third", ok=False, service="web", message="bad thing ✓ żółć"),
    ]


def test_what_is_not_needed_is_left_out() -> None:
    hint = read(T, token_of({"f": "t:0", "x": {"y": [1]}, "m": None, "e": None, "p": "a,b"}))
    assert hint == StateHint("t", "first", ok=False)
    assert msgspec.to_builtins(hint) == {"flow": "t", "step": "first", "ok": False}


def test_a_key_without_a_place_is_null_and_keys_may_share_one() -> None:
    assert read(T, token_of({"f": "t:1", "p": ""})).payload == {"x": "", "y": None}
    assert read(T, token_of({"f": "t:1", "p": "a,b,c"})).payload == {"x": "a", "y": "b"}
    assert read(T, token_of({"f": "t:4", "p": "a,b"})).payload == {"x": "a", "y": "b", "z": "b"}


def test_a_lone_surrogate_is_read_as_a_replacement_character() -> None:
    hint = read(
        T, token_of({"f": "t:1", "s": "\ud800", "m": "\udfff😀", "e": "\udc00", "p": "\ud83d,\ude00"})
    )
    assert hint == StateHint(
        "t",
        "second",
        ok=False,
        service="\ufffd",
        entity_id="\ufffd",
        message="\ufffd😀",
        payload={"x": "\ufffd", "y": "\ufffd"},
    )
    assert msgspec.json.encode(hint)


def test_every_member_that_is_no_text_is_named() -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        read_token(token_of({"f": "t:0", "s": 5, "e": [], "m": {}, "p": True}))
    assert [fault.pointer for fault in refusal.value.faults] == ["/token"] * 4
    assert [f"member {name} " in f.message for name, f in zip("semp", refusal.value.faults, strict=True)]


def test_deep_json_is_refused_and_long_numbers_are_read() -> None:
    with pytest.raises(InvalidRequestError, match="does not encode JSON"):
        read_token(token_of(b'{"f":"t:0","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"))
    assert read_token(token_of(b'{"f":"t:0","o":1,"x":' + b"9" * 20_000 + b"}")).ok
    assert state_from_token(T, read_token(token_of({"f": f"t:{'0' * 9_000}1"}))).step == "second"
    for index in ("9" * 9_000, f"0x{'f' * 9_000}"):
        with pytest.raises(InvalidRequestError, match="index"):
            state_from_token(T, read_token(token_of({"f": f"t:{index}"})))


def test_a_slug_that_no_flow_can_have_is_reported_in_short() -> None:
    with pytest.raises(FlowNotFoundError) as refusal:
        read_token(token_of({"f": f"{'x' * 9_000}:0"}))
    assert refusal.value.details["flowId"] == "x" * 64 + "…"
    assert read_token(token_of({"f": "\ud800:0"})).flow == "\ufffd"


BEFORE = state_of(
    T,
    "second",
    service="web",
    previous="first",
    entity_id="org",
    message="m",
    payload={"x": 1, "y": 2, "z": 3},
)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"step": "third"}, ["step"]),
        ({"previous": UNSET}, ["previous"]),
        ({"previous": "third"}, ["previous"]),
        ({"entity_id": "other"}, ["entityId"]),
        ({"entity_id": None}, ["entityId"]),
        ({"entity_id": UNSET}, ["entityId"]),
        ({"service": "app"}, ["service"]),
        ({"message": UNSET}, ["message"]),
        ({"message": ""}, ["message"]),
        ({"ok": False}, ["ok"]),
        ({"payload": {"x": 1, "y": "other"}}, ["payload"]),
        ({"payload": UNSET}, ["payload"]),
        ({"payload": {"x": "1", "y": 2.0, "z": 4}}, []),
        ({"step": "sparse", "ok": False, "service": ""}, ["step", "ok", "service"]),
    ],
)
def test_what_differs_is_named(changed: Json, named: list[str]) -> None:
    hint = read(T, encode_token(T, BEFORE))
    assert differences(T, hint, structs.replace(BEFORE, **changed)) == named


def test_a_token_has_one_text_for_an_entity_of_null_and_an_empty_one() -> None:
    null, empty = (state_of(T, "first", entity_id=entity) for entity in (None, ""))
    assert encode_token(T, null) == encode_token(T, empty)
    assert differences(T, read(T, encode_token(T, null)), empty) == []


def test_prefabs_are_tokens_of_fresh_states_at_the_initial_steps() -> None:
    oidc, oidp, oa, stub = map(with_prefabs, STANDARD)
    assert oidc.prefabs == {"dispatch": "eyJmIjoiX29pZGM6MCIsInMiOiIiLCJvIjoxfQ"}
    assert list(oidp.prefabs) == ["unknown", "create-id"]
    assert list(oa.prefabs) == ["choice", "signup", "signin", "new"]
    assert list(stub.prefabs) == ["only"]
    for flow in (oidc, oidp, oa, stub):
        for name, token in flow.prefabs.items():
            assert token == encode_token(flow, state_of(flow, name))
            assert read(flow, token) == StateHint(flow.flow, name, ok=True, service="")


def test_what_an_author_wrote_as_prefabs_is_replaced() -> None:
    authored = structs.replace(T, prefabs={"first": "welcome-template", "third": "x"})
    assert with_prefabs(authored).prefabs == {"first": fresh_token(T, T.steps["first"])}
    assert with_prefabs(authored) == with_prefabs(T) == with_prefabs(with_prefabs(T))
    assert structs.replace(with_prefabs(T), prefabs={}) == T


def test_a_flow_without_initial_steps_has_no_prefabs() -> None:
    flow = flow_of("t", (0, "a", False, None))
    assert with_prefabs(structs.replace(flow, prefabs={"a": "x"})).prefabs == {}
