"""python-socketio's server with what it leaves open: bounds on what a client may send before and
instead of events."""

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import socketio
import structlog

from config.log import describe

log = structlog.get_logger("sockets")

CONNECT_SECONDS = 10.0
RESERVED = {"connect", "disconnect", "*"}
BINARY = ("5", "6")

wants_ack: ContextVar[bool] = ContextVar("wants_ack", default=True)
"""Whether the client waits for an ack of the event at hand, which python-socketio keeps from handlers."""


class Server(socketio.AsyncServer):  # type: ignore[misc]
    """A client that sends what is no event of ours, or never says who it is, is disconnected."""

    def __init__(self, **options: Any) -> None:
        quiet = logging.getLogger("socketio")
        super().__init__(logger=quiet, engineio_logger=logging.getLogger("engineio"), **options)
        self._strangers: set[asyncio.Task[None]] = set()

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        task = asyncio.create_task(self._expect_connect(eio_sid))
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    async def _expect_connect(self, eio_sid: str) -> None:
        await asyncio.sleep(CONNECT_SECONDS)
        if eio_sid in self.environ and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            await self.eio.disconnect(eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        try:
            if not isinstance(data, str) or data.startswith(BINARY):  # no event has binary parts
                raise ValueError("binary")
            await super()._handle_eio_message(eio_sid, data)
        except Exception as error:  # noqa: BLE001 - whatever a client sends
            log.warning("client sent no event of ours", **describe(error))
            await self.eio.disconnect(eio_sid)

    async def _handle_event(self, eio_sid: str, namespace: str, id: Any, data: Any) -> None:  # noqa: A002
        if not isinstance(data, list) or not data or not isinstance(data[0], str) or data[0] in RESERVED:
            raise ValueError("no event")
        wants_ack.set(id is not None)
        await super()._handle_event(eio_sid, namespace, id, data)
