"""The Socket.IO gateway."""

import asyncio
import json
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import socketio

from config.settings import Settings
from realtime.gateway.limits import MAX_CONNECT_ATTEMPTS
from tests.support.serving import Follower, Serving, external
from tests.support.shorter_waits import in_short_form
from tests.support.transports import transport_of

FLOW = "user-onboarding"
TIME_TO_CONNECT = in_short_form(
    "time for a client to authenticate", {"realtime.gateway.bounded_server.CONNECT_TIMEOUT_SECONDS": 0.5}
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


async def connected(serving: Serving, user: str, *scopes: str) -> Follower:
    return await Follower().connect(serving.url, serving.token(user, *scopes))


async def test_integers_as_javascript_writes_doubles(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    started = await client.call("flow-start", {"flowId": FLOW, "payload": {"n": 10**20}})
    assert started["state"]["payload"] == {"n": 1e20}
    body = {"flowId": FLOW, "transition": "start", "payload": {"m": 9223372036854776000}}
    refused = await client.call("flow-transition", {**body, "payload": {"n": 2**64 - 1}})
    assert refused["error"]["code"] == "INVALID_PAYLOAD"
    assert (await client.call("flow-transition", body))["state"]["payload"] == {"n": 1e20, "m": 2.0**63}
    await client.close()


async def test_a_flow_walked_with_acks_and_events(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    assert await client.call("flow-state", {"flowId": FLOW}) == {"ok": True, "state": None}
    started = await client.call("flow-start", {"flowId": FLOW, "service": "web", "payload": {"a": 1}})
    assert (started["ok"], started["started"], started["state"]["service"]) == (True, True, "web")
    assert (await client.call("flow-start", {"flowId": FLOW}))["started"] is False
    body = {"flowId": FLOW, "transition": "start", "payload": {"b": 2}, "message": "m", "requestId": "r-1"}
    moved = await client.call("flow-transition", body)
    assert (moved["state"]["step"], moved["state"]["payload"]) == ("profile-setup", {"a": 1, "b": 2})
    reset = await client.call("flow-reset", {"flowId": FLOW, "step": "preferences"})
    assert reset["state"]["step"] == "preferences"
    now = await client.call("flow-state", {"flowId": FLOW})
    assert now["state"] == reset["state"]

    await client.until(lambda f: len(f.updates()) >= 3)
    updates = client.updates()
    extra = {"kind", "transition", "fromStep", "actor", "at"}
    assert {k: v for k, v in updates[1].items() if k not in extra} == moved["state"]
    assert {k: updates[1][k] for k in extra - {"at"}} == {
        "kind": "transitioned",
        "transition": "start",
        "fromStep": "welcome",
        "actor": user,
    }
    assert [e["revision"] for e in updates] == [0, 1, 2]
    async with serving.http(user) as http:
        history = (await http.get(f"/api/flow/{FLOW}/history")).json()["items"]
    assert history[1]["metadata"]["requestId"] == "r-1"
    assert history[1]["metadata"]["client"] == "socket"
    await client.close()


async def test_events_sent_without_waiting_are_handled_in_order(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    await client.client.emit("flow-start", {"flowId": FLOW})
    for transition in ("start", "continue", "save", "complete"):
        await client.client.emit("flow-transition", {"flowId": FLOW, "transition": transition})
    await client.until(lambda f: len(f.updates()) >= 5)
    assert [e["revision"] for e in client.updates()] == [0, 1, 2, 3, 4]
    assert client.updates()[-1]["status"] == "completed"
    assert [event for event, _ in client.events if event == "flow-error"] == []
    await client.close()


async def test_flow_error_only_without_an_ack(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    await client.call("flow-start", {"flowId": FLOW})
    refused = await client.call("flow-transition", {"flowId": FLOW, "transition": "fly"})
    assert refused["ok"] is False
    assert refused["error"] == {
        "code": "INVALID_TRANSITION",
        "message": "Invalid transition fly from step welcome",
        "retryable": False,
        "details": {"fromStep": "welcome", "transition": "fly", "allowed": ["start"]},
    }
    await client.client.emit("flow-transition", {"flowId": FLOW, "transition": "swim"})
    await client.until(lambda f: any(event == "flow-error" for event, _ in f.events))
    errors = [body for event, body in client.events if event == "flow-error"]
    assert errors == [
        {
            "error": "Invalid transition swim from step welcome",
            "code": "INVALID_TRANSITION",
            "retryable": False,
            "details": {"fromStep": "welcome", "transition": "swim", "allowed": ["start"]},
        }
    ]
    await client.close()


@pytest.mark.parametrize(
    ("event", "body", "code"),
    [
        ("flow-state", {"flowId": "nowhere"}, "FLOW_NOT_FOUND"),
        ("flow-state", {"flowId": "a:b"}, "FLOW_NOT_FOUND"),
        ("flow-state", {}, "INVALID_REQUEST"),
        ("flow-state", None, "INVALID_REQUEST"),
        ("flow-state", [1], "INVALID_REQUEST"),
        ("flow-state", {"flowId": FLOW, "userId": "somebody"}, "INSUFFICIENT_PERMISSIONS"),
        ("flow-start", {"flowId": FLOW, "nonsense": 1}, "INVALID_REQUEST"),
        ("flow-start", {"flowId": FLOW, "payload": {"a": 2**64 + 1}}, "INVALID_PAYLOAD"),
        ("flow-start", {"flowId": FLOW, "payload": {"a": "x" * 70_000}}, "PAYLOAD_TOO_LARGE"),
        ("flow-start", {"flowId": FLOW, "requestId": "x" * 129}, "INVALID_REQUEST"),
        ("flow-start", {"flowId": FLOW, "service": "x" * 257}, "INVALID_REQUEST"),
        ("flow-start", {"flowId": FLOW, "zzz": nested(300)}, "INVALID_REQUEST"),
        ("flow-start", {"flowId": FLOW, "payload": nested(40)}, "INVALID_PAYLOAD"),
        ("flow-start", {"flowId": FLOW, "payload": {"a": "\ud800"}}, "INVALID_PAYLOAD"),
        ("flow-start", {"flowId": FLOW, "expectedRevision": 3}, "REVISION_CONFLICT"),
        ("flow-transition", {"flowId": FLOW, "transition": "start"}, "FLOW_NOT_STARTED"),
        ("flow-transition", {"flowId": FLOW, "transition": 1, "ok": "yes"}, "INVALID_REQUEST"),
        ("flow-reset", {"flowId": FLOW, "step": "nowhere"}, "INVALID_REQUEST"),
        ("flow-fly", {"flowId": FLOW}, "INVALID_REQUEST"),
        ("flow-state", {"flowId": "\ud800"}, "INVALID_REQUEST"),
        ("flow-state", {"\udfff": 1}, "INVALID_REQUEST"),
        (
            "flow-transition",
            {"flowId": FLOW, "transition": "start", "\ud800x": {"\udfff": 1}},
            "INVALID_REQUEST",
        ),
        ("flow-start", {"flowId": FLOW, "payload": {"\udfff": 1}}, "INVALID_PAYLOAD"),
        ("flow-start", {"flowId": FLOW, "service": "\ud800", "entityId": "\udfff"}, "INVALID_REQUEST"),
    ],
)
async def test_every_ack_is_answered(serving: Serving, user: str, event: str, body: Any, code: str) -> None:
    client = await connected(serving, user)
    answer = await client.call(event, body)
    assert answer["ok"] is False
    assert answer["error"]["code"] == code
    assert set(answer["error"]) == {"code", "message", "retryable", "details"}
    await client.close()


async def test_every_fault_of_a_message_is_named(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    answer = await client.call("flow-transition", {"flowId": 1, "transition": 2, "ok": 3})
    pointers = {fault["pointer"] for fault in answer["error"]["details"]["errors"]}
    assert pointers == {"/flowId", "/transition", "/ok"}
    await client.close()


EVENTS = ("flow-state", "flow-start", "flow-transition", "flow-reset", "flow-subscribe", "flow-watch", "fly")


@pytest.mark.parametrize("event", EVENTS)
async def test_an_answer_and_its_memory_do_not_multiply_the_message(
    serving: Serving, user: str, event: str
) -> None:
    client = await connected(serving, user)
    (worker,) = serving.workers()
    before = worker.memory_info().rss
    wrong = {f"k{n}": n for n in range(2000)}
    for body in ({"x" * 200_000: wrong}, {"payload": {"x" * 200_000: wrong}}, {"flowId": "x" * 200_000}):
        answer = await client.call(event, body)
        assert answer["ok"] is False
        assert len(json.dumps(answer)) < 100_000
    assert worker.memory_info().rss - before < 100_000_000
    await client.close()


async def test_connecting_without_a_valid_token_is_refused_with_the_code(serving: Serving) -> None:
    forged = jwt.encode({"sub": "ada", "exp": int(time.time()) + 60}, "x" * 40, "HS256")
    for auth in (None, {}, {"token": forged}, {"token": 7}, "x", [1]):
        refusals: list[Any] = []
        client = socketio.AsyncClient(reconnection=False)
        client.on("connect_error", refusals.append)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(serving.url, auth=auth, transports=["websocket"], wait_timeout=5)
        assert refusals[0]["message"] == "AUTHENTICATION_REQUIRED"
        assert refusals[0]["data"]["code"] == "AUTHENTICATION_REQUIRED"
        await client.disconnect()


async def test_the_token_may_come_in_the_header(serving: Serving, user: str) -> None:
    client = socketio.AsyncClient(reconnection=False)
    headers = {"Authorization": f"Bearer {serving.token(user)}"}
    await client.connect(serving.url, headers=headers, transports=["websocket"], wait_timeout=5)
    assert (await client.call("flow-state", {"flowId": FLOW}))["ok"]
    await client.disconnect()


async def test_a_token_that_expires_ends_the_connection_with_its_code(serving: Serving, user: str) -> None:
    last_moment = {"sub": user, "exp": int(time.time()) - 3}  # 5 seconds are allowed to clocks
    client = await Follower().connect(serving.url, jwt.encode(last_moment, serving.secret, "HS256"))
    assert (await client.call("flow-state", {"flowId": FLOW}))["ok"]
    await client.until(lambda f: any(event == "flow-error" for event, _ in f.events))
    (error,) = [body for event, body in client.events if event == "flow-error"]
    assert error["code"] == "AUTHENTICATION_REQUIRED"
    await asyncio.wait_for(client.client.wait(), 5)
    async with serving.http(user) as http:
        await http.post(f"/api/flow/{FLOW}/start")
    assert client.updates() == []


async def test_a_stock_client_reconnects_by_itself_after_its_token_has_expired(
    serving: Serving, user: str
) -> None:
    tokens = [jwt.encode({"sub": user, "exp": int(time.time()) - 3}, serving.secret, "HS256")]
    follower = Follower()
    follower.client = client = socketio.AsyncClient(reconnection_delay=0.1, json=json)
    connected_again = asyncio.Event()

    async def disconnected(reason: str) -> None:
        tokens.append(serving.token(user))
        client.on("connect", connected_again.set)

    client.on("disconnect", disconnected)
    client.on("*", follower._got)
    await client.connect(serving.url, auth=lambda: {"token": tokens[-1]}, transports=["websocket"])
    async with asyncio.timeout(20):
        await connected_again.wait()
    assert [body["code"] for event, body in follower.events if event == "flow-error"] == [
        "AUTHENTICATION_REQUIRED"
    ]
    await follower.call("flow-start", {"flowId": FLOW})
    await follower.until_updates(1)
    assert len(tokens) == 2
    await follower.close()


class Raw:
    """A WebSocket that speaks Engine.IO by hand."""

    async def __aenter__(self) -> "Raw":
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def connect(self, serving: Serving, user: str | None) -> "Raw":
        self.socket = await self.session.ws_connect(
            f"{serving.url}/socket.io/?EIO=4&transport=websocket", timeout=aiohttp.ClientWSTimeout()
        )
        await self.socket.receive_str(timeout=5)
        if user is not None:
            await self.socket.send_str(f'40{{"token":"{serving.token(user)}"}}')
            assert (await self.socket.receive_str(timeout=5)).startswith("40")
        return self

    async def closed(self, seconds: float) -> bool:
        async with asyncio.timeout(seconds):
            while True:
                message = await self.socket.receive()
                if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
                    return True
                if message.data == "1":  # Engine.IO's word for it
                    return True
                if message.data == "2":
                    await self.socket.send_str("3")


@pytest.mark.parametrize(
    "packet",
    [
        '42["disconnect"]',
        '421["connect",{},{"token":"x"}]',
        '42["*"]',
        "42[",
        "42",
        "42{}",
        '451-["flow-start",{"_placeholder":true,"num":0}]',
        b"binary",
        "49",
        "4x",
    ],
)
async def test_a_malformed_event_ends_that_client_and_no_other(
    serving: Serving, user: str, packet: str | bytes
) -> None:
    neighbour = await connected(serving, user)
    async with Raw() as raw:
        await raw.connect(serving, user)
        await (raw.socket.send_str(packet) if isinstance(packet, str) else raw.socket.send_bytes(packet))
        assert await raw.closed(5)
    await neighbour.call("flow-start", {"flowId": FLOW})
    await neighbour.until(lambda f: len(f.updates()) == 1)
    await neighbour.close()


@pytest.mark.parametrize("frame", ["", "\x1e4\x1e", "x", "b4AAA", "9"])
async def test_a_malformed_frame_ends_the_connection_without_an_error(serving: Serving, frame: str) -> None:
    before = len(serving.lines)
    async with Raw() as raw:
        await raw.connect(serving, None)
        await raw.socket.send_str(frame)
        assert await raw.closed(5)
    async with serving.http("ada") as http:
        await http.get("/api/flows")  # its line comes after
    await asyncio.to_thread(serving.wait_for, "malformed frame received")
    assert not [line for line in serving.lines[before:] if "[error" in line or "Traceback" in line]


async def test_a_client_that_never_authenticates_is_disconnected(servers: Settings, tmp_path: Path) -> None:
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    strict = partial(Serving, env=external(own), cwd=tmp_path, constants=TIME_TO_CONNECT)
    serving = await asyncio.to_thread(strict)
    async with Raw() as raw:
        await raw.connect(serving, None)
        assert await raw.closed(15)
    serving.end()


async def test_leaving_the_namespace_or_too_many_refusals_disconnect(serving: Serving, user: str) -> None:
    async with Raw() as raw:
        await raw.connect(serving, user)
        await raw.socket.send_str("41")
        assert await raw.closed(5)
    async with Raw() as raw:
        await raw.connect(serving, None)
        for _ in range(MAX_CONNECT_ATTEMPTS):
            await raw.socket.send_str('40{"token":"x"}')
            assert (await raw.socket.receive_str(timeout=5)).startswith("44"), "another token may be tried"
        await raw.socket.send_str(f'40{{"token":"{serving.token(user)}"}}')
        assert await raw.closed(5)


async def test_a_client_that_reads_nothing_and_sends_garbage_delays_no_stop(
    servers: Settings, tmp_path: Path
) -> None:
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    serving = await asyncio.to_thread(lambda: Serving(env=external(own), cwd=tmp_path))
    async with Raw() as raw, serving.http("ada", "flow:admin") as http:
        await raw.connect(serving, "ada")
        transport_of(raw.socket).pause_reading()
        for n in range(40):  # more than the sockets' buffers take, less than too much
            body = {"step": ("preferences", "profile-setup")[n % 2], "payload": {"a": "x" * 60_000}}
            assert (await http.put(f"/api/flow/{FLOW}/state", json=body)).status_code == 200
        await raw.socket.send_str("5garbage")
        transport_of(raw.socket).abort()
        began = time.monotonic()
        assert await asyncio.to_thread(serving.end) == 0
        assert time.monotonic() - began < 8, "uvicorn would cut it off after 10 s"


async def test_a_service_acts_for_a_user_whose_clients_receive_the_change(
    serving: Serving, user: str
) -> None:
    client = await connected(serving, user)
    service = await connected(serving, f"svc-{user}", "flow:service")
    answer = await service.call("flow-start", {"flowId": FLOW, "userId": user})
    assert answer["state"]["userId"] == user
    await client.until(lambda f: len(f.updates()) >= 1)
    assert client.updates()[0]["actor"] == f"svc-{user}"
    assert service.events == []
    await client.close()
    await service.close()


async def test_polling_is_refused_by_default(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        answer = await http.get("/socket.io/", params={"transport": "polling", "EIO": 4})
    assert answer.status_code == 400
    message = answer.json()
    assert message.startswith("Invalid transport: this server accepts websocket.")
    assert "transports: ['websocket']" in message
    assert "FLOW_SOCKET_TRANSPORTS" in message
    await asyncio.to_thread(serving.wait_for, "client transport refused.*FLOW_SOCKET_TRANSPORTS")


async def test_cleared_is_reported_as_the_last_event_of_an_epoch(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    async with serving.http(user) as http:
        await http.post(f"/api/flow/{FLOW}/start")
        await http.delete(f"/api/flow/{FLOW}/state")
        await http.post(f"/api/flow/{FLOW}/start")
    await client.until(lambda f: len(f.updates()) >= 3)
    updates = client.updates()
    assert [e["status"] for e in updates] == ["active", "cleared", "active"]
    assert [e["revision"] for e in updates] == [0, 1, 0]
    assert updates[0]["epoch"] == updates[1]["epoch"] != updates[2]["epoch"]
    await client.close()
