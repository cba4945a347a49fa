"""python-socketio's server with what it leaves open: bounds on what a client may send before and
instead of events, and on what may wait for one that reads too slowly."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import structlog
from msgspec import structs
from starlette.types import Message, Receive, Scope, Send

from app.contracts.errors import AuthenticationRequiredError, FlowError, SlowClientError
from app.contracts.wire.errors import ErrorView, error_view
from app.kit.origins import own_origins
from app.kit.refused_origins import SETTING, RefusedOrigins
from config.log import describe
from realtime.gateway.limits import CONNECTS, WAITING_BYTES, WAITING_PACKETS
from realtime.gateway.polling import PollingServer
from realtime.gateway.socketio_library import socketio

log = structlog.get_logger("sockets")

CONNECT_SECONDS = 10.0
RESERVED = {"connect", "disconnect", "*"}
BINARY = ("5", "6")
FRAMES = set("0123456")
INVALID_TRANSPORT = "Invalid transport"
"""The library's words for a transport that this server does not take."""
REFUSED_ORIGIN = " is not an accepted origin."
"""The end of the library's words for an origin that is not allowed."""
TRANSPORTS_SETTING = "FLOW_SOCKET_TRANSPORTS"
GONE = "flow.gone"
CONNECTED = "flow.connects"

wants_ack: ContextVar[bool] = ContextVar("wants_ack", default=True)
"""True if the client waits for an ack of the current event, which python-socketio keeps from handlers."""


class OutgoingQueue(asyncio.Queue[Any]):
    """The packets that wait for a client. When they are too many, ``overflow`` is called, once."""

    def __init__(self) -> None:
        super().__init__()
        self.overflow: Callable[[], None] | None = None
        self._bytes = 0

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._bytes += _size(item)
        if self.overflow is not None and (self.qsize() > WAITING_PACKETS or self._bytes > WAITING_BYTES):
            overflow, self.overflow = self.overflow, None
            overflow()

    def _get(self) -> Any:
        item = super()._get()
        self._bytes -= _size(item)
        return item

    def clear(self) -> None:
        """Forget what waits."""
        while not self.empty():
            self.get_nowait()
            self.task_done()


class _Connections(PollingServer):
    _transport_logged = False

    def __init__(self, *arguments: Any, allowed_origins: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._listed_origins = allowed_origins
        self._refused_origins = RefusedOrigins()

    def create_queue(self, *_: Any, **__: Any) -> OutgoingQueue:
        return OutgoingQueue()

    def _cors_allowed_origins(self, environ: dict[str, Any]) -> set[str] | None:
        """Return the origins of the settings and the service's own; None for all."""
        if "*" in self._listed_origins:
            return None

        def header(name: str) -> str | None:
            return environ.get("HTTP_" + name.upper().replace("-", "_"))

        return {*self._listed_origins, *own_origins(environ.get("wsgi.url_scheme", "http"), header)}

    def _bad_request(self, message: str | None = None) -> Any:
        if message is not None and message.endswith(REFUSED_ORIGIN):
            origin = message.removesuffix(REFUSED_ORIGIN)
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
            f"{message}: this server takes {' and '.join(self.transports)}. Connect with the option "
            f"transports: [{allowed}], or set {TRANSPORTS_SETTING}=websocket,polling on the server"
        )


class _Members(socketio.AsyncManager):  # type: ignore[misc]
    """Knows the rooms of each client. python-socketio looks through all rooms whenever one disconnects, which
    takes minutes when thousands do at once."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms_of: dict[str, set[str | None]] = {}

    def basic_enter_room(
        self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None
    ) -> None:
        super().basic_enter_room(sid, namespace, room, eio_sid)
        self._rooms_of.setdefault(sid, set()).add(room)

    def basic_leave_room(self, sid: str, namespace: str, room: str | None) -> None:
        super().basic_leave_room(sid, namespace, room)
        rooms = self._rooms_of.get(sid, set())
        rooms.discard(room)
        if not rooms:
            self._rooms_of.pop(sid, None)

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        for room in list(self._rooms_of.get(sid, ())):
            self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            if sid in pending.get(namespace, ()):
                pending[namespace].remove(sid)
                if not pending[namespace]:
                    del pending[namespace]


class Server(socketio.AsyncServer):  # type: ignore[misc]
    """A client that sends what is no event of ours, never says who it is, or does not read what it is told,
    is disconnected."""

    def __init__(self, **options: Any) -> None:
        quiet = logging.getLogger("socketio")
        super().__init__(
            client_manager=_Members(), logger=quiet, engineio_logger=logging.getLogger("engineio"), **options
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def refuse(self, sid: str, error: FlowError) -> None:
        """Tell a client of an error that answers no ack."""
        await self.emit("flow-error", _flow_error(error), to=sid)

    async def end(self, sid: str, error: FlowError) -> None:
        """Send a client the reason, and disconnect it. One that needs another token loses its transport
        alone, without the packets that keep stock clients from connecting again by themselves."""
        eio_sid = self.manager.eio_sid_from_sid(sid, "/")
        is_to_return = isinstance(error, AuthenticationRequiredError)
        await self.refuse(sid, error)
        if not is_to_return:
            await self.disconnect(sid)
        if eio_sid is not None:
            await self.eio.cut(eio_sid, silently=is_to_return)

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the library's, for an ASGI server; what is no frame of Engine.IO ends the connection, where the
        library fails."""
        if scope["type"] != "websocket":
            await super().handle_request(scope, receive, send)
            return

        async def checked() -> Message:
            message = await receive()
            text = message.get("text")
            if message["type"] == "websocket.receive" and text is not None and text[:1] not in FRAMES:
                log.warning("client sent no frame of ours")
                return {"type": "websocket.disconnect", "code": 1008}
            return message

        await super().handle_request(scope, checked, send)

    def has_members(self, room: str) -> bool:
        """True if a client is in the room."""
        return room in self.manager.rooms.get("/", {})

    def _engineio_server_class(self) -> type[_Connections]:
        return _Connections

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self.eio.sockets[eio_sid].queue.overflow = partial(self._too_slow, eio_sid)
        self.eio.bound_bodies(eio_sid)
        self._soon(self._expect_connect(eio_sid))

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        environ = self.environ.get(eio_sid)
        if environ is not None:
            environ[GONE] = True  # for a connect handler that is under way
        await super()._handle_eio_disconnect(eio_sid, reason)

    async def _expect_connect(self, eio_sid: str) -> None:
        await asyncio.sleep(CONNECT_SECONDS)
        if eio_sid in self.environ and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            await self.eio.cut(eio_sid)

    async def _handle_connect(self, eio_sid: str, namespace: str, data: Any) -> None:
        environ = self.environ[eio_sid]
        environ[CONNECTED] = environ.get(CONNECTED, 0) + 1
        if environ[CONNECTED] > CONNECTS:
            raise ValueError("connects too often")
        try:
            await super()._handle_connect(eio_sid, namespace, data)
        finally:
            sid = self.manager.sid_from_eio_sid(eio_sid, "/")
            if sid is None:  # refused: it may try another token
                self._soon(self._expect_connect(eio_sid))
            elif self.manager.is_pre_connected(sid, "/"):  # the handler failed
                await self.manager.disconnect(sid, "/")

    async def _handle_disconnect(self, eio_sid: str, namespace: str, reason: str | None = None) -> None:
        await super()._handle_disconnect(eio_sid, namespace, reason)
        await self.eio.cut(eio_sid)

    def _too_slow(self, eio_sid: str) -> None:
        self._soon(self._end_slow(eio_sid))

    async def _end_slow(self, eio_sid: str) -> None:
        """Forget what waits for the client, so that the reason is the next that it reads."""
        connection = self.eio.sockets.get(eio_sid)
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if connection is None or connection.closed:
            return
        log.warning("client too slow", waiting=connection.queue.qsize())
        connection.queue.clear()
        if sid is not None:
            await self.end(sid, SlowClientError())
        await self.eio.cut(eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        connection = self.eio.sockets.get(eio_sid)
        if connection is None or connection.closed:
            return  # what it sends after its end
        if connection.last_ping:
            connection.last_ping = time.time()  # a PONG may stand behind many events
        try:
            if not isinstance(data, str) or data.startswith(BINARY):  # no event has binary parts
                raise ValueError("binary")
            await super()._handle_eio_message(eio_sid, data)
        except Exception as error:  # noqa: BLE001 - whatever a client sends
            log.warning("client sent no event of ours", **describe(error))
            await self.eio.cut(eio_sid)

    async def _handle_event(self, eio_sid: str, namespace: str, id: Any, data: Any) -> None:  # noqa: A002
        if not isinstance(data, list) or not data or not isinstance(data[0], str) or data[0] in RESERVED:
            raise ValueError("no event")
        wants_ack.set(id is not None)
        await super()._handle_event(eio_sid, namespace, id, data)


def _flow_error(error: FlowError) -> dict[str, Any]:
    view: ErrorView = error_view(error)
    told = structs.asdict(view)
    return {"error": told.pop("message"), **told}


def _size(packet: Any) -> int:
    data = getattr(packet, "data", None)
    return len(data) if isinstance(data, (str, bytes)) else 0
