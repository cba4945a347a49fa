"""Engine.IO's long polling with bounds: a request that cannot be served gets an answer."""

from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec
import structlog
from starlette.types import Message, Receive, Scope, Send

from app.contracts.errors import (
    FlowError,
    MalformedRequestError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from app.contracts.wire.errors import problem_view
from realtime.gateway.socketio_library import engineio

log = structlog.get_logger("sockets")

PACKETS = engineio.packet
FROM_CLIENTS = {PACKETS.CLOSE, PACKETS.PONG, PACKETS.MESSAGE, PACKETS.UPGRADE}
REFUSAL = "flow.refusal"


class PollingServer(engineio.AsyncServer):  # type: ignore[misc]
    """engine.io's server, which reads no more of a body than a message may have.

    The library waits for ever to end the connection of a body that is too large, and answers "OK" to one
    that is malformed or has no ``Content-Length``.
    """

    _async: dict[str, Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._translate = self._async["translate_request"]
        self._async = {**self._async, "translate_request": lambda environ: environ}

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Answer a request. Its body is not read before the library has checked the rest."""
        is_http = scope["type"] == "http"
        environ = await self._translate(scope, _read_later if is_http else receive, send)
        if not environ:
            return None  # the client has gone
        environ["asgi.receive"] = receive
        for sid in parse_qs(environ["QUERY_STRING"]).get("sid", ()):
            if sid in self.sockets and self.sockets[sid].closed:
                del self.sockets[sid]  # where the library fails
        return await super().handle_request(environ)

    def bound_bodies(self, eio_sid: str) -> None:
        """Take the POST requests of a new connection in the place of the library."""
        self.sockets[eio_sid].handle_post_request = partial(self._receive_payload, eio_sid)

    async def cut(self, eio_sid: str, *, silently: bool = False) -> None:
        """End a connection after what waits for it. engine.io's own way waits for the client to read it.
        ``silently``: without the packet by which engine.io says that the end is meant."""
        connection = self.sockets.get(eio_sid)
        if connection is not None and not connection.closed and not connection.closing:
            await connection.close(wait=False, abort=silently)
            connection.queue.put_nowait(None)  # the writer ends after what is left

    async def _receive_payload(self, eio_sid: str, environ: dict[str, Any]) -> None:
        connection = self.sockets[eio_sid]
        try:
            packets = _decode(await _read(environ, self.max_http_buffer_size))
            if connection.closed:  # while the body came
                raise MalformedRequestError("The Engine.IO session has ended; connect again")
        except FlowError as refusal:
            log.info("request refused", status=refusal.status, code=refusal.code)
            environ[REFUSAL] = refusal
            await self.cut(eio_sid)
            return
        for packet in packets:
            if connection.closed:
                break
            await connection.receive(packet)
        if connection.closed:
            connection.queue.put_nowait(None)  # answers a GET that waits

    async def _make_response(self, response_dict: dict[str, Any], environ: dict[str, Any]) -> Any:
        refusal: FlowError | None = environ.pop(REFUSAL, None)
        if refusal is not None:
            response_dict = {
                "status": f"{refusal.status} {refusal.title}",
                "headers": [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")],
                "response": msgspec.json.encode(problem_view(refusal, environ["PATH_INFO"])),
            }
        return await super()._make_response(response_dict, environ)


async def _read_later() -> Message:
    return {"type": "http.request", "body": b"", "more_body": True}


async def _read(environ: dict[str, Any], limit: int) -> bytes:
    if int(environ.get("CONTENT_LENGTH", "0")) > limit:
        raise PayloadTooLargeError("body", limit)
    body = bytearray()
    message: Message = {"more_body": True}
    while message.get("more_body"):
        message = await environ["asgi.receive"]()
        if message["type"] != "http.request":  # it went away, or its connection ended as it was late
            raise RequestTimeoutError
        body += message.get("body", b"")
        if len(body) > limit:
            raise PayloadTooLargeError("body", limit)
    return bytes(body)


def _decode(body: bytes) -> list[Any]:
    most = engineio.payload.Payload.max_decode_packets
    try:
        packets: list[Any] = engineio.payload.Payload(encoded_payload=body.decode()).packets
    except (ValueError, LookupError, RecursionError):
        packets = [PACKETS.Packet(PACKETS.NOOP)]
    if any(packet.packet_type not in FROM_CLIENTS for packet in packets):
        raise MalformedRequestError(
            f"The body must be at most {most} packets of Engine.IO that a client may send, in UTF-8"
        )
    return packets
