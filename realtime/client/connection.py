"""One connection of a client, from its beginning to its end, on python-socketio's client."""

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
from realtime.client.errors import FlowClientError, LostError, error_in
from realtime.client.outgoing import announced_limit, check_size
from realtime.json_packets import Json

_library_log = logging.getLogger("realtime.client.socketio")
_library_log.setLevel(logging.ERROR)  # it warns of every connection that ends

END_SECONDS = 2.0

_LOST = object()


class ConnectionListener(Protocol):
    """The listener of a wire, in the order in which messages came."""

    def wire_connected(self, wire: "Connection") -> None:
        """It is connected."""

    def wire_heard(self, event: str, body: Any) -> None:
        """An event came."""

    def wire_ended(self, wire: "Connection") -> None:
        """It ended."""


class FlowPacket(Packet):  # type: ignore[misc]
    """Our JSON, without changing it for all of the process; no event has binary parts."""

    json = Json
    uses_binary_events = False


class _Socket(aiohttp.ClientWebSocketResponse):
    """Keeps the first packet, of which python-engineio does not keep the server's limit of messages."""

    first: object = None

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        message = await super().receive(timeout)
        if self.first is None:
            self.first = message.data
        return message


class Connection(socketio.AsyncClient):  # type: ignore[misc]
    """One connection, once. It ends for its keeper at the first sign; ``discard`` then leaves nothing of it,
    however far it came: python-socketio ends it in pieces, and not at all where connecting failed.
    """

    def __init__(self, keeper: ConnectionListener) -> None:
        self._session = aiohttp.ClientSession(ws_response_class=_Socket)
        super().__init__(
            reconnection=False,
            handle_sigint=False,
            serializer=FlowPacket,
            http_session=self._session,
            logger=_library_log,
            engineio_logger=_library_log,
        )
        loop = asyncio.get_running_loop()
        self.connected_once = False
        self.ended = asyncio.Event()
        self._opened: asyncio.Future[Exception | None] = loop.create_future()
        self._asked: set[asyncio.Future[Any]] = set()
        self._keeper = keeper
        # These are plain functions: python-socketio calls them in the order in which packets came.
        self.on("connect", self._on_connect)
        self.on("connect_error", self._on_connect_error)
        self.on("disconnect", self.end)
        self.on("*", self._on_event)

    async def open(self, url: str, auth: dict[str, str]) -> FlowClientError | None:
        """Connect; the server's refusal, if it is one. Raises what else kept it from connecting."""
        # Its own waiting would miss an end that comes right after the connection.
        await self.connect(url, auth=auth, transports=["websocket"], namespaces=["/"], wait=False)
        self.eio.read_loop_task.add_done_callback(self.end)
        outcome = await self._opened
        if outcome is None or isinstance(outcome, FlowClientError):
            return outcome
        raise outcome

    async def ask(self, event: str, body: dict[str, Any], seconds: float) -> Any:
        """Send an event and wait for its answer. Raises FlowClientError for a message that is too large."""
        check_size(event, body, announced_limit(getattr(self.eio.ws, "first", None)))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(answer: Any = None, *_: object) -> None:
            if not future.done():
                future.set_result(answer)

        self._asked.add(future)
        try:
            async with asyncio.timeout(seconds):
                await self.tell(event, body, answered)
                answer = await future
        finally:
            self._asked.discard(future)
        if answer is _LOST:
            raise LostError
        return answer

    async def tell(
        self, event: str, body: dict[str, Any], callback: Callable[..., None] | None = None
    ) -> None:
        """Send an event; LostError when the connection has ended."""
        if self.ended.is_set():
            raise LostError
        await self.emit(event, body, callback=callback)

    def end(self, *_: object) -> None:
        """It is of no use any more: no answer comes, and its keeper makes another."""
        if self.ended.is_set():
            return
        self.ended.set()
        if not self._opened.done():
            self._opened.set_result(ConnectionError("the connection ended before the server accepted it"))
        self._keeper.wire_ended(self)
        for future in self._asked:
            if not future.done():
                future.set_result(_LOST)

    async def discard(self) -> None:
        """Leave no task and no socket of it."""
        self.end()
        with suppress(Exception):
            async with asyncio.timeout(END_SECONDS):
                await self.disconnect()
        loops = (self.eio.read_loop_task, self.eio.write_loop_task)
        await end_tasks(task for task in loops if task is not None)
        with suppress(ValueError):
            connected_clients.remove(self.eio)
        await self._session.close()

    async def _handle_disconnect(self, namespace: str) -> None:
        # Sent by the server. The rest of the ending is done in ``discard``, where it is waited for.
        self.end()

    def _on_connect(self) -> None:
        if not self._opened.done():
            self.connected_once = True
            self._opened.set_result(None)
            self._keeper.wire_connected(self)

    def _on_connect_error(self, refusal: Any = None) -> None:
        if isinstance(refusal, dict) and not self._opened.done():
            self._opened.set_result(_refusal(refusal))

    def _on_event(self, event: str, *bodies: Any) -> None:
        if not self.ended.is_set():
            self._keeper.wire_heard(event, bodies[0] if bodies else None)


def _refusal(told: dict[str, Any]) -> Exception:
    """A refusal with a code of ours. Any other one, such as a proxy's, does not speak for the server."""
    data = told.get("data")
    if isinstance(data, dict) and "code" in data:
        return error_in(data)
    return ConnectionError(f"refused: {told.get('message')}")
