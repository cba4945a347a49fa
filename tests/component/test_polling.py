"""Engine.IO's long polling on real sockets: every request gets an answer."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import socketio

from app.http.connections import BoundedConnection
from realtime.gateway.bounded_server import BoundedServer
from tests.support.asgi_server import serving_asgi

LIMIT = 10_000
WAIT = 20.0
ADDRESS = "/socket.io/?EIO=4&transport=polling"


class Polling:
    """A Socket.IO server with both transports, and a client of it that speaks HTTP."""

    def __init__(self, port: int, http: httpx.AsyncClient) -> None:
        self.port = port
        self.http = http
        self.received: list[Any] = []
        self.left: list[str] = []

    async def connect(self) -> str:
        """The address of a new session that has connected to Socket.IO."""
        opened = await self.http.get(ADDRESS)
        address = f"{ADDRESS}&sid={json.loads(opened.text[1:])['sid']}"
        assert (await self.http.post(address, content="40")).text == "OK"
        assert (await self.http.get(address)).text.startswith("40")
        return address

    async def send(self, text: bytes) -> httpx.Response:
        """Send bytes on a connection of their own, which stays open, and read the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(text)
        async with asyncio.timeout(WAIT):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return httpx.Response(int(head.split()[1]))


@pytest.fixture
async def polling(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Polling]:
    caplog.set_level(logging.CRITICAL, "engineio")  # as in the service
    async with serving() as running:
        yield running


@asynccontextmanager
async def serving() -> AsyncIterator[Polling]:
    sockets = BoundedServer(
        async_mode="asgi",
        transports=["websocket", "polling"],
        allowed_origins=["https://app.example"],
        max_http_buffer_size=LIMIT,
        async_handlers=False,
    )
    async with serving_asgi(socketio.ASGIApp(sockets), http=BoundedConnection) as (port, _):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WAIT, verify=False) as http:
            started = Polling(port, http)
            sockets.on("say", lambda _, message: started.received.append(message))
            sockets.on("disconnect", lambda _, reason: started.left.append(reason))
            yield started
        await sockets.shutdown()


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == {"type", "title", "status", "detail", "instance", "code", "retryable", "details"}
    assert (document["status"], document["instance"]) == (answer.status_code, "/socket.io/")
    return document["status"], document["code"]


async def is_served(polling: Polling) -> bool:
    address = await polling.connect()
    count = len(polling.received)
    assert (await polling.http.post(address, content='42["say","hello"]')).text == "OK"
    return polling.received[count:] == ["hello"]


async def parts(size: int) -> AsyncIterator[bytes]:
    yield b'42["say","'
    for _ in range(size // 1000):
        yield b"x" * 1000
    yield b'"]'


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_and_ends_the_session(
    polling: Polling, is_chunked: bool
) -> None:
    address = await polling.connect()
    body = parts(LIMIT * 3) if is_chunked else '42["say","' + "x" * LIMIT + '"]'
    answer = await polling.http.post(address, content=body, headers={"Origin": "https://app.example"})
    assert problem(answer) == (413, "PAYLOAD_TOO_LARGE")
    assert answer.json()["details"] == {"limit": LIMIT}
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert (len(polling.received), len(polling.left)) == (0, 1)
    for again in (polling.http.post(address, content="3"), polling.http.get(address)):
        assert (await again).status_code == 400, "the session has ended"
    assert await is_served(polling)


@pytest.mark.parametrize("framing", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
async def test_no_more_of_a_body_is_awaited_than_a_message_may_have(polling: Polling, framing: str) -> None:
    address = await polling.connect()
    head = f"POST {address} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n".encode()
    part = b"" if framing.startswith("Content") else b"%x\r\n%b\r\n" % (LIMIT + 1, b"x" * (LIMIT + 1))
    assert (await polling.send(head + part)).status_code == 413
    assert await is_served(polling)


async def test_a_body_without_content_length_is_received(polling: Polling) -> None:
    address = await polling.connect()
    assert (await polling.http.post(address, content=parts(3000))).text == "OK"
    assert polling.received == ["x" * 3000]


@pytest.mark.parametrize(
    "body",
    [
        "x",
        "9",
        "0",
        "2probe",
        "6",
        "\x1e",
        '42["say",1]\x1e',
        "d=",
        "bA",
        b"4\xff",
        "\x1e".join(["3"] * 17),
        '42["say",1]\x1e0',
    ],
)
async def test_a_malformed_payload_is_refused_and_ends_the_session(
    polling: Polling, body: str | bytes
) -> None:
    address = await polling.connect()
    assert problem(await polling.http.post(address, content=body)) == (400, "MALFORMED_REQUEST")
    assert (polling.received, len(polling.left)) == ([], 1)
    assert await is_served(polling)


@pytest.mark.parametrize(
    ("body", "status"), [("1", 200), ("1\x1e5", 200), ("x", 400), ("x" * (LIMIT + 1), 413)]
)
async def test_the_end_of_a_session_answers_the_request_that_waits(
    polling: Polling, body: str, status: int
) -> None:
    address = await polling.connect()
    waiting = asyncio.create_task(polling.http.get(address))
    assert (await polling.http.post(address, content=body)).status_code == status
    async with asyncio.timeout(WAIT / 2):  # less than the library waits
        assert (await waiting).status_code in (200, 400)
    assert (await polling.http.post(address, content="3")).status_code == 400


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("GET", "/socket.io/?transport=polling", 400),
        ("GET", "/socket.io/?EIO=3&transport=polling", 400),
        ("GET", f"{ADDRESS}&sid=nobody", 400),
        ("POST", f"{ADDRESS}&sid=nobody", 400),
        ("POST", ADDRESS, 400),
        ("POST", f"{ADDRESS}&j=x", 400),
        ("POST", "/socket.io/?EIO=4&transport=pigeon", 400),
        ("GET", "/socket.io/?EIO=4&transport=websocket", 400),
        ("PUT", ADDRESS, 405),
        ("OPTIONS", ADDRESS, 200),
    ],
)
@pytest.mark.expected_logs("client transport refused", optional=True)
async def test_a_refusal_of_the_head_is_answered_before_the_body(
    polling: Polling, method: str, address: str, status: int
) -> None:
    head = f"{method} {address} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n"
    assert (await polling.send(head.encode())).status_code == status
    assert await is_served(polling)
