"""The receiver of webhooks: an ASGI application, and a server for it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from app.outbound.webhook_signatures import decode_secret, verify
from realtime.consumer.events import MalformedEntryError, event_of
from realtime.service_handlers.handlers import ServiceHandlers

log = logging.getLogger("realtime.service_handlers")

MAX_BODY_BYTES = 1_048_576
"""Larger bodies are refused; events are smaller."""

Message = MutableMapping[str, Any]
AsgiApplication = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
                           Awaitable[None]]  # fmt: skip


class WebhookReceiver:
    """Verifies webhooks, has their events handled, and answers with the transition of the handler.

    Args:
        handlers: The handlers.
        secrets: The secrets of the service, ``whsec_…``. Several are valid while one is rotated.

    Raises:
        SecretError: A secret is malformed.
    """

    def __init__(self, handlers: ServiceHandlers, secrets: Sequence[str]) -> None:
        self._handlers = handlers
        self._keys = [decode_secret(secret) for secret in secrets]

    async def receive(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request.

        Args:
            headers: Its headers, with lower-case names.
            body: Its body, as it was received.
        """
        fault = verify(self._keys, headers, body, time.time())
        if fault is not None:
            log.warning("webhook refused", extra={"reason": fault.reason})
            return 401, msgspec.json.encode({"error": {"reason": fault.text}})
        try:
            event = event_of(body)
        except MalformedEntryError as error:
            log.warning("malformed webhook", exc_info=error)
            return 400, msgspec.json.encode({"error": {"reason": str(error)}})
        try:
            answer = await self._handlers.handle(event)
        except Exception as error:
            error.add_note(f"while the event {event.id} of type {event.type} was handled")
            log.warning("event handler failed", exc_info=error)
            return 500, b"{}"
        if answer is None:
            return 200, b"{}"
        payload = {} if answer.payload is None else {"payload": answer.payload}
        return 200, msgspec.json.encode({"transition": answer.name, **payload})

    async def asgi(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request, as an ASGI application."""
        if scope["type"] != "http":
            raise RuntimeError("webhooks come by HTTP alone")
        if scope["method"] != "POST":
            return await _send(send, 405, b"{}")
        body = bytearray()
        is_complete = False
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                return await _send(send, 413, b"{}")
            is_complete = not message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return await _send(send, *await self.receive(headers, bytes(body)))

    async def serve(self, host: str, port: int, path: str, on_listening: Callable[[int], None]) -> None:
        """Serve webhooks until the task is cancelled.

        Args:
            host: The address to listen at.
            port: The port, 0 for a free one.
            path: The path of the webhook.
            on_listening: Is called with the port.
        """
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_post(path, self._respond)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            on_listening(int(runner.addresses[0][1]))
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _respond(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        status, body = await self.receive(headers, await request.read())
        return web.Response(status=status, body=body, content_type="application/json")


async def _send(send: Callable[[Message], Awaitable[None]], status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
