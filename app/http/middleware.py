"""ASGI middleware: a request id, one log line for each request, and an answer to unexpected errors."""

import re
import time
from typing import Any

import structlog
from msgspec import UNSET
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from app.contracts.errors import InternalError, cut
from app.http.problems import INSTANCE_CHARACTERS, LOGGED, PROBES, unexpected
from app.kit.client_address import client_address
from app.services.audit.source import ActSource, acting_from

log = structlog.get_logger("http")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}\Z")


class RequestLog:
    """The outermost middleware around the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request: set its id, log it, and answer unexpected errors."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _REQUEST_ID.match(given) else str(uuid7()).encode()
        status = 0
        found: dict[str, str] = {}
        scope[LOGGED] = found
        began = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers: list[Any] = message.setdefault("headers", [])
                headers.append((b"x-request-id", request_id))
            await send(message)

        address = client_address(scope)
        source = ActSource("http", address or UNSET, request_id.decode())
        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()), acting_from(source):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:  # noqa: BLE001 - every request is answered
                answer = unexpected(scope["path"], error)
                found["code"] = InternalError.code
                if not status:
                    await answer(scope, receive, send_with_id)
            is_quiet = scope["path"] in PROBES or scope["path"].startswith("/static/")
            note = log.debug if is_quiet else log.info
            note(
                "request",
                method=scope["method"],
                path=cut(scope["path"], INSTANCE_CHARACTERS),
                status=status,
                ms=round((time.perf_counter() - began) * 1000, 2),
                **found,
            )
