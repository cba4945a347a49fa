"""Bounded HTTP requests to another server, which may be slow, broken or hostile."""

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from msgspec import Struct
from yarl import URL

from app.contracts.errors import DefinitionSourceError
from app.outbound.addresses import is_public
from app.outbound.socket_guard import SocketGuard
from config.sources import shown_url

MAX_REDIRECTS = 5
MAX_ETAG = 1024
_REDIRECTS = {301, 302, 303, 307, 308}
_CHUNK = 65_536
_GZIP = 31
"""zlib's code for the gzip format."""


class Fetched(Struct, frozen=True):
    """A body and its ETag ("": none)."""

    body: bytes
    etag: str


class RemoteEndpoint(Struct, frozen=True):
    """The address and credentials of a server.

    ``credentials`` are a header, its name and value. They are sent only to the host of ``url``, and not after
    a redirect by another host. Redirects to another host are followed only to public addresses, unless
    ``private_redirects``.
    """

    url: str
    credentials: tuple[str, str] | None = None
    private_redirects: bool = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Fetcher"]:
        """Open connections for some requests."""
        guard = None if self.private_redirects else SocketGuard(is_public)
        own = aiohttp.TCPConnector(limit=2)
        others = aiohttp.TCPConnector(limit=2, socket_factory=guard)
        async with _session(own) as trusted, _session(others) as guarded:
            yield Fetcher(self, trusted, guarded)


class Fetcher:
    """Makes independent requests. Every method raises DefinitionSourceError."""

    def __init__(
        self,
        endpoint: RemoteEndpoint,
        trusted: aiohttp.ClientSession,
        guarded: aiohttp.ClientSession,
    ) -> None:
        self._endpoint = endpoint
        self._name = shown_url(endpoint.url)
        self._origin = URL(endpoint.url).origin()
        self._trusted = trusted
        self._guarded = guarded

    async def get(self, url: URL, etag: str, limit: int) -> Fetched | None:
        """Return the content at a URL of the server; None if it is unchanged since ``etag``.

        Args:
            url: An address on the server.
            etag: The ETag of the content that the caller has; "" if it has none.
            limit: Largest unpacked content, in bytes.

        Raises:
            DefinitionSourceError: The server failed, refused, or sent something else.
            TimeoutError: The deadline of the caller passed.
        """
        here, credentials = url, self._endpoint.credentials
        for _ in range(MAX_REDIRECTS + 1):
            if here.origin() != self._origin:
                credentials = None
            found = await self._request(here, etag, limit, credentials)
            if not isinstance(found, URL):
                return found
            here = found
        raise self._refuse(f"redirects more than {MAX_REDIRECTS} times")

    async def _request(
        self, here: URL, etag: str, limit: int, credentials: tuple[str, str] | None
    ) -> Fetched | URL | None:
        """Return the content at a URL, or the URL that it redirects to; None if it is unchanged."""
        headers = _headers(etag, credentials)
        session = self._trusted if here.origin() == self._origin else self._guarded
        with SocketGuard.recording() as record:
            try:
                async with session.get(here, headers=headers, allow_redirects=False) as response:
                    if response.status in _REDIRECTS:
                        return self._redirected(here, response)
                    return await self._fetched(response, etag, limit)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                if isinstance(error, TimeoutError):
                    raise
                raise self._refuse(self._reason(error, here, refused=record.refused)) from None

    async def _fetched(self, response: aiohttp.ClientResponse, etag: str, limit: int) -> Fetched | None:
        if response.status == 304 and etag:
            return None
        self._require_json(response)
        return Fetched(await self._body(response, limit), _etag(response))

    def _redirected(self, here: URL, response: aiohttp.ClientResponse) -> URL:
        try:
            target = here.join(URL(response.headers.get("Location", ""))).with_user(None).with_fragment(None)
        except ValueError:
            raise self._refuse("redirects to an invalid URL") from None
        if target.scheme not in ("http", "https") or not target.host:
            raise self._refuse("redirects to a URL that is neither http nor https")
        if here.scheme == "https" and target.scheme == "http":
            raise self._refuse(f"redirects from https to http, to {_shown_host(target)}")
        return target

    def _require_json(self, response: aiohttp.ClientResponse) -> None:
        status, kind = response.status, response.content_type
        if status in (401, 403):
            given = self._endpoint.credentials is not None
            hint = "does not accept the credentials" if given else "needs credentials"
            raise self._refuse(
                f"{hint} (it answers {status}): FLOW_DEFINITIONS_AUTH, of a provider its authentication"
            )
        if status != 200:
            raise self._refuse(f"answers {status}")
        if "Content-Type" in response.headers and kind != "application/json" and kind[-5:] != "+json":
            raise self._refuse(f"answers {kind[:80]!r}, not JSON")

    async def _body(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        packed = response.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in ("identity", "gzip"):
            raise self._refuse(f"answers in the encoding {packed[:80]!r}, which was not requested")
        unpacking = zlib.decompressobj(_GZIP) if packed == "gzip" else None
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            try:
                body += unpacking.decompress(chunk, limit + 1 - len(body)) if unpacking else chunk
            except zlib.error:
                raise self._refuse("answers with data that cannot be unpacked") from None
            if len(body) > limit:
                raise self._refuse("answers with more bytes than are accepted")
        if unpacking and not unpacking.eof:
            raise self._refuse("answers with data that cannot be unpacked")
        return bytes(body)

    def _reason(self, error: Exception, here: URL, *, refused: bool) -> str:
        """Describe a failure; the text changes only when the failure does, so that it is logged once."""
        if refused:
            return (
                f"redirects to {_shown_host(here)}, which is no public address; if that is meant, set "
                "FLOW_DEFINITIONS_PRIVATE_REDIRECTS=true, or name that address itself"
            )
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"the host {_shown_host(here)} is not known"
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            return f"there is no trusted TLS connection to {_shown_host(here)}"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"no connection to {_shown_host(here)}: {error.os_error.strerror or 'refused'}"
        if isinstance(error, aiohttp.ClientResponseError):
            return "does not answer in valid HTTP"
        if isinstance(error, aiohttp.InvalidURL):
            return "redirects to an invalid URL"
        return "the answer ended early"

    def _refuse(self, reason: str) -> DefinitionSourceError:
        return DefinitionSourceError(f"{self._name}: {reason}")


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # the caller bounds the whole
        auto_decompress=False,  # it is unpacked here, to a limit
        trust_env=False,  # neither proxies nor passwords of the environment
    )


def _headers(etag: str, credentials: tuple[str, str] | None) -> dict[str, str]:
    headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "server-flow"}
    if etag:
        headers["If-None-Match"] = etag
    if credentials is not None:
        headers[credentials[0]] = credentials[1]
    return headers


def _etag(response: aiohttp.ClientResponse) -> str:
    etag = response.headers.get("ETag", "")
    return etag if len(etag) <= MAX_ETAG and etag.isascii() else ""


def _shown_host(url: URL) -> str:
    host = (url.raw_host or "")[:253]
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"
