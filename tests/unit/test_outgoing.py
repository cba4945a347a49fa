"""Messages of the Python client that are refused before they are sent."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from app.flow.values import storable_json as jsonable
from realtime.client import FlowClient, FlowClientError
from realtime.client.outgoing import (
    DEFAULT_MESSAGE_BYTES,
    FRAME_BYTES,
    MAX_DEPTH,
    MAX_FAULTS,
    MAX_MESSAGE_BYTES,
    announced_limit,
    check_size,
    checked,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = [CIRCULAR, CIRCULAR]


@pytest.mark.parametrize(
    ("payload", "pointer", "complaint"),
    [
        ({"a": b"x"}, "/payload/a", "bytes is not a JSON value"),
        ({"a": [1, bytearray(b"x")]}, "/payload/a/1", "bytearray is not a JSON value"),
        ({"a": memoryview(b"x")}, "/payload/a", "memoryview is not a JSON value"),
        ({"a/b": {"~": math.nan}}, "/payload/a~1b/~0", "finite"),
        ({"a": (1, math.inf)}, "/payload/a/1", "finite"),
        ({"a": -math.inf}, "/payload/a", "finite"),
        ({"a": "\ud800"}, "/payload/a", "surrogates"),
        ({"\udfff": 1}, "/payload", "surrogates"),
        ({"a": object()}, "/payload", "object"),
        ({"a": [10**5000]}, "/payload/a/0", "64 bits"),
        ({10**5000: 1}, "/payload", "digits"),
        ({"a": 1j}, "/payload", "complex"),
        (nested(1000), "/payload", "32 levels"),
        (nested(100_000), "/payload", "32 levels"),
        (nested(MAX_DEPTH + 1), "/payload" + "/a" * MAX_DEPTH, "32 levels"),
        (CIRCULAR, "/payload", "32 levels"),
    ],
)
def test_a_payload_that_json_cannot_carry(payload: Any, pointer: str, complaint: str) -> None:
    with pytest.raises(FlowClientError) as refused:
        checked({"flowId": "f", "payload": payload})
    error = refused.value
    assert (error.code, error.retryable) == ("INVALID_PAYLOAD", False)
    assert error.details["errors"][0]["pointer"].startswith(pointer)
    assert complaint in error.details["errors"][0]["message"]
    assert complaint in error.message


def test_every_fault_is_named_up_to_a_number() -> None:
    with pytest.raises(FlowClientError) as refused:
        checked({"payload": {"a": b"", "b": math.nan, "c": "\ud800", "d": 1}})
    assert [fault["pointer"] for fault in refused.value.details["errors"]] == [
        "/payload/a",
        "/payload/b",
        "/payload/c",
    ]
    with pytest.raises(FlowClientError) as refused:
        checked({"payload": {"a": [b""] * 1000}})
    assert len(refused.value.details["errors"]) == MAX_FAULTS


@pytest.mark.parametrize("member", ["flowId", "userId", "message", "transition", "requestId"])
def test_a_fault_outside_of_the_payload(member: str) -> None:
    for value in (b"x", "\ud800", math.nan):
        with pytest.raises(FlowClientError) as refused:
            checked({"flowId": "f", member: value})
        assert refused.value.code == "INVALID_REQUEST"
        assert refused.value.details["errors"][0]["pointer"] == f"/{member}"


def test_json_values_are_sent_unchanged() -> None:
    payload = {"a": (1, 2.5, None, True), "b": datetime(2026, 1, 1, tzinfo=UTC), 5: "ü", "big": 10**20}
    sent = checked({"flowId": "f", "payload": payload})["payload"]
    assert sent == {"a": (1, 2.5, None, True), "b": "2026-01-01T00:00:00Z", "5": "ü", "big": 10**20}
    assert checked({"payload": nested(MAX_DEPTH)}) == {"payload": nested(MAX_DEPTH)}


def test_the_depth_is_that_of_the_server() -> None:
    assert MAX_DEPTH == jsonable.MAX_DEPTH


def test_a_message_is_bounded_by_its_bytes() -> None:
    body = {"payload": {"a": "ü" * 100}}
    size = len('["flow-start",{"payload":{"a":""}}]') + 200 + FRAME_BYTES
    check_size("flow-start", body, size)
    with pytest.raises(FlowClientError) as refused:
        check_size("flow-start", body, size - 1)
    error = refused.value
    assert (error.code, error.retryable, error.details) == (
        "PAYLOAD_TOO_LARGE",
        False,
        {"limit": size - 1},
    )


@pytest.mark.parametrize(
    ("packet", "limit"),
    [
        ('0{"sid":"s","upgrades":[],"maxPayload":2097152}', 2_097_152),
        ('0{"sid":"s"}', DEFAULT_MESSAGE_BYTES),
        ("0", DEFAULT_MESSAGE_BYTES),
        ("", DEFAULT_MESSAGE_BYTES),
        (None, DEFAULT_MESSAGE_BYTES),
    ],
)
def test_the_limit_is_what_the_server_announces(packet: str | None, limit: int) -> None:
    assert announced_limit(packet) == limit


async def test_a_message_is_refused_also_without_a_connection() -> None:
    async with FlowClient("http://127.0.0.1:9", "token") as client:
        with pytest.raises(FlowClientError, match="INVALID_PAYLOAD"):
            await client.start("f", payload={"a": b"x"})
        with pytest.raises(FlowClientError, match="PAYLOAD_TOO_LARGE"):
            await client.transition("f", "go", {"a": "x" * MAX_MESSAGE_BYTES})
        with pytest.raises(FlowClientError, match="INVALID_REQUEST"):
            client.follow("\ud800")
        with pytest.raises(FlowClientError, match="INVALID_REQUEST"):
            client.watch("\ud800")
