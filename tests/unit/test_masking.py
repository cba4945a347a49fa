"""Masks of payloads: what is shown, what is reported, and what a reader that writes leaves as it is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from app.flow.values.masking import Mask
from tests.support.long_form import examples

PAYLOAD: dict[str, Any] = {
    "amount": 3,
    "card": {"number": "4111", "name": "Ada"},
    "items": [{"id": 1, "price": 5}, {"id": 2, "price": 6, "vat": 1}],
    "people": {"ada@x": {"age": 3}, "bob@x": {"age": 4}},
    "a/b": {"~": 1},
}


@pytest.mark.parametrize(
    ("mask", "seen", "masked"),
    [
        (Mask(), PAYLOAD, ()),
        (Mask(hidden=("/nothing", "/amount/deep")), PAYLOAD, ()),
        (Mask(hidden=("/card/number",)), {**PAYLOAD, "card": {"name": "Ada"}}, ("/card/number",)),
        (
            Mask(hidden=("/card/number", "/card/name")),
            {**PAYLOAD, "card": {}},
            ("/card/number", "/card/name"),
        ),
        (
            Mask(hidden=("/items/*/price",)),
            {**PAYLOAD, "items": [{"id": 1}, {"id": 2, "vat": 1}]},
            ("/items/*/price",),
        ),
        (Mask(hidden=("/items/1",)), {**PAYLOAD, "items": [PAYLOAD["items"][0], None]}, ("/items/1",)),
        (
            Mask(hidden=("/people/*/age",)),
            {**PAYLOAD, "people": {"ada@x": {}, "bob@x": {}}},
            ("/people/*/age",),
        ),
        (Mask(hidden=("/people/*",)), {**PAYLOAD, "people": {}}, ("/people/*",)),
        (Mask(hidden=("/a~1b/~0",)), {**PAYLOAD, "a/b": {}}, ("/a~1b/~0",)),
        (Mask(hidden=("/*",)), {}, ("/*",)),
        (Mask(shown=()), {}, ("",)),
        (Mask(shown=("/amount",)), {"amount": 3}, ("",)),
        (Mask(shown=("/nothing",)), {}, ("",)),
        (Mask(shown=("/amount/deep",)), {}, ("",)),
        (Mask(shown=("/*",)), PAYLOAD, ()),
        (Mask(shown=("/card/name",)), {"card": {"name": "Ada"}}, ("/card", "")),
        (
            Mask(shown=("/items/*/id",)),
            {"items": [{"id": 1}, {"id": 2}]},
            ("/items/*", ""),
        ),
        (Mask(shown=("/items/1/vat",)), {"items": [None, {"vat": 1}]}, ("/items/1", "/items", "")),
        (Mask(shown=("/people/*/age",)), {"people": PAYLOAD["people"]}, ("",)),
        (
            Mask(hidden=("/card/number",), shown=("/card", "/amount")),
            {"card": {"name": "Ada"}, "amount": 3},
            ("/card/number", ""),
        ),
        (Mask(hidden=("/card/number",), shown=("/amount",)), {"amount": 3}, ("",)),
        (Mask(hidden=("/card",), listed=("/card",)), PAYLOAD, ()),
        (Mask(hidden=("/card",), listed=("/card/name",)), {**PAYLOAD, "card": {"name": "Ada"}}, ("/card",)),
        (
            Mask(hidden=("/card/number",), listed=("/card",)),
            {**PAYLOAD, "card": {"name": "Ada"}},
            ("/card/number",),
        ),
        (
            Mask(hidden=("/card",), listed=("/card/cvv",)),
            {k: v for k, v in PAYLOAD.items() if k != "card"},
            ("/card",),
        ),
        (
            Mask(hidden=("/items/*/price",), listed=("/items/0/price",)),
            {**PAYLOAD, "items": [{"id": 1, "price": 5}, {"id": 2, "vat": 1}]},
            ("/items/*/price",),
        ),
    ],
)
def test_a_mask(mask: Mask, seen: Any, masked: tuple[str, ...]) -> None:
    before = repr(PAYLOAD)
    shown, places = mask.apply(PAYLOAD)
    assert shown == seen
    assert sorted(places) == sorted(masked)
    assert repr(PAYLOAD) == before


def test_names_in_masked_parts_are_not_disclosed() -> None:
    for mask in (Mask(hidden=("/people/*",)), Mask(shown=("/people/*/age/x", "/amount")), Mask(shown=())):
        assert "@x" not in repr(mask.apply(PAYLOAD))


def test_an_empty_payload_has_nothing_masked() -> None:
    assert Mask(shown=()).apply({}) == ({}, ())


def test_the_value_at_a_pointer() -> None:
    mask = Mask(hidden=("/card/number", "/people/*"))
    assert mask.apply_at("/card", PAYLOAD["card"]) == ({"name": "Ada"}, ("/card/number",))
    assert mask.apply_at("/card/number", "4111") == (UNSET, ("/card/number",))
    assert mask.apply_at("/people/ada@x/age", 3) == (UNSET, ("/people/*",))
    assert mask.apply_at("/amount", 3) == (3, ())
    assert Mask(shown=("/amount",)).apply_at("/card/name", "x") == (UNSET, ("",))


def test_fields_that_are_shown_as_wholes() -> None:
    mask = Mask(hidden=("/card/number",))
    assert [
        mask.shows_all_of(at) for at in ("/card", "/card/number", "/card/name", "/x", "/card/number/a")
    ] == [
        False,
        False,
        True,
        True,
        False,
    ]
    items = Mask(hidden=("/items/0/price",))
    assert not items.shows_all_of("/items/*/price")
    assert items.shows_all_of("/items/*/name")
    assert not Mask(shown=("/items/0",)).shows_all_of("/items/*/name")
    assert Mask(shown=("/items/*",)).shows_all_of("/items/0/name")
    assert Mask(hidden=("/card",), listed=("/card/name",)).shows_all_of("/card/name")
    assert not Mask(hidden=("/card/name",), listed=("/card",)).shows_all_of("/card/name")
    assert [Mask(shown=("/a",)).shows_all_of(at) for at in ("/a", "/a/b", "/b", "")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("mask", "sent", "restored"),
    [
        (
            Mask(hidden=("/card/number",)),
            {"card": {"name": "Eva"}},
            {"card": {"name": "Eva", "number": "4111"}},
        ),
        (Mask(hidden=("/card/number",)), {"card": {"number": "1"}}, {"card": {"number": "1"}}),
        (Mask(hidden=("/card",)), {"card": {"name": "Eva"}}, {"card": {"name": "Eva"}}),
        (Mask(hidden=("/card/number",)), {"card": None, "new": 1}, {"card": None, "new": 1}),
        (
            Mask(hidden=("/items/*/price",)),
            {"items": [{"id": 7}, {"id": 2}]},
            {"items": [{"id": 7, "price": 5}, {"id": 2, "price": 6}]},
        ),
        (
            Mask(hidden=("/items/*/price",)),
            {"items": [{"id": 2, "vat": 1}]},
            {"items": [{"id": 2, "price": 6, "vat": 1}]},
        ),
        (
            Mask(hidden=("/items/*/price",)),
            {"items": [{"id": 1}, {"id": 3}, {"id": 2, "vat": 1}]},
            {"items": [{"id": 1, "price": 5}, {"id": 3}, {"id": 2, "price": 6, "vat": 1}]},
        ),
        (Mask(shown=("/card/name",)), {"card": {"name": "Eva"}}, {"card": {"name": "Eva", "number": "4111"}}),
        (Mask(shown=()), {"amount": 4}, {"amount": 4}),
        # Nothing moves to a position at which its sender would see it.
        (
            Mask(hidden=("/items/0",)),
            {"items": [{"id": 2, "price": 6}, None, 3]},
            {"items": [{"id": 2, "price": 6}, None, 3]},
        ),
        (Mask(shown=("/items/0",)), {"items": [None]}, {"items": [None]}),
        (
            Mask(hidden=("/items/0/price",)),
            {"items": [7, {"id": 1}, 8]},
            {"items": [7, {"id": 1}, 8]},
        ),
    ],
)
def test_a_payload_that_is_sent_retains_what_its_sender_does_not_see(
    mask: Mask, sent: Any, restored: Any
) -> None:
    before = repr(sent)
    assert mask.restore(sent, PAYLOAD) == restored
    assert repr(sent) == before


NAMES = st.sampled_from(["a", "b", "0", "1", "/", "*"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 3) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
SEGMENTS = st.sampled_from(["a", "b", "0", "1", "~1", "*"])
POINTERS = st.lists(
    st.lists(SEGMENTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)), max_size=3
).map(tuple)
MASKS = st.builds(Mask, hidden=POINTERS, shown=st.none() | POINTERS) | st.builds(
    Mask, hidden=POINTERS, listed=POINTERS
)
"""People have no list, and integrations nothing that is shown alone."""


@examples(5000, fraction=50)
@given(payload=st.dictionaries(NAMES, VALUES, max_size=4), mask=MASKS)
def test_a_payload_that_is_sent_back_changes_nothing(payload: Any, mask: Mask) -> None:
    seen, masked = mask.apply(payload)
    assert masked or seen == payload
    assert {**payload, **mask.restore(seen, payload)} == payload


def oracle(value: Any, path: tuple[str, ...], mask: Mask) -> list[tuple[str, ...]]:
    """The paths of all scalars that are shown, by comparing each with each pointer."""
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        return [shown for name, member in members for shown in oracle(member, (*path, str(name)), mask)]

    def leads_to(pointer: str) -> bool:
        parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
        return len(parts) <= len(path) and all(a in (b, "*") for a, b in zip(parts, path, strict=False))

    def is_allowed(hiding: str) -> bool:
        depth = hiding.count("/")
        return any(leads_to(each) and each.count("/") >= depth for each in mask.listed)

    is_shown = mask.shown is None or any(map(leads_to, mask.shown))
    return [path] if is_shown and all(is_allowed(each) for each in mask.hidden if leads_to(each)) else []


def scalars(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, member in members for k, v in scalars(member, (*path, str(name))).items()}
    return {path: value}


@examples(5000, fraction=50)
@given(payload=st.dictionaries(NAMES, VALUES, max_size=4), mask=MASKS)
def test_a_mask_shows_what_each_value_by_itself_allows(payload: Any, mask: Mask) -> None:
    """An element that is masked is null, as are some in the payload; those are not compared."""
    seen, _ = mask.apply(payload)
    real = {path for path, value in scalars(payload).items() if value is not None}
    assert {path for path, value in scalars(seen).items() if value is not None} == {
        path for path in oracle(payload, (), mask) if path in real
    }
