"""Bodies of Engine.IO's long-polling requests: read within a limit, decoded, and refused as problems."""

from typing import Any

import msgspec
from starlette.types import Message

from app.contracts.errors import (
    FlowError,
    MalformedRequestError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from app.contracts.wire.errors import problem_view
from realtime.gateway.socketio_library import engineio

ENVIRON_RECEIVE = "asgi.receive"
"""Key of the ASGI ``receive``, by which the body is read once the library has accepted the head."""

_PACKETS = engineio.packet
_CLIENT_PACKETS = {_PACKETS.CLOSE, _PACKETS.PONG, _PACKETS.MESSAGE, _PACKETS.UPGRADE}


async def read_packets(environ: dict[str, Any], max_bytes: int) -> list[Any]:
    """Read and decode the packets of a POST request.

    Raises:
        PayloadTooLargeError: The body is larger than ``max_bytes``.
        RequestTimeoutError: The client disconnected, or its request timed out.
        MalformedRequestError: The body is not a payload of packets that a client may send.
    """
    return _decode(await _read_bounded(environ, max_bytes))


async def postpone_body() -> Message:
    """Replace the ASGI ``receive`` while the library checks the head of a request."""
    return {"type": "http.request", "body": b"", "more_body": True}


def problem_response(error: FlowError, path: str) -> dict[str, Any]:
    """Render an error as an Engine.IO response with a problem document (RFC 9457)."""
    return {
        "status": f"{error.status} {error.title}",
        "headers": [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")],
        "response": msgspec.json.encode(problem_view(error, path)),
    }


async def _read_bounded(environ: dict[str, Any], max_bytes: int) -> bytes:
    if int(environ.get("CONTENT_LENGTH", "0")) > max_bytes:
        raise PayloadTooLargeError("body", max_bytes)
    body = bytearray()
    message: Message = {"more_body": True}
    while message.get("more_body"):
        message = await environ[ENVIRON_RECEIVE]()
        if message["type"] != "http.request":  # disconnected, or closed because the body came too slowly
            raise RequestTimeoutError
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise PayloadTooLargeError("body", max_bytes)
    return bytes(body)


def _decode(body: bytes) -> list[Any]:
    max_packets = engineio.payload.Payload.max_decode_packets
    try:
        packets: list[Any] = engineio.payload.Payload(encoded_payload=body.decode()).packets
    except (ValueError, LookupError, RecursionError):
        packets = [_PACKETS.Packet(_PACKETS.NOOP)]
    if any(packet.packet_type not in _CLIENT_PACKETS for packet in packets):
        raise MalformedRequestError(
            f"The body must be at most {max_packets} packets of Engine.IO that a client may send, in UTF-8"
        )
    return packets
