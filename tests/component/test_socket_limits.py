"""Limits over Socket.IO, on a server in this process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import socketio

from app.auth.tokens import TokenVerifier
from app.services.rates.request_limits import RequestRates
from realtime.gateway.handlers import FlowSockets
from tests.support.asgi_server import serving_asgi
from tests.support.rig import Rig, rig

KEY = "k" * 32
WAIT = 20.0


@pytest.fixture
async def limited() -> Rig:
    """A service on which a user may change states twice a minute."""
    return await rig(rates=RequestRates(changes=2))


@pytest.fixture
async def client(limited: Rig) -> AsyncIterator[socketio.AsyncClient]:
    sockets = FlowSockets(
        limited.service,
        TokenVerifier(key=KEY, algorithms=["HS256"]),
        transports=["websocket"],
        cors_origins=[],
        max_message_bytes=10_000,
    )
    async with serving_asgi(socketio.ASGIApp(sockets.server)) as (port, _):
        connected = socketio.AsyncClient(reconnection=False)
        token = jwt.encode({"sub": "ada", "exp": 4102444800}, KEY, "HS256")
        await connected.connect(
            f"http://127.0.0.1:{port}", auth={"token": token}, transports=["websocket"], wait_timeout=WAIT
        )
        yield connected
        await connected.disconnect()
        await sockets.server.shutdown()


async def test_more_changes_than_a_user_may_request_are_rate_limited(
    limited: Rig, client: socketio.AsyncClient
) -> None:
    refused: asyncio.Queue[Any] = asyncio.Queue()
    client.on("flow-error", refused.put)
    step = {"flowId": "loop", "transition": "again"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("flow-start", {"flowId": "loop"}),
        ("flow-transition", step),
        ("flow-transition", step),
        ("flow-reset", {"flowId": "loop"}),
    ]
    answers = [await client.call(event, body, timeout=WAIT) for event, body in calls]
    assert [answer["ok"] for answer in answers] == [True, True, False, False]
    await client.emit("flow-transition", step)  # without an ack
    async with asyncio.timeout(WAIT):
        pushed = await refused.get()
    for error in (answers[2]["error"], answers[3]["error"], pushed):
        assert (error["code"], error["retryable"]) == ("RATE_LIMITED", True)
        assert 0 < error["details"]["retryAfterMs"] <= 30_000
    read = await client.call("flow-state", {"flowId": "loop"}, timeout=WAIT)
    assert read["ok"], "reading is not limited"
    assert read["state"]["revision"] == 1, "what is refused changes nothing"
