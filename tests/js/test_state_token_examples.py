"""State tokens, by example: written and read as JavaScript does it."""

import json

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from app.contracts.errors import (
    InvalidRequestError,
)
from app.flow.tokens.state_token import (
    MAX_TOKEN,
    encode_token,
)
from tests.support.token_oracle import Oracle
from tests.support.tokens import (
    FRESH,
    Json,
    T,
    as_json,
    content_of,
    flow_json,
    flow_of,
    read,
    state_of,
    token_of,
)


@pytest.mark.parametrize(
    ("step", "payload", "values"),
    [
        ("second", {}, ","),
        ("second", {"x": None, "y": 0}, ",0"),
        ("second", {"x": "a,b", "y": "c"}, "a,b,c"),
        ("second", {"x": [1, [True, None], "s"], "y": {"a": 1}}, "1,true,,s,[object Object]"),
        ("second", {"x": 1e21, "y": -0.0}, "1e+21,0"),
        ("second", {"x": 2**53 + 1, "y": 5.0}, "9007199254740992,5"),
        ("sparse", {"x": "X", "y": "Y"}, "X,,,Y"),
        ("doubled", {"x": "X", "y": "Y", "z": "Z"}, "X,Z,"),
        ("doubled", {"x": "X", "y": "Y"}, "X,,"),
    ],
)
def test_the_values_of_a_payload(oracle: Oracle, step: str, payload: Json, values: str) -> None:
    state = state_of(T, step, payload=payload)
    token = encode_token(T, state)
    assert json.loads(content_of(token))["p"] == values
    assert oracle.ask(write=as_json(state), flow=flow_json(T)) == {"token": token}


@pytest.mark.parametrize(
    ("keys", "last"),
    [
        (["10", "9"], "10"),
        (["x", "1"], "x"),
        (["x", "01"], "01"),
        (["x", "-1"], "-1"),
        (["x", "4294967294"], "x"),
        (["x", "4294967295"], "4294967295"),
    ],
)
def test_of_keys_that_share_a_position_the_last_in_the_order_of_javascript_counts(
    oracle: Oracle, keys: list[str], last: str
) -> None:
    flow = flow_of("t", (0, "a", True, dict.fromkeys(keys, 0)))
    state = state_of(flow, "a", payload={key: key for key in keys})
    token = encode_token(flow, state)
    assert json.loads(content_of(token))["p"] == f"{last},"
    assert oracle.ask(write=as_json(state), flow=flow_json(flow)) == {"token": token}


@pytest.mark.parametrize(
    ("place", "step", "previous"),
    [
        ("t:1", "second", UNSET),
        ("t: 1", "second", UNSET),
        ("t:1x", "second", UNSET),
        ("t:0x2z", "third", UNSET),
        ("t:+2", "third", UNSET),
        ("t:1.9", "second", UNSET),
        ("t:1e1", "second", UNSET),
        ("t:-0", "first", UNSET),
        ("t:1:0", "second", "first"),
        ("t:1:9", "second", UNSET),
        ("t:1:", "second", UNSET),
        ("t:1:0:2", "second", "first"),
    ],
)
def test_indexes_are_read_as_parse_int_does(
    oracle: Oracle, place: str, step: str, previous: str | UnsetType
) -> None:
    token = token_of({"f": place, "s": "", "o": 1})
    hint = read(T, token)
    assert (hint.step, hint.previous) == (step, previous)
    assert msgspec.to_builtins(hint) == oracle.ask(read=token, flow=flow_json(T))["state"]


@pytest.mark.parametrize(
    "index", ["", "x", "9", "-1", "0x", "0x1f", "NaN", "Infinity", "\u0661", ".5", "- 1"]
)
def test_an_unknown_index_is_refused(oracle: Oracle, index: str) -> None:
    token = token_of({"f": f"t:{index}", "s": "", "o": 1})
    with pytest.raises(InvalidRequestError) as refusal:
        read(T, token)
    (fault,) = refusal.value.faults
    assert (fault.pointer, index in fault.message) == ("/token", True)
    assert oracle.ask(read=token, flow=flow_json(T)) == {"refused": "step"}


@pytest.mark.parametrize("o", [1, 1.0, True, "1", 0, 2, None, [1]])
def test_the_outcome_is_good_only_when_it_is_the_number_one(oracle: Oracle, o: object) -> None:
    token = token_of({"f": "t:0", "s": "", "o": o})
    assert read(T, token).ok is (type(o) in (int, float) and o == 1)
    assert oracle.ask(read=token, flow=flow_json(T))["state"]["ok"] is read(T, token).ok
    assert read(T, token_of({"f": "t:0", "s": ""})).ok is False


@pytest.mark.parametrize(
    ("token", "complaint"),
    [
        (f"{FRESH}=", "base64url without padding"),
        (f" {FRESH}", "base64url without padding"),
        (f"{FRESH}\n", "base64url without padding"),
        (token_of({"f": "t:0", "m": "?????"}).replace("_", "/"), "base64url without padding"),
        ("żółć", "base64url without padding"),
        (f"{FRESH}A", "does not encode JSON"),
        ("e31", "its last character is not valid"),
        ("", "does not encode JSON"),
        ("user-onboarding", "/api/flow/{flowId}/state"),
        ("sign-in", "/api/flow/{flowId}/state"),
        (token_of(b"\xff\xfe"), "does not encode JSON"),
        (token_of(b'{"f":"t:0","m":"\xed\xa0\x80"}'), "does not encode JSON"),
        (token_of(b'\xef\xbb\xbf{"f":"t:0"}'), "does not encode JSON"),
        (token_of(b'{"f":"t:0","o":NaN}'), "does not encode JSON"),
        (token_of(b'{"f":"t:0"} x'), "does not encode JSON"),
        (token_of(b"{'f':'t:0'}"), "does not encode JSON"),
        (token_of(b'{"f":"t\t:0"}'), "does not encode JSON"),
        (token_of(b"null"), "it does not encode a JSON object"),
        (token_of(b'"t:0"'), "it does not encode a JSON object"),
        (token_of(b'["t:0"]'), "it does not encode a JSON object"),
        (token_of({"s": "", "o": 1}), "no text f"),
        (token_of({"f": 5}), "no text f"),
        (token_of({"f": ["t:0"]}), "no text f"),
        (token_of({"f": "t"}), "but no step"),
        ("A" * (MAX_TOKEN + 1), "longer than 60000 characters"),
    ],
)
def test_what_is_no_token_is_refused_with_a_reason(oracle: Oracle, token: str, complaint: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        read(T, token)
    (fault,) = refusal.value.faults
    assert fault.pointer == "/token"
    assert complaint in fault.message
    assert "refused" in oracle.ask(read=token, flow=flow_json(T))
