"""python-socketio's server with bounds on clients. All overrides of python-socketio and engine.io are here.

The libraries do not bound what a client may send before and instead of events, nor what may wait for a
client that reads too slowly. ``tests/unit/test_socketio_overrides.py`` compares all overrides, and the
private members that are used, with the installed versions.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import structlog
from msgspec import structs
from starlette.types import Message, Receive, Scope, Send

from app.contracts.errors import (
    AuthenticationRequiredError,
    FlowError,
    MalformedRequestError,
    SlowClientError,
)
from app.contracts.wire.errors import ErrorView, error_view
from app.kit.origins import own_origins
from app.kit.refused_origins import SETTING, RefusedOrigins
from config.log import describe
from realtime.gateway.limits import MAX_CONNECT_ATTEMPTS
from realtime.gateway.outgoing_queue import OutgoingQueue
from realtime.gateway.polling_body import ENVIRON_RECEIVE, postpone_body, problem_response, read_packets
from realtime.gateway.socketio_library import engineio, socketio

log = structlog.get_logger("sockets")

CONNECT_TIMEOUT_SECONDS = 10.0
RESERVED_EVENTS = {"connect", "disconnect", "*"}
BINARY_PACKETS = ("5", "6")
FRAME_TYPES = set("0123456")
INVALID_TRANSPORT = "Invalid transport"
"""engine.io's message for a transport that is not enabled."""
ORIGIN_NOT_ACCEPTED = " is not an accepted origin."
"""The end of engine.io's message for an origin that is not allowed."""
TRANSPORTS_SETTING = "FLOW_SOCKET_TRANSPORTS"
ENVIRON_DISCONNECTED = "flow.disconnected"
ENVIRON_ATTEMPTS = "flow.connect_attempts"
ENVIRON_REFUSAL = "flow.refusal"

wants_ack: ContextVar[bool] = ContextVar("wants_ack", default=True)
"""True if the client waits for an ack of the current event. python-socketio does not pass it to handlers."""


class BoundedEngine(engineio.AsyncServer):  # type: ignore[misc]
    """engine.io's server with bounded queues and bodies, and the origins of the settings.

    In long polling the library waits indefinitely to end the connection of a body that is too large, and
    answers "OK" to one that is malformed or has no ``Content-Length``.
    """

    _async: dict[str, Any]
    _transport_logged = False

    def __init__(self, *arguments: Any, allowed_origins: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._allowed_origins = allowed_origins
        self._refused_origins = RefusedOrigins()
        self._translate = self._async["translate_request"]
        self._async = {**self._async, "translate_request": lambda environ: environ}

    def create_queue(self, *_: Any, **__: Any) -> OutgoingQueue:
        """Create the queue of a new connection's outgoing packets."""
        return OutgoingQueue()

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Answer a request. Its body is read only after the library has accepted the head."""
        is_http = scope["type"] == "http"
        environ = await self._translate(scope, postpone_body if is_http else receive, send)
        if not environ:
            return None  # the client has disconnected
        environ[ENVIRON_RECEIVE] = receive
        for sid in parse_qs(environ["QUERY_STRING"]).get("sid", ()):
            if sid in self.sockets and self.sockets[sid].closed:
                del self.sockets[sid]  # the library raises KeyError for it
        return await super().handle_request(environ)

    def bound_bodies(self, eio_sid: str) -> None:
        """Replace the library's handler of a new connection's POST requests."""
        self.sockets[eio_sid].handle_post_request = partial(self._receive_body, eio_sid)

    async def close_connection(self, eio_sid: str, *, silently: bool = False) -> None:
        """Close a connection after its queued packets, without waiting for the client to read them.

        Args:
            eio_sid: The Engine.IO session.
            silently: Omit the packet by which engine.io announces an intended end.
        """
        connection = self.sockets.get(eio_sid)
        if connection is not None and not connection.closed and not connection.closing:
            await connection.close(wait=False, abort=silently)
            connection.queue.put_nowait(None)  # the writer ends after the queued packets

    async def _receive_body(self, eio_sid: str, environ: dict[str, Any]) -> None:
        connection = self.sockets[eio_sid]
        try:
            packets = await read_packets(environ, self.max_http_buffer_size)
            if connection.closed:  # while the body arrived
                raise MalformedRequestError("The Engine.IO session has ended; connect again")
        except FlowError as refusal:
            log.info("request refused", status=refusal.status, code=refusal.code)
            environ[ENVIRON_REFUSAL] = refusal
            await self.close_connection(eio_sid)
            return
        for packet in packets:
            if connection.closed:
                break
            await connection.receive(packet)
        if connection.closed:
            connection.queue.put_nowait(None)  # answers a GET that waits

    async def _make_response(self, response_dict: dict[str, Any], environ: dict[str, Any]) -> Any:
        refusal: FlowError | None = environ.pop(ENVIRON_REFUSAL, None)
        if refusal is not None:
            response_dict = problem_response(refusal, environ["PATH_INFO"])
        return await super()._make_response(response_dict, environ)

    def _cors_allowed_origins(self, environ: dict[str, Any]) -> set[str] | None:
        """Return the origins of the settings and the service's own; None for all."""
        if "*" in self._allowed_origins:
            return None

        def header(name: str) -> str | None:
            return environ.get("HTTP_" + name.upper().replace("-", "_"))

        return {*self._allowed_origins, *own_origins(environ.get("wsgi.url_scheme", "http"), header)}

    def _cors_headers(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """Return the headers about other origins: credentials (of proxies) only for origins that are listed.

        The library allows them for all origins.
        """
        headers: list[tuple[str, str]] = super()._cors_headers(environ)
        if "*" in self._allowed_origins:
            headers = [header for header in headers if header[0] != "Access-Control-Allow-Credentials"]
        return [*headers, ("Vary", "Origin")]

    def _bad_request(self, message: str | None = None) -> Any:
        if message is not None and message.endswith(ORIGIN_NOT_ACCEPTED):
            origin = message.removesuffix(ORIGIN_NOT_ACCEPTED)
            self._refused_origins.add(origin)
            return super()._bad_request(
                f"The origin {origin[:200]} is not allowed; add it to {SETTING} on the server"
            )
        if message != INVALID_TRANSPORT:
            return super()._bad_request(message)
        if not self._transport_logged:  # once: clients repeat it
            self._transport_logged = True
            log.warning("client transport refused", setting=TRANSPORTS_SETTING, allowed=self.transports)
        allowed = ", ".join(f"'{transport}'" for transport in self.transports)
        return super()._bad_request(
            f"{message}: this server accepts {' and '.join(self.transports)}. Connect with the option "
            f"transports: [{allowed}], or set {TRANSPORTS_SETTING}=websocket,polling on the server"
        )


class IndexedManager(socketio.AsyncManager):  # type: ignore[misc]
    """A client manager with an index of rooms by client.

    python-socketio searches all rooms whenever a client disconnects, which takes minutes when thousands
    disconnect at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rooms_by_sid: dict[str, set[str | None]] = {}

    def basic_enter_room(
        self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None
    ) -> None:
        """Add a client to a room."""
        super().basic_enter_room(sid, namespace, room, eio_sid)
        self._rooms_by_sid.setdefault(sid, set()).add(room)

    def basic_leave_room(self, sid: str, namespace: str, room: str | None) -> None:
        """Remove a client from a room."""
        super().basic_leave_room(sid, namespace, room)
        rooms = self._rooms_by_sid.get(sid, set())
        rooms.discard(room)
        if not rooms:
            self._rooms_by_sid.pop(sid, None)

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        """Remove a client from its rooms and from the pending lists."""
        for room in list(self._rooms_by_sid.get(sid, ())):
            self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            if sid in pending.get(namespace, ()):
                pending[namespace].remove(sid)
                if not pending[namespace]:
                    del pending[namespace]


class BoundedServer(socketio.AsyncServer):  # type: ignore[misc]
    """Disconnects clients that send malformed packets, never authenticate, or read too slowly."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            client_manager=IndexedManager(),
            logger=logging.getLogger("socketio"),
            engineio_logger=logging.getLogger("engineio"),
            **options,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def send_error(self, sid: str, error: FlowError) -> None:
        """Send a client an error that answers no ack."""
        await self.emit("flow-error", _flow_error(error), to=sid)

    async def end(self, sid: str, error: FlowError) -> None:
        """Send a client the reason and disconnect it.

        A client that needs another token loses its transport alone, without the packets that would stop stock
        clients from reconnecting by themselves.
        """
        eio_sid = self.manager.eio_sid_from_sid(sid, "/")
        may_reconnect = isinstance(error, AuthenticationRequiredError)
        await self.send_error(sid, error)
        if not may_reconnect:
            await self.disconnect(sid)
        if eio_sid is not None:
            await self.eio.close_connection(eio_sid, silently=may_reconnect)

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI request. A malformed Engine.IO frame ends its connection; the library would raise."""
        if scope["type"] != "websocket":
            await super().handle_request(scope, receive, send)
            return

        async def checked() -> Message:
            message = await receive()
            text = message.get("text")
            if message["type"] == "websocket.receive" and text is not None and text[:1] not in FRAME_TYPES:
                log.warning("malformed frame received")
                return {"type": "websocket.disconnect", "code": 1008}
            return message

        await super().handle_request(scope, checked, send)

    def has_members(self, room: str) -> bool:
        """True if a client is in the room."""
        return room in self.manager.rooms.get("/", {})

    def _engineio_server_class(self) -> type[BoundedEngine]:
        return BoundedEngine

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self.eio.sockets[eio_sid].queue.overflow = partial(self._on_overflow, eio_sid)
        self.eio.bound_bodies(eio_sid)
        self._run_in_background(self._require_connect(eio_sid))

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        environ = self.environ.get(eio_sid)
        if environ is not None:
            environ[ENVIRON_DISCONNECTED] = True  # for a connect handler that is still running
        await super()._handle_eio_disconnect(eio_sid, reason)

    async def _require_connect(self, eio_sid: str) -> None:
        """Close the connection unless the client connects to the namespace in time."""
        await asyncio.sleep(CONNECT_TIMEOUT_SECONDS)
        if eio_sid in self.environ and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            await self.eio.close_connection(eio_sid)

    async def _handle_connect(self, eio_sid: str, namespace: str, data: Any) -> None:
        environ = self.environ[eio_sid]
        environ[ENVIRON_ATTEMPTS] = environ.get(ENVIRON_ATTEMPTS, 0) + 1
        if environ[ENVIRON_ATTEMPTS] > MAX_CONNECT_ATTEMPTS:
            raise ValueError("too many connect attempts")
        try:
            await super()._handle_connect(eio_sid, namespace, data)
        finally:
            sid = self.manager.sid_from_eio_sid(eio_sid, "/")
            if sid is None:  # refused: it may retry with another token
                self._run_in_background(self._require_connect(eio_sid))
            elif self.manager.is_pre_connected(sid, "/"):  # the handler failed
                await self.manager.disconnect(sid, "/")

    async def _handle_disconnect(self, eio_sid: str, namespace: str, reason: str | None = None) -> None:
        await super()._handle_disconnect(eio_sid, namespace, reason)
        await self.eio.close_connection(eio_sid)

    def _on_overflow(self, eio_sid: str) -> None:
        self._run_in_background(self._disconnect_slow_client(eio_sid))

    async def _disconnect_slow_client(self, eio_sid: str) -> None:
        """Discard the queued packets, so that the reason is the next packet that the client reads."""
        connection = self.eio.sockets.get(eio_sid)
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if connection is None or connection.closed:
            return
        log.warning("slow client disconnected", waiting=connection.queue.qsize())
        connection.queue.clear()
        if sid is not None:
            await self.end(sid, SlowClientError())
        await self.eio.close_connection(eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        connection = self.eio.sockets.get(eio_sid)
        if connection is None or connection.closed:
            return  # sent after the end of the connection
        if connection.last_ping:
            connection.last_ping = time.time()  # a PONG may be queued behind many events
        try:
            if not isinstance(data, str) or data.startswith(BINARY_PACKETS):
                raise ValueError("events have no binary attachments")
            await super()._handle_eio_message(eio_sid, data)
        except Exception as error:  # noqa: BLE001 - whatever a client sends
            log.warning("malformed event received", **describe(error))
            await self.eio.close_connection(eio_sid)

    async def _handle_event(self, eio_sid: str, namespace: str, id: Any, data: Any) -> None:  # noqa: A002
        if (
            not isinstance(data, list)
            or not data
            or not isinstance(data[0], str)
            or data[0] in RESERVED_EVENTS
        ):
            raise ValueError("not an event")
        wants_ack.set(id is not None)
        await super()._handle_event(eio_sid, namespace, id, data)


def _flow_error(error: FlowError) -> dict[str, Any]:
    view: ErrorView = error_view(error)
    members = structs.asdict(view)
    return {"error": members.pop("message"), **members}
