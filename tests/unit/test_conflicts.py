"""Conflicts of a request with changes that its caller did not know: tables, and a model by brute force."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from app.contracts.commands import TransitionCommand
from app.contracts.record import MergedField
from app.flow.conflicts import NO_CONFLICTS, Conflicts, find_conflicts, is_same
from app.flow.values.payload import edit_payload
from app.flow.values.struct_errors import escape
from tests.support.long_form import examples

Path = tuple[str, ...]
ADDRESS = {"street": "Long Lane", "zip": 1}


def conflicts(
    base: dict[str, Any],
    present: dict[str, Any],
    payload: dict[str, Any],
    *declared: str,
    remove: tuple[str, ...] = (),
) -> Conflicts:
    command = TransitionCommand(payload=payload or UNSET, remove=remove or UNSET)
    return find_conflicts(base, present, command, declared)


@pytest.mark.parametrize(
    ("base", "present", "sent"),
    [
        ({}, {}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1, "b": 2}, {"a": 2}),
        ({"a": 1}, {"b": 2}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": 1.0}, {"a": 2}),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2.0}]}, {"a": 0}),
        ({"a": ADDRESS}, {"a": {"zip": 1, "street": "Long Lane"}}, {"a": {}}),
        ({"a": ADDRESS}, {"a": ADDRESS | {"zip": 2}}, {"a": {"street": "Other", "zip": 2}}),
        ({}, {"a": {}}, {"a": {"b": 1}}),
    ],
)
def test_what_changed_in_one_of_both_only_is_no_conflict(
    base: dict[str, Any], present: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert conflicts(base, present, sent) == NO_CONFLICTS


@pytest.mark.parametrize(
    ("base", "present", "sent", "at"),
    [
        ({"a": 1}, {"a": 2}, {"a": 3}, "/a"),
        ({"a": 1}, {"a": 2}, {"a": 1}, "/a"),
        ({}, {"a": 2}, {"a": 3}, "/a"),
        ({"a": 1}, {}, {"a": 1}, "/a"),
        ({"a": 1}, {"a": True}, {"a": 2}, "/a"),
        ({"a": 0}, {"a": 1}, {"a": True}, "/a"),
        ({"a": None}, {"a": 1}, {"a": None}, "/a"),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}, "/a"),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, {"a": [{"b": 3}]}, "/a"),
        ({"a": ADDRESS}, {"a": ADDRESS | {"zip": 2}}, {"a": {"street": "Other", "zip": 1}}, "/a/zip"),
        ({"a": ADDRESS}, {"a": ADDRESS | {"zip": 2}}, {"a": {"street": "Other"}}, "/a/zip"),
        ({"a": ADDRESS}, {"a": ADDRESS | {"town": "Oslo"}}, {"a": ADDRESS}, "/a/town"),
        ({}, {"a": {"zip": 2}}, {"a": {"zip": 3}}, "/a/zip"),
        ({"a": {"zip": 2}}, {}, {"a": {"zip": 3}}, "/a/zip"),
        ({"a": {"zip": 2}}, {}, {"a": {}}, "/a"),
        ({"a": {"zip": 2}}, {}, {"a": 5}, "/a"),
        ({"a": {"zip": 2}}, {"a": "Long Lane"}, {"a": {"zip": 3}}, "/a"),
        ({"x/y": {"~": 1}}, {"x/y": {"~": 2}}, {"x/y": {"~": 3}}, "/x~1y/~0"),
    ],
)
def test_what_both_changed_is_a_conflict_where_it_was_changed(
    base: dict[str, Any], present: dict[str, Any], sent: dict[str, Any], at: str
) -> None:
    assert conflicts(base, present, sent) == Conflicts((), (at,))
    found = conflicts(base, present, sent, at)
    assert found.refused == ()
    (merged,) = found.merged
    assert merged.pointer == at
    above = at.rpartition("/")[0]
    assert conflicts(base, present, sent, above or at) == found, "with all that is in it"
    assert conflicts(base, present, sent, f"{at}/below").refused == (at,)
    assert conflicts(base, present, sent, f"{at}x").refused == (at,)


def test_both_values_are_reported_and_absence_is_none_of_them() -> None:
    declared = ("/amount", "/note", "/address")
    base = {"amount": 1, "address": {"zip": 1}}
    present = {"amount": 2, "address": {"zip": 1, "town": "Oslo"}, "note": "theirs"}
    sent = {"amount": None, "address": {"zip": 1}, "note": "ours"}
    assert conflicts(base, present, sent, *declared) == Conflicts(
        (
            MergedField("/amount", 2, None),
            MergedField("/address/town", "Oslo", UNSET),
            MergedField("/note", "theirs", "ours"),
        )
    )


def test_fields_that_are_not_declared_are_refused_together() -> None:
    present = {"a": 2, "b": 2, "c": 2}
    found = conflicts({}, present, {"a": 3, "b": 3, "c": 3}, "/b")
    assert found == Conflicts((MergedField("/b", 2, 3),), ("/a", "/c"))


@pytest.mark.parametrize(
    ("base", "present", "remove", "at"),
    [
        ({"a": 1}, {"a": 2}, "/a", "/a"),
        ({}, {"a": 2}, "/a", "/a"),
        ({"a": {"zip": 1}}, {"a": {"zip": 2}}, "/a/zip", "/a/zip"),
        ({"a": {"zip": 1}}, {"a": {"zip": 2}}, "/a", "/a/zip"),
        ({"a": {"zip": 1}}, {"a": {}}, "/a", "/a"),
        ({"x/y": 1}, {"x/y": 2}, "/x~1y", "/x~1y"),
    ],
)
def test_a_removal_is_a_change_of_the_field(
    base: dict[str, Any], present: dict[str, Any], remove: str, at: str
) -> None:
    assert conflicts(base, present, {}, remove=(remove,)) == Conflicts((), (at,))
    (merged,) = conflicts(base, present, {}, at, remove=(remove,)).merged
    assert (merged.pointer, merged.ours) == (at, UNSET)


@pytest.mark.parametrize(
    ("base", "present", "remove"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, "/a"),
        ({"a": 1}, {}, "/a"),
        ({"a": {"zip": 1, "b": 1}}, {"a": {"zip": 1, "b": 2}}, "/a/zip"),
        ({"a": {"zip": 1}}, {"a": 5}, "/a/zip"),
        ({"a": [1, 2]}, {"a": [1, 2], "b": 1}, "/a/0"),
        ({"a": [1, 2]}, {"a": [1, 2], "b": 1}, "/a/7/zip"),
    ],
)
def test_a_removal_of_what_did_not_change_is_no_conflict(
    base: dict[str, Any], present: dict[str, Any], remove: str
) -> None:
    assert conflicts(base, present, {}, remove=(remove,)) == NO_CONFLICTS


@pytest.mark.parametrize(
    ("base", "present"),
    [([1, 2], [0, 1, 2]), ([1, 2], [2]), ([1], {"0": 1}), ({"0": 1}, [1]), ([1], UNSET), ([[1]], [[2]])],
)
def test_positions_in_a_list_that_changed_are_never_merged(base: Any, present: Any) -> None:
    """They may be those of other elements, also if somebody else removed the same one."""
    whole = [{} if value is UNSET else {"a": value} for value in (base, present)]
    for remove in ("/a/0", "/a/0/x"):
        assert conflicts(whole[0], whole[1], {}, "/a", remove=(remove,)) == Conflicts((), ("/a",))


def test_a_member_that_is_removed_and_sent_is_sent() -> None:
    found = conflicts({"a": 1}, {"a": 2}, {"a": 3}, "/a", remove=("/a/x", "/a"))
    assert found == Conflicts((MergedField("/a", 2, 3),))


# A model by brute force: it looks at every place that any of the payloads has.

VALUES = st.recursive(
    st.sampled_from([0, 1, True, None, "x", 1.0]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab~"), inner, max_size=3),
    max_leaves=5,
)
PAYLOADS = st.dictionaries(st.sampled_from("abc/"), VALUES, max_size=4)


def value_at(payload: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(payload, dict) or name not in payload:
            return UNSET
        payload = payload[name]
    return payload


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    if at:
        yield at
    if isinstance(value, dict):
        for name, member in value.items():
            yield from places(member, (*at, name))


def text(path: Path) -> str:
    return "".join(f"/{escape(name)}" for name in path)


def expected_conflicts(base: Any, present: Any, after: Any) -> set[str]:
    everywhere = {place for payload in (base, present, after) for place in places(payload)}
    changed = {
        place
        for place in everywhere
        if not is_same(value_at(base, place), value_at(present, place))
        and not is_same(value_at(present, place), value_at(after, place))
    }
    plain = {
        place
        for place in changed
        if any(
            value is not UNSET and not isinstance(value, dict)
            for value in (value_at(payload, place) for payload in (base, present, after))
        )
    }
    highest = {place for place in plain if not any(place[:end] in plain for end in range(len(place)))}
    for place in changed - plain:
        around = [place[:end] for end in range(len(place))]
        below = [other for other in changed if other[: len(place)] == place and other != place]
        vanished = UNSET in (value_at(present, place), value_at(after, place))
        if not below and vanished and not any(other in highest for other in around):
            highest.add(place)
    return {text(place) for place in highest}


def changed_lists(base: Any, present: Any, removed: list[str], sent: dict[str, Any]) -> set[str]:
    """The first lists that have changed, of those into which a removal leads."""
    found = set()
    for pointer in removed:
        path = path_of(pointer)
        lists = [
            path[:end]
            for end in range(1, len(path))
            if any(isinstance(value_at(payload, path[:end]), list) for payload in (base, present))
        ]
        if lists and path[0] not in sent:
            first = lists[0]
            if not is_same(value_at(base, first), value_at(present, first)):
                found.add(text(first))
    return found


def path_of(pointer: str) -> Path:
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:])


def is_below(pointer: str, fields: list[str]) -> bool:
    return any(f"{pointer}/".startswith(f"{field}/") for field in fields)


def is_in_new_object(base: dict[str, Any], present: dict[str, Any], pointer: str) -> bool:
    """Return whether a member of an object is named that was another value before."""
    path = path_of(pointer)
    around = [
        (value_at(base, path[:depth]), value_at(present, path[:depth])) for depth in range(1, len(path))
    ]
    return any(
        isinstance(now, dict) and before is not UNSET and not isinstance(before, dict)
        for before, now in around
    )


@examples(600)
@given(
    base=PAYLOADS,
    present=PAYLOADS,
    sent=PAYLOADS,
    reverted=st.booleans(),
    declared=st.lists(st.sampled_from(["/a", "/a/a", "/a/b", "/b", "/b/~0", "/c/a", "/~1"]), max_size=4),
    remove=st.lists(st.sampled_from(["/a", "/a/b", "/b/a", "/c/~0/a", "/~1", "/b"]), max_size=2),
)
def test_conflicts_are_those_of_the_model(
    base: dict[str, Any],
    present: dict[str, Any],
    sent: dict[str, Any],
    reverted: bool,
    declared: list[str],
    remove: list[str],
) -> None:
    if reverted:  # so that more members are as they were
        present = base | dict(list(present.items())[:1])
    command = TransitionCommand(payload=sent, remove=tuple(remove))
    after = edit_payload(present, command)
    assert isinstance(after, dict)
    found = find_conflicts(base, present, command, declared)
    lists = changed_lists(base, present, remove, sent)
    wanted = expected_conflicts(base, present, after) - lists
    if any(is_in_new_object(base, present, pointer) for pointer in remove):
        # The model names the member that has become an object, the service the removed member in it.
        pointers = {*found.refused, *(field.pointer for field in found.merged)}
        assert {path_of(at)[0] for at in pointers} == {path_of(at)[0] for at in wanted | lists}
        return
    assert {field.pointer for field in found.merged} == {at for at in wanted if is_below(at, declared)}
    assert {*found.refused} == lists | {at for at in wanted if not is_below(at, declared)}
    for field in found.merged:
        path = path_of(field.pointer)
        assert field == MergedField(field.pointer, value_at(present, path), value_at(after, path))
    if not found.refused:
        for place in {*places(base), *places(present)}:
            theirs = value_at(present, place)
            lost = not is_same(value_at(base, place), theirs) and not is_same(theirs, value_at(after, place))
            if lost and not isinstance(theirs, dict) and not isinstance(value_at(base, place), dict):
                assert is_below(text(place), declared), "no update of another field is lost"
