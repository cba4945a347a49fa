"""State tokens of random flows, states and texts: written and read as JavaScript does it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from app.contracts.errors import FlowNotFoundError, InvalidRequestError
from app.contracts.flow import Flow
from app.contracts.state import FlowState
from app.flow.tokens.javascript import parse_int, text_of
from app.flow.tokens.state_token import differences, encode_token
from tests.support.long_form import examples
from tests.support.token_oracle import Oracle
from tests.support.tokens import (
    FRESH,
    STANDARD,
    Json,
    T,
    as_json,
    flow_json,
    flow_of,
    read,
    state_of,
    token_of,
    well_formed,
)

OFTEN = examples(1000)

SPECIAL = st.sampled_from(["", ",", ":", "a,b", "\u2028", "\x7f\x1f", '"\\', "żółć 😀"])
UNICODE = SPECIAL | st.text(max_size=6)
TEXT = UNICODE | st.text(st.characters(exclude_categories=()) | st.sampled_from("\ud83d\udc80"), max_size=6)
KEYS = st.sampled_from(["x", "y", "z", "key", "0", "1", "10", "01", "-1", "4294967294", "4294967295", "ż"])
NUMBERS = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-20, 400).map(lambda power: float(f"1.5e{power - 100}"))
)


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    scalars = st.none() | st.booleans() | NUMBERS | text
    objects = st.dictionaries(st.sampled_from("ab"), scalars, max_size=2)
    return scalars | st.lists(scalars | st.lists(scalars, max_size=2) | objects, max_size=3) | objects


POSITIONS = st.integers(0, 6) | st.sampled_from([-1, 2**32 - 1, 2**40, 2**53 + 1])
MAPS = st.none() | st.dictionaries(KEYS, POSITIONS, max_size=5)
INDEXES = st.integers(0, 12) | st.sampled_from([-3, 31, 2**53 + 1, 2**62 + 1, 2**63 - 1])


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(STANDARD))
    indexes = draw(st.lists(INDEXES, min_size=1, max_size=4, unique=True))
    steps = [(index, f"step-{place}", False, draw(MAPS)) for place, index in enumerate(indexes)]
    return flow_of(draw(st.sampled_from(["t", "a.b-c_9"])), *steps)


def states(flow: Flow, text: st.SearchStrategy[str] = TEXT) -> st.SearchStrategy[FlowState]:
    names = st.sampled_from(list(flow.steps))
    absent = st.just(UNSET)
    return st.builds(
        lambda step, **members: state_of(flow, step, **members),
        step=names,
        previous=absent | names,
        entity_id=absent | st.none() | text,
        service=text,
        message=absent | text,
        ok=st.booleans(),
        payload=absent | st.dictionaries(KEYS, values(text)),
    )


@OFTEN
@given(data=st.data(), flow=flows())
def test_every_token_is_javascripts(oracle: Oracle, data: st.DataObject, flow: Flow) -> None:
    state = data.draw(states(flow))
    token = encode_token(flow, state)
    assert oracle.ask(write=as_json(state), flow=flow_json(flow)) == {"token": token}
    hint = read(flow, token)
    assert msgspec.to_builtins(hint) == well_formed(oracle.ask(read=token, flow=flow_json(flow))["state"])


PLACES = st.builds(
    lambda slug, *indexes: ":".join([slug, *indexes]),
    st.sampled_from(["t", "t", "t", "u", ""]),
    *[
        st.builds(
            lambda before, index, after: before + index + after,
            st.sampled_from(["", "", " ", "\ufeff", "\u200b", "+", "-", "0x", "0X", "00"]),
            INDEXES.map(str) | st.sampled_from(["", "1f", "z"]),
            st.sampled_from(["", "", " ", "x", ":", ".5"]),
        )
    ]
    * 2,
)
MEMBERS = st.none() | TEXT
CONTENTS = st.fixed_dictionaries(
    {"f": PLACES},
    optional={
        "s": MEMBERS,
        "o": st.sampled_from([1, 1, 0, 1.0, True, "1", None]),
        "e": MEMBERS,
        "m": MEMBERS,
        "p": MEMBERS,
        "q": values(TEXT),
    },
)


@OFTEN
@given(content=CONTENTS, flow=flows())
def test_every_token_is_read_as_javascript_reads_it(oracle: Oracle, content: Json, flow: Flow) -> None:
    flow = structs.replace(flow, flow="t")
    token = token_of(content)
    expected = oracle.ask(read=token, flow=flow_json(flow))
    if "refused" in expected:
        with pytest.raises((InvalidRequestError, FlowNotFoundError)):
            read(flow, token)
        return
    state = well_formed(expected["state"])
    if state.get("service") is None:  # JavaScript takes null for a service over
        state.pop("service", None)
    assert msgspec.to_builtins(read(flow, token)) == state


DAMAGED = st.builds(
    lambda at, put: FRESH[:at] + put + FRESH[at + 1 :],
    st.integers(0, len(FRESH)),
    st.text("AZa9-_=", max_size=2),
)


@OFTEN
@given(token=DAMAGED | st.binary(max_size=12).map(token_of) | st.text("AZaz09-_=+/ é", max_size=8))
def test_what_javascript_refuses_is_refused_and_nothing_else(oracle: Oracle, token: str) -> None:
    refused = "refused" in oracle.ask(read=token, flow=flow_json(T))
    try:
        read(T, token)
    except (InvalidRequestError, FlowNotFoundError):
        assert refused
    else:
        assert not refused


@OFTEN
@given(value=NUMBERS | values(TEXT).filter(lambda value: value is not None))
def test_every_value_is_written_as_to_string_does(oracle: Oracle, value: object) -> None:
    joined = text_of(value).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert oracle.ask(text=value) == {"text": joined}


@OFTEN
@given(
    text=st.text("0123456789abcdefxX+-.  \t\u00a0\u180e\u2003\u2028\ufeff\u0663", max_size=9)
    | st.text(st.characters(exclude_categories=()), max_size=3).map(lambda before: f"{before}7")
    | st.integers(0, 10**40).map(str)
    | st.integers(0, 2**1100).map(hex)
)
def test_every_text_is_read_as_parse_int_does(oracle: Oracle, text: str) -> None:
    number = parse_int(text)
    answer = oracle.ask(int=text)["int"]
    if answer in ("NaN", "Infinity", "-Infinity"):
        assert number == {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}[answer]
    else:
        assert number is not None
        assert text_of(number) == answer


@OFTEN
@given(data=st.data(), flow=flows())
def test_the_token_of_a_state_never_differs_from_it(data: st.DataObject, flow: Flow) -> None:
    state = data.draw(states(flow, UNICODE))
    assert differences(flow, read(flow, encode_token(flow, state)), state) == []
