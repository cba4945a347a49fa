"""Real servers that receive webhooks: well-behaved ones, and raw sockets that are not."""

import asyncio
import base64
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from app.contracts.integration import Integration, IntegrationSecret
from tests.support.samples import T0

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OLDER_SECRET = "whsec_" + base64.b64encode(bytes(range(1, 25))).decode()
EXPIRED_SECRET = "whsec_" + base64.b64encode(bytes(range(2, 26))).decode()


def integration_at(url: str | None, alias: str = "payment", **members: Any) -> Integration:
    """An integration with one secret, or with those that ``members`` name."""
    secrets = (IntegrationSecret("s1", SECRET, T0),)
    return Integration(
        alias=alias, url=url, registered_at=T0, updated_at=T0, **{"secrets": secrets} | members
    )


def rotated_secrets() -> tuple[IntegrationSecret, ...]:
    """An expired secret, one that is being replaced, and the newest, as seen at ``T0``."""
    return (
        IntegrationSecret("s1", EXPIRED_SECRET, T0 - timedelta(days=3), T0),
        IntegrationSecret("s2", OLDER_SECRET, T0 - timedelta(days=2), T0 + timedelta(days=1)),
        IntegrationSecret("s3", SECRET, T0 - timedelta(days=1)),
    )


class Received(Struct, frozen=True):
    """A request: its path, its headers with lower-case names, its body, and the client's port."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: int


Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """A server of webhooks. ``answers`` by path; 204 elsewhere. ``peak``: the most requests at a time."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.answers: dict[str, Answering] = {}
        self.running: Counter[str] = Counter()
        self.peak = 0
        self.changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.origin = ""

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=tls, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        self.origin = f"{'https' if tls else 'http'}://{host}:{self.port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def url(self, path: str = "/hooks") -> str:
        return self.origin + path

    async def received(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.requests) >= count)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): text for name, text in request.headers.items()}
        peer = request.transport.get_extra_info("peername")[1] if request.transport else 0
        self.running[request.path] += 1
        self.peak = max(self.peak, self.running.total())
        try:
            async with self.changed:
                self.requests.append(Received(request.path, headers, body, peer))
                self.changed.notify_all()
            found = self.answers.get(request.path)
            return web.Response(status=204) if found is None else await found(request)
        finally:
            self.running[request.path] -= 1


def answering(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answering:
    """Answers with a status, a body and headers."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer


@asynccontextmanager
async def receiving(
    host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver until the end of the block."""
    receiver = Receiver()
    await receiver.start(host, port, tls)
    try:
        yield receiver
    finally:
        await receiver.stop()


Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request with its body from a raw connection; b"" at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    (size,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(size.partition(b":")[2]))


@asynccontextmanager
async def raw_server(talk: Conversation) -> AsyncIterator[str]:
    """Run a server that talks to each connection as a test says, and yield its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def raw_answer(data: bytes) -> Conversation:
    """Answers a request with bytes as they are, and closes the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(data)
        await writer.drain()

    return talk


class NamedAddresses(AbstractResolver):
    """Resolves names to the addresses of a test, and no others. An exception is raised."""

    def __init__(self, names: Mapping[str, Sequence[str] | Exception]) -> None:
        self._names = names
        self.resolved: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.resolved.append(host)
        found = self._names.get(host)
        if found is None:
            raise OSError(None, "DNS lookup failed")
        if isinstance(found, Exception):
            raise found
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is open."""
