"""Connections with limits, on a server in this process: sizes, times, and how many there may be."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from app.http.connection_registry import MAX_SPARE_CONNECTIONS
from app.http.connections import BoundedConnection
from app.process.workers import connection_limit
from tests.support.asgi_server import serving_asgi

WAIT = 20.0
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
HANDSHAKE = f"Host: h\r\n{UPGRADE}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

CHUNKED = "POST /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


class Impatient(BoundedConnection):
    """Waits for no part of a request."""

    head_seconds = 0.2
    body_seconds = 0.2
    min_body_rate = 1e9
    linger_seconds = 0.2


class Routes:
    """An application whose ``/busy`` answers when it is released."""

    def __init__(self) -> None:
        self.busy = asyncio.Semaphore(0)
        self.release = asyncio.Event()
        self.left = asyncio.Event()
        self.application = Starlette(
            routes=[
                Route("/livez", self._answer),
                Route("/readyz", self._answer),
                Route("/", self._answer, methods=["GET", "POST"]),
                Route("/busy", self._be_busy),
                Route("/read", self._read, methods=["POST"]),
                WebSocketRoute("/socket", self._socket),
            ]
        )

    async def _answer(self, _: Request) -> Response:
        return PlainTextResponse("here")

    async def _be_busy(self, _: Request) -> Response:
        self.busy.release()
        await self.release.wait()
        return PlainTextResponse("done")

    async def _read(self, request: Request) -> Response:
        try:
            return PlainTextResponse(str(len(await request.body())))
        except ClientDisconnect:
            self.left.set()
            return Response()

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        self.busy.release()
        with suppress(Exception):
            await socket.receive()


class Bounded:
    """A server of ``Routes`` with its port."""

    def __init__(self, port: int, routes: Routes, server: uvicorn.Server) -> None:
        self.port = port
        self.routes = routes
        self.server = server
        self.clients: list[Client] = []

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def open(self, first: bytes = b"") -> "Client":
        """A connection on which ``first`` was sent."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        client.writer.write(first)
        self.clients.append(client)
        return client

    async def ask(self, request: str | bytes) -> "Answer":
        """Send a request on a new connection."""
        client = await self.open(request if isinstance(request, bytes) else request.encode("latin-1"))
        try:
            return await client.answer()
        finally:
            await client.close()

    async def until_open(self, number: int) -> None:
        """Wait until the server has so many connections."""
        async with asyncio.timeout(WAIT):
            while self.connections != number:
                await asyncio.sleep(0.005)


class Answer:
    """Status, headers and body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def problem(self) -> tuple[int, str]:
        """The status and code of a problem, which must have the shape of all problems."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["connection"] == "close"
        assert self.headers["x-request-id"]
        body: dict[str, Any] = json.loads(self.body)
        assert set(body) == {
            *("type", "title", "status", "detail", "instance", "code", "retryable", "details"),
        }
        assert body["status"] == self.status
        return self.status, body["code"]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> Answer:
        """Read the next answer."""
        async with asyncio.timeout(WAIT):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return Answer(int(first.split()[1]), headers, body)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def is_ended(self) -> bool:
        async with asyncio.timeout(WAIT):
            with suppress(ConnectionResetError):
                return await self.reader.read() == b""
            return True


@asynccontextmanager
async def bounded(
    protocol: type[asyncio.Protocol] = BoundedConnection, limit: int | None = None, keep_alive: int = 60
) -> AsyncIterator[Bounded]:
    """A running server."""
    routes = Routes()
    options = {"http": protocol, "limit_concurrency": limit, "timeout_keep_alive": keep_alive}
    async with serving_asgi(routes.application, **options) as (port, server):
        started = Bounded(port, routes, server)
        try:
            yield started
        finally:
            routes.release.set()
            for client in started.clients:
                await client.close()


@pytest.mark.parametrize(
    ("request_text", "status", "code"),
    [
        ("GET /livez?" + "a" * 70_000 + " HTTP/1.1\r\nHost: h\r\n\r\n", 414, "ADDRESS_TOO_LONG"),
        ("GET /" + "a" * 65_535 + " HTTP/1.1\r\nHost: h\r\n\r\n", 414, "ADDRESS_TOO_LONG"),
        ("GET /" + "a" * 3_000_000, 414, "ADDRESS_TOO_LONG"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: " + "a" * 66_000 + "\r\n\r\n", 431, "HEADERS_TOO_LARGE"),
        ("GET / HTTP/1.1\r\nHost: h\r\n" + "a" * 66_000 + ": b\r\n\r\n", 431, "HEADERS_TOO_LARGE"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: " + "a" * 3_000_000, 431, "HEADERS_TOO_LARGE"),
        ("GET / HTTP/1.1\r\nHost: h\r\n" + "A: \r\n" * 100 + "\r\n", 431, "HEADERS_TOO_LARGE"),
        ("GET / HTTP/1.1\r\n" + ("A: " + "b" * 990 + "\r\n") * 70 + "\r\n", 431, "HEADERS_TOO_LARGE"),
        ("GET /socket HTTP/1.1\r\n" + HANDSHAKE + "A: \r\n" * 100 + "\r\n", 431, "HEADERS_TOO_LARGE"),
        ("GET /socket HTTP/1.1\r\n" + HANDSHAKE + "A: " + "a" * 8_001 + "\r\n\r\n", 431, "HEADERS_TOO_LARGE"),
        ("GET /socket?" + "a" * 8_001 + " HTTP/1.1\r\n" + HANDSHAKE + "\r\n", 414, "ADDRESS_TOO_LONG"),
        ("nonsense\r\n\r\n", 400, "MALFORMED_REQUEST"),
        ("GET / HTTP/1.1\r\nHost: h\r\nno header\r\n\r\n", 400, "MALFORMED_REQUEST"),
        ("GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (
            "POST /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
            400,
            "MALFORMED_REQUEST",
        ),
        (CHUNKED + "0\r\nA: " + "a" * 3_000_000, 431, "HEADERS_TOO_LARGE"),
        ("\r\n" * 1_000_000, 431, "HEADERS_TOO_LARGE"),
    ],
    ids=lambda value: f"{value[:40]!r}-{len(value)}" if isinstance(value, str) else str(value),
)
async def test_what_is_too_large_or_malformed_is_a_problem(request_text: str, status: int, code: str) -> None:
    async with bounded() as server:
        assert (await server.ask(request_text)).problem() == (status, code)
        await server.until_open(0)


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /?" + "a" * 65_500 + " HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: " + "a" * 65_000 + "\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n" + "A: \r\n" * 99 + "\r\n",
        "GET /?" + "a" * 65_500 + " HTTP/1.1\r\nHost: h\r\nA: " + "a" * 65_000 + "\r\n\r\n",
        "POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n" + "a" * 400_000,
    ],
    ids=lambda value: str(len(value)),
)
async def test_what_is_within_the_limits_is_answered_however_it_arrives(request_text: str) -> None:
    async with bounded() as server:
        assert (await server.ask(request_text)).status == 200
        client = await server.open()
        for begin in range(0, len(request_text), 30_011):
            client.writer.write(request_text[begin : begin + 30_011].encode())
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer()).status == 200


async def test_a_client_of_a_huge_line_gets_its_answer_while_it_sends() -> None:
    async with bounded() as server:
        client = await server.open(b"GET / HTTP/1.1\r\nA: ")
        with suppress(ConnectionError):
            for _ in range(40):
                client.writer.write(b"a" * 100_000)
                await client.writer.drain()
        assert (await client.answer()).problem() == (431, "HEADERS_TOO_LARGE")
        await server.until_open(0)


async def test_pipelined_requests_are_answered_before_the_refusal_of_the_last() -> None:
    async with bounded() as server:
        one = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
        for last in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"a" * 500_000):
            client = await server.open(one + one + last)
            assert [(await client.answer()).status for _ in range(2)] == [200, 200]
            (await client.answer()).problem()
            assert await client.is_ended()


@pytest.mark.parametrize(
    "first",
    [
        b"G",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: h\r\n",
        b"GET / HTTP/1.1\r\nHost: h",
        b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabc",
        b"POST /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"GET /socket HTTP/1.1\r\n" + HANDSHAKE.encode(),
    ],
)
async def test_a_request_that_does_not_end_is_a_problem_in_time(first: bytes) -> None:
    async with bounded(Impatient) as server:
        client = await server.open(first)
        assert (await client.answer()).problem() == (408, "REQUEST_TIMEOUT")
        assert await client.is_ended()
        await server.until_open(0)
        if b"POST" in first:
            await asyncio.wait_for(server.routes.left.wait(), WAIT)


@pytest.mark.parametrize("first", [b"", b"\r\n"])
async def test_who_asks_nothing_is_disconnected(first: bytes) -> None:
    async with bounded(Impatient) as server:
        client = await server.open(first)
        assert await client.is_ended()


@pytest.mark.parametrize("then", [b"", b"\r\n"])
async def test_who_asks_no_more_is_disconnected(then: bytes) -> None:
    async with bounded(keep_alive=1) as server:
        client = await server.open(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.answer()).status == 200
        client.writer.write(then)
        assert await client.is_ended()


async def test_the_rest_of_a_body_that_was_answered_early_is_not_waited_for() -> None:
    async with bounded(Impatient) as server:
        client = await server.open(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabc")
        assert (await client.answer()).status == 200
        assert await client.is_ended()


async def test_a_slow_body_with_a_rate_is_read_to_its_end() -> None:
    class Patient(Impatient):
        min_body_rate = 0.01

    async with bounded(Patient) as server:
        client = await server.open(b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
        loop = asyncio.get_running_loop()
        passed = loop.create_future()
        loop.call_later(2 * Patient.body_seconds, passed.set_result, None)
        await passed
        client.writer.write(b"cde")
        assert (await client.answer()).body == b"5"


IDLE = [
    b"",
    b"GET / HTTP",
    b"GET / HTTP/1.1\r\nHost: h\r\n",
    b"POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
]


@pytest.mark.expected_logs("connection limit reached")
@pytest.mark.parametrize("first", IDLE)
async def test_connections_that_wait_for_their_clients_make_room_for_others(first: bytes) -> None:
    async with bounded(limit=20) as server:
        for _ in range(100):
            await server.open(first)
        assert (await server.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
        assert server.connections <= 20


BUSY = [b"GET /busy HTTP/1.1\r\nHost: h\r\n\r\n", f"GET /socket HTTP/1.1\r\n{HANDSHAKE}\r\n".encode()]


@pytest.mark.expected_logs("connection limit reached")
@pytest.mark.parametrize("first", BUSY)
async def test_probes_are_answered_when_all_connections_are_at_work(first: bytes) -> None:
    async with bounded(limit=20) as server:
        busy = []
        for _ in range(20):
            busy.append(await server.open(first))
            await asyncio.wait_for(server.routes.busy.acquire(), WAIT)
        idle = [await server.open(b"") for _ in range(100)]
        for path in ("/livez", "/readyz?x=1"):
            probe = await server.ask(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (probe.status, probe.headers["connection"]) == (200, "close")
        refused = await server.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert refused.problem() == (503, "TOO_MANY_CONNECTIONS")
        assert refused.headers["retry-after"]
        handshake = await server.ask(BUSY[1])
        assert handshake.problem() == (503, "TOO_MANY_CONNECTIONS")
        assert server.connections <= 20 + MAX_SPARE_CONNECTIONS
        for client in (*idle, *busy):
            await client.close()
        server.routes.release.set()
        await server.until_open(0)
        assert (await server.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200


@pytest.mark.parametrize(
    ("descriptors", "most", "limit"),
    [(128, 10_000, 72), (1024, 10_000, 768), (65_536, 10_000, 10_000), (65_536, 20, 20), (32, 10_000, 16)],
)
def test_a_worker_accepts_what_its_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int, limit: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert connection_limit(most) == limit
