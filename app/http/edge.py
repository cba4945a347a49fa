"""The outermost ASGI middleware: who the client is, and headers that protect browsers on every answer."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.kit.client_address import CLIENT_ADDRESS, SECURE, TrustedProxies

POLICY_OF_DATA = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of everything but pages: nothing in it is loaded or run."""
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", POLICY_OF_DATA),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cache-control", b"no-store"),
]
"""Set on every answer that does not have the header already."""
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
"""For clients that use TLS."""
_STARTS = ("http.response.start", "websocket.http.response.start")


class Edge:
    """Resolves the address and the scheme of the client, and completes the headers of answers.

    Args:
        app: The application.
        proxies: The proxies whose headers are believed.
        prefix: Paths with another beginning are passed on as they are.
    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies, *, prefix: str = "") -> None:
        self._app = app
        self._proxies = proxies
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "lifespan" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        scope[CLIENT_ADDRESS], secure = self._proxies.resolve(scope)
        scope[SECURE] = secure

        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = message["headers"] = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                headers += missing_headers(present)
                if secure:
                    headers.append(STRICT_TRANSPORT)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def missing_headers(present: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the security headers of an answer that has the headers ``present``."""
    return [header for header in SECURITY_HEADERS if header[0] not in present]
