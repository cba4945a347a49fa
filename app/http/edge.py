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
DENIAL = "websocket.http.response"
"""The ASGI extension by which a handshake is answered with a status of HTTP."""
_STARTS = ("http.response.start", f"{DENIAL}.start")


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
                if secure and STRICT_TRANSPORT[0] not in present:
                    headers.append(STRICT_TRANSPORT)
            await send(message)

        if scope["type"] == "websocket" and DENIAL in scope.get("extensions", {}):
            await self._app(scope, receive, _with_denial(send_with_headers))
        else:
            await self._app(scope, receive, send_with_headers)


def _with_denial(send: Send) -> Send:
    """Answer a handshake that the application closes with 403 and its reason; the server would omit that."""
    answered = False

    async def send_or_deny(message: Message) -> None:
        nonlocal answered
        if message["type"] == "websocket.close" and not answered:
            reason = str(message.get("reason") or "").encode()
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(reason)).encode()),
            ]
            await send({"type": f"{DENIAL}.start", "status": 403, "headers": headers})
            await send({"type": f"{DENIAL}.body", "body": reason})
        else:
            await send(message)
        answered = True

    return send_or_deny


def missing_headers(present: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the security headers of an answer that has the headers ``present``."""
    return [header for header in SECURITY_HEADERS if header[0] not in present]
