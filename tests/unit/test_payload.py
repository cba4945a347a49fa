"""Bounds of the payload that a state can store."""

from enum import IntEnum
from typing import Any

import pytest

from app.contracts.errors import InvalidPayloadError, PayloadTooLargeError
from app.flow.values.payload import PayloadLimits, check_size, require_storable
from app.flow.values.storable_json import MAX_DEPTH, MAX_NAME_CHARACTERS


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "payload",
    [{}, {"a": [1, 2.5, "x", True, None, {"$b.c": []}]}, {"n": 2**63 - 1, "m": -(2**63)}, nested(MAX_DEPTH)],
)
def test_json_is_retained(payload: dict[str, Any]) -> None:
    require_storable(payload)


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        ({"a": 2**63}, "/payload/a"),
        ({"a": [0, {"b/c": 2**70}]}, "/payload/a/1/b~1c"),
        ({"a\0b": 1}, "/payload"),
        ({"a": float("nan")}, "/payload/a"),
        ({"a": float("inf")}, "/payload/a"),
        ({"a": "\ud800"}, "/payload/a"),
        ({"\udfff": 1}, "/payload"),
        ({1: 1}, "/payload"),
        ({"a": b"x"}, "/payload/a"),
        (nested(MAX_DEPTH + 1), "/payload" + "/a" * MAX_DEPTH),
    ],
)
def test_what_could_not_be_read_back_is_refused(payload: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidPayloadError) as refusal:
        require_storable(payload)
    assert [f.pointer for f in refusal.value.faults] == [pointer]


def test_a_number_of_a_kind_of_its_own_is_a_number() -> None:
    """And not looked for among all of 64 bits, one after the other."""

    class Level(IntEnum):
        HIGH = 2**62
        BEYOND = 2**64

    require_storable({"level": Level.HIGH})
    with pytest.raises(InvalidPayloadError) as refused:
        require_storable({"level": Level.BEYOND})
    assert [fault.pointer for fault in refused.value.faults] == ["/payload/level"]


def test_every_fault_is_named() -> None:
    bad = {"a": 2**64, "b": float("nan"), "c": 1}
    with pytest.raises(InvalidPayloadError) as refusal:
        require_storable(bad)
    assert [f.pointer for f in refusal.value.faults] == ["/payload/a", "/payload/b"]


def test_the_whole_payload_is_bounded() -> None:
    check_size({"a": 1, "rest": "x" * 80}, PayloadLimits(97))
    with pytest.raises(PayloadTooLargeError):
        check_size({"a": 1, "rest": "x" * 80}, PayloadLimits(96))


def test_members_are_counted_at_every_level() -> None:
    limits = PayloadLimits(max_fields=6)
    check_size({"a": {"b": [1, 2, 3]}, "rest": "x" * 100}, limits)
    with pytest.raises(InvalidPayloadError) as refusal:
        check_size({"a": {"b": [1, 2, 3, 4]}, "rest": "x" * 100}, limits)
    assert [fault.pointer for fault in refusal.value.faults] == ["/payload"]


def test_names_are_bounded_and_every_place_of_a_long_one_is_reported() -> None:
    long = "x" * MAX_NAME_CHARACTERS
    require_storable({long: {long: 1}})
    with pytest.raises(InvalidPayloadError) as refusal:
        require_storable({"a": {f"{long}y": 1}, "b": [{f"{long}z": 1}], "c": 1})
    assert [fault.pointer for fault in refusal.value.faults] == ["/payload/a", "/payload/b/0"]


def test_the_depth_can_be_lowered() -> None:
    limits = PayloadLimits(max_depth=2)
    require_storable({"a": {"b": 1}}, limits)
    with pytest.raises(InvalidPayloadError, match="2 levels") as refusal:
        require_storable({"a": {"b": {}}, "c": [[[]]]}, limits)
    assert [fault.pointer for fault in refusal.value.faults] == ["/payload/a/b", "/payload/c/0"]
