"""One connection of a client, and all overrides of python-socketio's client.

``tests/unit/test_socketio_overrides.py`` compares them with the installed version.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import aiohttp
import socketio
from engineio.base_client import connected_clients
from socketio.packet import Packet

from app.kit.tasks import end_tasks
from realtime.client.errors import ConnectionLostError, FlowClientError, error_in
from realtime.client.outgoing import announced_limit, check_size
from realtime.json_packets import Json

_library_log = logging.getLogger("realtime.client.socketio")
_library_log.setLevel(logging.ERROR)  # it warns of every connection that ends

DISCONNECT_TIMEOUT_SECONDS = 2.0

_LOST = object()


class ConnectionListener(Protocol):
    """Receives what happens on a connection, in the order in which packets arrived."""

    def connection_established(self, connection: "Connection") -> None:
        """The server has accepted the connection."""

    def event_received(self, event: str, body: Any) -> None:
        """An event has arrived."""

    def connection_ended(self, connection: "Connection") -> None:
        """The connection has ended."""


class FlowPacket(Packet):  # type: ignore[misc]
    """Packets in the service's JSON, which is not replaced for the whole process."""

    json = Json
    uses_binary_events = False  # no event has binary parts


class HandshakeRecorder(aiohttp.ClientWebSocketResponse):
    """A WebSocket that records its first packet: python-engineio discards the server's limit of messages."""

    handshake: object = None

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        """Receive the next message."""
        message = await super().receive(timeout)
        if self.handshake is None:
            self.handshake = message.data
        return message


class Connection(socketio.AsyncClient):  # type: ignore[misc]
    """A connection that is used once.

    It counts as ended at the first sign of that. ``discard`` then releases everything, in whatever state the
    connection is: python-socketio ends it in several steps, and not at all if connecting failed.
    """

    def __init__(self, listener: ConnectionListener) -> None:
        self._http_session = aiohttp.ClientSession(ws_response_class=HandshakeRecorder)
        super().__init__(
            reconnection=False,
            handle_sigint=False,
            serializer=FlowPacket,
            http_session=self._http_session,
            logger=_library_log,
            engineio_logger=_library_log,
        )
        loop = asyncio.get_running_loop()
        self.was_established = False
        self.ended = asyncio.Event()
        self._outcome: asyncio.Future[Exception | None] = loop.create_future()
        self._pending_requests: set[asyncio.Future[Any]] = set()
        self._listener = listener
        # Plain functions: python-socketio calls them in the order in which packets arrived.
        self.on("connect", self._on_connect)
        self.on("connect_error", self._on_connect_error)
        self.on("disconnect", self.end)
        self.on("*", self._on_event)

    async def open(self, url: str, auth: dict[str, str]) -> FlowClientError | None:
        """Connect, and return the server's refusal, if it refuses.

        Raises:
            Exception: Whatever else prevents the connection.
        """
        # The library's own wait would miss an end that comes right after the connection.
        await self.connect(url, auth=auth, transports=["websocket"], namespaces=["/"], wait=False)
        self.eio.read_loop_task.add_done_callback(self.end)
        outcome = await self._outcome
        if outcome is None or isinstance(outcome, FlowClientError):
            return outcome
        raise outcome

    async def request(self, event: str, body: dict[str, Any], timeout_seconds: float) -> Any:
        """Emit an event and wait for its ack.

        Raises:
            FlowClientError: The message is too large (PAYLOAD_TOO_LARGE).
            ConnectionLostError: The connection has ended before the ack.
            TimeoutError: No ack in time.
        """
        check_size(event, body, announced_limit(getattr(self.eio.ws, "handshake", None)))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def acknowledged(answer: Any = None, *_: object) -> None:
            if not future.done():
                future.set_result(answer)

        self._pending_requests.add(future)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.emit_event(event, body, acknowledged)
                answer = await future
        finally:
            self._pending_requests.discard(future)
        if answer is _LOST:
            raise ConnectionLostError
        return answer

    async def emit_event(
        self, event: str, body: dict[str, Any], callback: Callable[..., None] | None = None
    ) -> None:
        """Emit an event.

        Raises:
            ConnectionLostError: The connection has ended.
        """
        if self.ended.is_set():
            raise ConnectionLostError
        await self.emit(event, body, callback=callback)

    def end(self, *_: object) -> None:
        """Mark the connection as ended: pending requests fail, and the listener is notified."""
        if self.ended.is_set():
            return
        self.ended.set()
        if not self._outcome.done():
            self._outcome.set_result(ConnectionError("the connection ended before the server accepted it"))
        self._listener.connection_ended(self)
        for future in self._pending_requests:
            if not future.done():
                future.set_result(_LOST)

    async def discard(self) -> None:
        """Release all tasks and sockets of the connection."""
        self.end()
        with suppress(Exception):
            async with asyncio.timeout(DISCONNECT_TIMEOUT_SECONDS):
                await self.disconnect()
        loops = (self.eio.read_loop_task, self.eio.write_loop_task)
        await end_tasks(task for task in loops if task is not None)
        with suppress(ValueError):
            connected_clients.remove(self.eio)
        await self._http_session.close()

    async def _handle_disconnect(self, namespace: str) -> None:
        # Sent by the server. ``discard`` does the rest, where it can be awaited.
        self.end()

    def _on_connect(self) -> None:
        if not self._outcome.done():
            self.was_established = True
            self._outcome.set_result(None)
            self._listener.connection_established(self)

    def _on_connect_error(self, refusal: Any = None) -> None:
        if isinstance(refusal, dict) and not self._outcome.done():
            self._outcome.set_result(_refusal(refusal))

    def _on_event(self, event: str, *bodies: Any) -> None:
        if not self.ended.is_set():
            self._listener.event_received(event, bodies[0] if bodies else None)


def _refusal(answer: dict[str, Any]) -> Exception:
    """Decode a refusal. One without a code of the service, such as a proxy's, is a ConnectionError."""
    data = answer.get("data")
    if isinstance(data, dict) and "code" in data:
        return error_in(data)
    return ConnectionError(f"refused: {answer.get('message')}")
