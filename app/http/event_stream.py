"""Answers of Server-Sent Events, which last until the client leaves."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

log = structlog.get_logger("http")

SEND_TIMEOUT_SECONDS = 30.0
PING_SECONDS = 15
RETRY_MS = 1000
"""The time after which clients connect again."""


class EventStream(Protocol):
    """The events of one reader."""

    def events(self) -> AsyncIterator[ServerSentEvent]:
        """Generate the events."""

    def close(self) -> None:
        """Release what the reader uses; it may be closed twice."""


class EventStreamResponse(EventSourceResponse):
    """The answer with a stream, which is closed however it ends."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(stream.events(), ping=PING_SECONDS, send_timeout=SEND_TIMEOUT_SECONDS)
        self._stream = stream
        self.on_end: Callable[[], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it or the client ends."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("slow stream reader disconnected", path=scope["path"])
        finally:
            self._stream.close()
            if self.on_end is not None:
                self.on_end()
