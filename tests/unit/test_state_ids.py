"""Identities of states: their keys, and the ids of entities that are made for them."""

import string
import sys
import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.errors import FlowNotFoundError
from app.contracts.identifiers import is_id
from app.contracts.state import StateId, id_from_key, instances_prefix
from app.kit.ids import new_short_id
from tests.support.long_form import form

ODD = (
    "%3B", "%25", "%253B", "%", ";", ":", ";;", "a;b", "a%3Bb", "a:b", "a%", "%3", "3B", " ", "\0", "\n", "/",
    "?", "#", "&", "=", "+", "\\", '"', "$x", ".", "..", "é", "e\u0301", "\u2028", "\uffff", "\U0001f600",
)  # fmt: skip
NAMES = ["a", "b", *ODD]
texts = st.text(st.sampled_from([*"ab%;:23B5", "é", "\0"]), max_size=8) | st.text(max_size=8)
flows = st.sampled_from(["f", "g", "f-g"])
ids = st.builds(StateId, flows, texts, st.none() | texts)


def test_no_character_of_a_user_or_an_entity_makes_two_identities_one() -> None:
    valid = [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]
    identities = set()
    for character in map(
        chr,
        valid[:0x1000]
        + valid[0x1000 :: form("characters of identities: every one of", short=1009, long=101)],
    ):
        for text in (character, f"a{character}", f"{character}a", f"a{character}b"):
            identities |= {StateId("f", text), StateId("f", text, "e"), StateId("f", "u", text)}
    assert len({state_id.key for state_id in identities}) == len(identities)
    assert [state_id for state_id in identities if id_from_key(state_id.key) != state_id] == []


def test_no_two_of_all_odd_names_share_a_key() -> None:
    identities = [
        StateId(flow_id, user_id, instance_id)
        for flow_id, user_id, instance_id in product(("f", "g"), NAMES, (None, "", *NAMES))
    ]
    assert len({state_id.key for state_id in identities}) == len(identities)
    assert [id_from_key(state_id.key) for state_id in identities] == identities


@given(ids, ids)
def test_equal_keys_are_of_equal_identities(one: StateId, other: StateId) -> None:
    assert (one.key == other.key) == (one == other)


@given(ids)
def test_an_identity_is_read_from_its_key(state_id: StateId) -> None:
    assert id_from_key(state_id.key) == state_id


@given(ids, flows, texts)
def test_a_prefix_selects_the_instances_of_one_user_in_one_flow(
    state_id: StateId, flow_id: str, user_id: str
) -> None:
    is_one_of_them = (state_id.flow_id, state_id.user_id) == (flow_id, user_id)
    selected = state_id.key.startswith(instances_prefix(flow_id, user_id))
    assert selected == (is_one_of_them and state_id.instance_id is not None)


@given(ids)
def test_a_prefix_selects_its_own_instances(state_id: StateId) -> None:
    prefix = instances_prefix(state_id.flow_id, state_id.user_id)
    assert state_id.key.startswith(prefix) == (state_id.instance_id is not None)


@pytest.mark.parametrize("flow_id", ["f:a", "f;a", ":", ";", "f;"])
def test_a_flow_cannot_bring_a_separator(flow_id: str) -> None:
    with pytest.raises(FlowNotFoundError):
        StateId(flow_id, "ada")


def test_the_key_of_the_only_state_is_that_of_older_versions() -> None:
    assert StateId("loop", "a;b%3Bc:d").key == "loop:a;b%3Bc:d"
    assert StateId("loop", "a;b%c", "e;1").key == "loop;a%3Bb%25c;e;1"


def test_short_ids_sort_differ_and_are_safe_in_addresses() -> None:
    made = [new_short_id() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert {len(each) for each in made} == {16}
    assert set("".join(made)) <= set(string.ascii_lowercase + string.digits)
    assert all(is_id(each) for each in made)


def test_a_short_id_begins_with_its_time() -> None:
    """So that ids of several workers sort by time too."""
    digits = "0123456789abcdefghjkmnpqrstvwxyz"
    before = time.time_ns() // 10**6
    number = 0
    for digit in new_short_id():
        number = number << 5 | digits.index(digit)
    # Ids of a burst are ahead of the clock, by less than a second.
    assert before <= number >> 32 < before + 10_000
