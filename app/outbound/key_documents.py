"""Documents of identity providers, read over HTTP: small, without redirects, from allowed addresses."""

import os
import ssl
from urllib.parse import urlsplit

import aiohttp

from app.contracts.errors import SigningKeysError
from app.outbound.addresses import is_public
from app.outbound.socket_guard import SocketGuard
from config.sources import MAX_URL_CHARACTERS, is_interceptable, origin_of

MAX_DOCUMENT_BYTES = 524_288
TIMEOUT_SECONDS = 5.0
_CHUNK_BYTES = 65_536
_HEADERS = {
    "Accept": "application/json, application/jwk-set+json",
    "Accept-Encoding": "identity",
    "User-Agent": "server-flow",
}


class KeyDocuments:
    """Reads documents with public keys, and those that name their addresses.

    Args:
        plain_http: Addresses may be ``http://`` on other machines, too.
        tls: Trusted certificates, None for those of the system.
        max_bytes: Limit of a document.
    """

    def __init__(
        self,
        *,
        plain_http: bool = False,
        tls: ssl.SSLContext | None = None,
        max_bytes: int = MAX_DOCUMENT_BYTES,
    ) -> None:
        self._plain_http = plain_http
        self._tls = tls
        self._max_bytes = max_bytes

    async def __call__(self, url: str, *, configured: str) -> bytes:
        """Return the content at a URL.

        The operator names the server of ``configured``, which may have any address. Another server, which a
        document names, must have a public one, so that no document directs requests into the own network.

        Raises:
            SigningKeysError: The server failed, refused or redirects, or its address is not allowed.
        """
        guard = None if self._is_same_server(url, configured) else SocketGuard(is_public)
        connector = aiohttp.TCPConnector(limit=1, socket_factory=guard, ssl=self._tls or True)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            trust_env=False,  # neither proxies nor passwords of the environment
        )
        with SocketGuard.recording() as record:
            try:
                async with session, session.get(url, headers=_HEADERS, allow_redirects=False) as response:
                    return await self._body(response)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                reason = "its keys are at an address that is not public" if record.refused else _reason(error)
                raise SigningKeysError(reason) from None

    def _is_same_server(self, url: str, configured: str) -> bool:
        if not self._may_request(url) or (configured.startswith("https:") and not url.startswith("https:")):
            raise SigningKeysError("its keys are at an address that is not https://")
        return origin_of(url) == origin_of(configured)

    def _may_request(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            return False
        if len(url) > MAX_URL_CHARACTERS or not url.isascii() or not url.isprintable():
            return False
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or "\\" in url:
            return False
        return self._plain_http or not is_interceptable(url)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if 300 <= response.status < 400:
            raise SigningKeysError(f"it redirects (HTTP status {response.status}); name the final address")
        if response.status != 200:
            raise SigningKeysError(f"HTTP status {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise SigningKeysError(f"its document has more than {self._max_bytes} bytes")
        return bytes(body)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "there is no trusted TLS connection to it"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno  # its own text can have the address
        return os.strerror(number) if number else "there is no connection to it"
    return "it does not answer in valid HTTP"
