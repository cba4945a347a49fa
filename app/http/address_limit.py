"""ASGI middleware that refuses requests of addresses from which too many come."""

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.contracts.errors import RateLimitedError
from app.http.edge import DENIAL
from app.http.problems import PROBES, log_with_request, problem
from app.kit.client_address import client_address, is_forwarded, peer_address
from app.services.rates.request_limits import RequestLimits

log = structlog.get_logger("http")

SETTING = "FLOW_TRUSTED_PROXIES"


class AddressLimit:
    """Counts requests before anything is done for them; those of operators' probes are not counted.

    Args:
        app: The application.
        limits: The limits.
        prefix: Paths with another beginning are passed on.
    """

    def __init__(self, app: ASGIApp, limits: RequestLimits, *, prefix: str = "") -> None:
        self._app = app
        self._limits = limits
        self._prefix = prefix
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request and pass it on, or refuse it."""
        counted = scope["type"] != "lifespan" and scope["path"].startswith(self._prefix)
        if counted and scope["path"] not in PROBES:
            try:
                self._limits.admit_address(client_address(scope))
            except RateLimitedError as error:
                self._warn_of_proxy(scope)
                await _refuse(scope, receive, send, error)
                return
        await self._app(scope, receive, send)

    def _warn_of_proxy(self, scope: Scope) -> None:
        """Warn once if the address seems to be that of a proxy, behind which there are many clients."""
        peer = peer_address(scope)
        if not self._warned and is_forwarded(scope) and client_address(scope) == peer:
            self._warned = True
            log.warning("rate limit of a proxy", address=peer, setting=SETTING)


async def _refuse(scope: Scope, receive: Receive, send: Send, error: RateLimitedError) -> None:
    answer: Response = problem(error, scope["path"])
    if scope["type"] == "http":
        log_with_request(Request(scope), code=error.code)
        await answer(scope, receive, send)
    elif DENIAL in scope.get("extensions", {}):
        start = {"status": answer.status_code, "headers": answer.raw_headers}
        await send({"type": f"{DENIAL}.start", **start})
        await send({"type": f"{DENIAL}.body", "body": bytes(answer.body)})
    else:
        await send({"type": "websocket.close", "code": 1013})
