"""Real HTTP servers that answer as a test says, for sources of definitions."""

import gzip
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RemoteServer:
    """A server on a socket of its own. ``requests`` are the headers of all requests, in order; ``answers``
    say what is at a path, and can be exchanged while it runs."""

    def __init__(self) -> None:
        self.requests: list[Mapping[str, str]] = []
        self.answers: dict[str, Answering] = {}
        self._runner: web.AppRunner | None = None
        self.port = 0
        self._scheme = "http"

    async def start(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> "RemoteServer":
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True, ssl_context=tls)
        self._scheme = "http" if tls is None else "https"
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def origin(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def url(self, path: str = "/flows") -> str:
        return self.origin + path

    def gives(self, value: Any, path: str = "/flows", **options: Any) -> None:
        """From now on there is ``value`` at the path, with an ETag that changes with it."""
        self.answers[path] = giving(value, **options)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.headers))
        return await self.answers[request.path](request)


def giving(
    value: Any, *, status: int = 200, kind: str = "application/json", zipped: bool = False
) -> Answering:
    """Answers with a value as JSON, or with bytes as they are."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    etag = f'"{hash(body)}"'

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"ETag": etag, "Content-Type": kind}
        if status == 200 and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return web.Response(status=status, body=gzip.compress(body) if zipped else body, headers=headers)

    return answer


def redirecting(to: str, status: int = 302) -> Answering:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": to})

    return answer


def paging(values: list[Any], size: int) -> Answering:
    """Pages as of ``GET /api/flows``."""

    async def answer(request: web.Request) -> web.StreamResponse:
        first = int(request.query.get("after", "0"))
        page: dict[str, Any] = {"items": values[first : first + size]}
        if first + size < len(values):
            page["next"] = str(first + size)
        body = msgspec.json.encode(page)
        etag = f'"{hash(body)}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=body, headers={"ETag": etag, "Content-Type": "application/json"})

    return answer
