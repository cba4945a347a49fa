"""Cross-origin requests of pages: allowed for the origins in the settings, logged for others."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.kit.origins import own_origins
from app.kit.refused_origins import RefusedOrigins

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
ALLOWED_HEADERS = [
    "Authorization",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-Request-Id",
]
EXPOSED_HEADERS = [
    "ETag",
    "Flow-Version",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
]


class CrossOrigin(CORSMiddleware):
    """Starlette's middleware, with a log of the origins that it refuses."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=list(origins),
            allow_methods=METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )
        self._any_origin = bool(origins)
        self._refused = RefusedOrigins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight request, or pass the request on."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not self.is_allowed_origin(origin):
                if origin not in own_origins(scope["scheme"], headers.get):
                    self._refused.add(origin)
                elif not self._any_origin:
                    await self.app(scope, receive, send)
                    return
        await super().__call__(scope, receive, send)
