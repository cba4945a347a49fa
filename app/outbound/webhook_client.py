"""HTTP requests with webhooks, to receivers that may be slow, broken or hostile."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver

from app.contracts.ports.transports import WebhookAnswer
from app.outbound.addresses import AddressPolicy
from app.outbound.name_resolver import ThreadPoolResolver
from app.outbound.retry_after import parse_retry_after
from app.outbound.socket_guard import SocketGuard

MAX_ANSWER_BYTES = 16_384
MAX_CONNECTIONS = 128
MAX_CONNECTIONS_PER_HOST = 64
"""As many as one worker sends at a time: of services on one host, a slow one must not make others wait."""
IDLE_SECONDS = 30.0
MAX_STALE_CONNECTIONS = 3
"""Connections from earlier requests that may turn out to be closed, before a request fails."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
"""Errors of a connection that are faults of this machine."""

Failed = aiohttp.ClientError | OSError | ValueError


class WebhookClient:
    """Sends requests over connections that are used again. Plain http goes to trusted addresses only."""

    def __init__(
        self,
        policy: AddressPolicy,
        timeout_seconds: float,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._own_resolver = ThreadPoolResolver() if resolver is None else None
        resolver = resolver or self._own_resolver
        self._sessions = {
            "http": _session(SocketGuard(policy.trusts), resolver, tls),
            "https": _session(SocketGuard(policy.allows), resolver, tls),
        }

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: datetime) -> WebhookAnswer:
        """Send one request and read the answer, or the reason why there is none."""
        session = self._sessions[url.partition(":")[0].lower()]
        seen = SimpleNamespace(reused=False, status=None)
        with SocketGuard.recording() as record:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await self._post(session, url, headers, body, now, seen)
            except TimeoutError:
                return _receiver_failed(self._late(seen.status))
            except (aiohttp.ClientError, OSError, ValueError) as error:
                if record.refused and _is_unconnected(error):
                    return _refused(url)
                if _is_exhausted(error):
                    return WebhookAnswer(
                        failure="internal", error="this machine has no resources for another connection"
                    )
                return _receiver_failed(_reason(error))

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        if self._own_resolver is not None:
            await self._own_resolver.close()

    async def _post(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        now: datetime,
        seen: SimpleNamespace,
    ) -> WebhookAnswer:
        """Send a request, again over another connection if a reused one turns out to be closed."""
        stale = 0
        while True:
            seen.reused = False
            try:
                async with session.post(
                    url, headers=headers, data=body, allow_redirects=False, trace_request_ctx=seen
                ) as response:
                    seen.status = response.status
                    return await _read(response, now)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
                stale += 1
                if not seen.reused or seen.status is not None or stale > MAX_STALE_CONNECTIONS:
                    raise

    def _late(self, status: int | None) -> str:
        if status is None:
            return f"the receiver did not answer within {self._timeout_seconds:g} seconds"
        return f"the receiver answered {status}, but did not end within {self._timeout_seconds:g} seconds"


def _session(
    guard: SocketGuard, resolver: AbstractResolver | None, tls: ssl.SSLContext | None
) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    connector = aiohttp.TCPConnector(
        limit=MAX_CONNECTIONS,
        limit_per_host=MAX_CONNECTIONS_PER_HOST,
        keepalive_timeout=IDLE_SECONDS,
        socket_factory=guard,
        resolver=resolver,
        ssl=True if tls is None else tls,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # the whole is bounded here
        auto_decompress=False,  # an answer must not unpack to more than it has
        trust_env=False,  # neither proxies nor passwords of the environment
        read_bufsize=MAX_ANSWER_BYTES,
        trace_configs=[trace],
    )


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    context.trace_request_ctx.reused = True


async def _read(response: aiohttp.ClientResponse, now: datetime) -> WebhookAnswer:
    """Read an answer up to the limit; the connection of a longer one is closed."""
    body = bytearray()
    while chunk := await response.content.read(MAX_ANSWER_BYTES + 1 - len(body)):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            break
    truncated = len(body) > MAX_ANSWER_BYTES
    headers = {name.lower(): text for name, text in response.headers.items() if text.isascii()}
    is_packed = headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")
    return WebhookAnswer(
        status=response.status,
        headers=headers,
        body=b"" if is_packed else bytes(body[:MAX_ANSWER_BYTES]),  # no packed one was requested
        truncated=truncated or (is_packed and bool(body)),
        retry_after=parse_retry_after(headers.get("retry-after"), now),
    )


def _refused(url: str) -> WebhookAnswer:
    reason = "the host name leads to an address that is not allowed"
    if url[:5].lower() == "http:":
        reason += " without https"
    return WebhookAnswer(failure="refused_address", error=reason)


def _receiver_failed(reason: str) -> WebhookAnswer:
    return WebhookAnswer(failure="receiver", error=reason)


def _is_unconnected(error: Failed) -> bool:
    """Return whether no address of a name was connected to: a name may have others than refused ones."""
    return isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError)


def _is_exhausted(error: Failed) -> bool:
    found = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(found, OSError) and found.errno in _EXHAUSTED


def _reason(error: Failed) -> str:
    """Describe a failure without addresses and without the message of a library."""
    match error:
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return "the host name of the receiver is not known"
        case aiohttp.ClientConnectorCertificateError():
            return "the TLS certificate of the receiver is not trusted"
        case aiohttp.ClientSSLError():
            return "there is no TLS connection to the receiver"
        case aiohttp.ClientConnectorError():
            return "there is no connection to the receiver"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionError():
            return "the receiver closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer of the receiver ended early"
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
            return "the receiver did not answer in valid HTTP"
    return "the connection to the receiver failed"
