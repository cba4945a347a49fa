"""HTTP/1.1 connections with limits on size, time and number; refusals are answered as problem+json."""

from asyncio import BaseTransport, TimerHandle
from collections.abc import Callable
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

import httptools
import structlog
from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.contracts.errors import (
    AddressTooLongError,
    FlowError,
    HeadersTooLargeError,
    MalformedRequestError,
    RequestTimeoutError,
    TooManyConnectionsError,
)
from app.http.connection_registry import MAX_SPARE_CONNECTIONS, ConnectionRegistry
from app.http.edge import SECURITY_HEADERS
from app.http.problems import PROBES, problem
from app.kit.descriptors import descriptor_limit

log = structlog.get_logger("http")

MAX_ADDRESS_BYTES = 65_535
"""Bytes of the target of a request; the parser does not split longer ones."""
MAX_HEADERS_BYTES = 65_536
"""Bytes of all names and values of a request, including its trailers."""
MAX_HEADERS = 100
MAX_HANDSHAKE_LINE_BYTES = 8_000
"""Bytes of one line of a WebSocket handshake; the library accepts 8,192 with names and line ends."""
MAX_DISCARDED_BYTES = 4_194_304
"""Bytes that are read after a refusal, so that a client that still sends gets the answer before the end."""


class _Phase(Enum):
    IDLE = "no request"
    HEAD = "a request line or headers that have not ended"
    BODY = "a body that has not ended"


class _RefusedError(Exception):
    """Stops the parser; the connection has the reason."""


_registries: WeakKeyDictionary[ServerState, ConnectionRegistry] = WeakKeyDictionary()


class BoundedConnection(HttpToolsProtocol):
    """A connection of uvicorn with limits.

    ``limit_concurrency`` of uvicorn's configuration is the limit of connections. Beyond it, or if file
    descriptors run out, the connection that has waited longest for its client ends. If all are at work, a few
    more are accepted for the probes of operators, and answered with 503 on other paths.
    """

    head_seconds = 15.0
    """From the start of the connection to the first byte, and from there to the end of the headers."""
    body_seconds = 30.0
    """For a body; one more second for each ``min_body_rate`` bytes received."""
    min_body_rate = 4096.0
    linger_seconds = 5.0
    """For data that a client still sends after its answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        limit, self.limit_concurrency = self.limit_concurrency, None
        self._registry = _registries.setdefault(self.server_state, ConnectionRegistry(limit))
        self._is_spare = False
        self._phase = _Phase.IDLE
        self._messages = 0
        self._awaited = (self._phase, self._messages)
        self._timer: TimerHandle | None = None
        self._address_bytes = 0
        self._header_bytes = 0
        self._unreported_bytes = 0
        self._body_bytes = 0
        self._body_began = 0.0
        self._refusal: FlowError | None = None
        self._discarded_bytes: int | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Admit the connection, as a spare one if there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._adapt_limit()
        while len(self.connections) > self._registry.limit:
            if not self._registry.make_room():
                self._is_spare = True
                self._registry.add_spare(self)
                break
        self._wait(self.head_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the registry."""
        self._stop_waiting()
        self._registry.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data within the limits."""
        if self._refusal is not None:
            self._discard(len(data))
            return
        self._unreported_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
        except httptools.HttpParserError:
            self._refuse(self._refusal or MalformedRequestError())
            return
        # The parser buffers a header until it is complete, so that its bytes are counted as they arrive.
        if self._unreported_bytes + self._header_bytes > MAX_HEADERS_BYTES + MAX_ADDRESS_BYTES:
            self._refuse(HeadersTooLargeError(MAX_HEADERS_BYTES, MAX_HEADERS))
            return
        self._settle()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol."""
        self._stop_waiting()
        self._registry.remove(self)
        super().handle_websocket_upgrade()

    def give_way(self) -> None:
        """End the connection in favour of another one."""
        if self._phase is _Phase.IDLE or self._refusal is not None:
            self._close()
        else:
            self._refuse(TooManyConnectionsError())
            self._close()
        self.connections.discard(self)
        self._registry.remove(self)

    @property
    def has_unread_data(self) -> bool:
        """True while the service has not read all that the client sent."""
        return bool(self.flow.read_paused)

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """Start counting the bytes of a request."""
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._messages += 1
        self._address_bytes = self._header_bytes = self._unreported_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Bound the target of a request."""
        self._unreported_bytes = 0
        self._address_bytes += len(url)
        if self._address_bytes > MAX_ADDRESS_BYTES:
            self._stop_parser(AddressTooLongError(MAX_ADDRESS_BYTES))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound the headers of a request."""
        self._unreported_bytes = 0
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADERS_BYTES or len(self.headers) >= MAX_HEADERS:
            self._stop_parser(HeadersTooLargeError(MAX_HEADERS_BYTES, MAX_HEADERS))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the headers of a request, and start it."""
        self._unreported_bytes = 0
        if self._is_spare and self.url.partition(b"?")[0].decode("latin-1") not in PROBES:
            self._stop_parser(TooManyConnectionsError())
        if self.parser.should_upgrade() and self._should_upgrade():
            self._check_handshake()
        super().on_headers_complete()
        self._phase = _Phase.BODY
        self._body_bytes = 0
        if self._is_spare:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Count the bytes of a body."""
        self._unreported_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the reading of a request."""
        self._unreported_bytes = 0
        super().on_message_complete()
        self._phase = _Phase.IDLE

    def on_response_complete(self) -> None:
        """Continue with the next request, or wait for one."""
        is_last = not self.pipeline
        super().on_response_complete()
        self._unset_keepalive_if_required()
        if not is_last or self.transport.is_closing():
            return
        if self._refusal is not None:
            self._answer_refusal()
        elif self._phase is _Phase.BODY:  # of the request that was answered already
            self._wait(self.linger_seconds, self._close)
        elif self._phase is _Phase.IDLE:
            self._wait(self.timeout_keep_alive, self._close)

    # Limits

    def _adapt_limit(self) -> None:
        """Lower the limit for a while if few descriptors are left: without one nobody can be accepted.

        The kernel assigns the lowest free number, so that a high one means that all below are in use.
        """
        bound = self.transport.get_extra_info("socket")
        excess = 0 if bound is None else bound.fileno() + 2 * MAX_SPARE_CONNECTIONS - descriptor_limit()
        if excess >= 0:
            self._registry.lower_limit(len(self.connections) - excess - 1)

    def _check_handshake(self) -> None:
        if len(self.url) > MAX_HANDSHAKE_LINE_BYTES:
            self._stop_parser(AddressTooLongError(MAX_HANDSHAKE_LINE_BYTES))
        if any(len(name) + len(value) > MAX_HANDSHAKE_LINE_BYTES for name, value in self.headers):
            self._stop_parser(HeadersTooLargeError(MAX_HANDSHAKE_LINE_BYTES, MAX_HEADERS))

    # Waiting for the client

    def _settle(self) -> None:
        """Wait for the next part of the client's data, if it is another part than before."""
        if self._awaited == (self._phase, self._messages):
            return
        self._awaited = (self._phase, self._messages)
        if self._phase is _Phase.HEAD:
            self._wait(self.head_seconds, self._end_late_head)
        elif self._phase is _Phase.BODY:
            self._body_began = self.loop.time()
            self._wait(self.body_seconds, self._end_late_body)
        elif self.cycle is None or self.cycle.response_complete:
            self._wait(self.timeout_keep_alive, self._close)
        else:
            self._stop_waiting()

    def _wait(self, seconds: float, late: Callable[[], None]) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, late)
        self._registry.waiting[self] = None

    def _stop_waiting(self) -> None:
        self._registry.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_late_head(self) -> None:
        self._refuse(RequestTimeoutError())

    def _end_late_body(self) -> None:
        if self.has_unread_data:
            self._body_began = self.loop.time()
            self._wait(self.body_seconds, self._end_late_body)
            return
        end = self._body_began + self.body_seconds + self._body_bytes / self.min_body_rate
        left = end - self.loop.time()
        if left > 0:
            self._wait(left, self._end_late_body)
        else:
            self._refuse(RequestTimeoutError())

    # Refusals

    def _stop_parser(self, refusal: FlowError) -> None:
        self._refusal = refusal
        raise _RefusedError

    def _refuse(self, refusal: FlowError) -> None:
        """Answer with an error after the pending answers, and end. Nothing more is parsed."""
        self._refusal = refusal
        self._stop_waiting()
        cycle = self.cycle
        if cycle is None or self.transport.is_closing():
            self._answer_refusal()
            return
        queued = [waiting for waiting, _ in self.pipeline]
        if self._phase is not _Phase.BODY:
            if cycle.response_complete:
                self._answer_refusal()
        elif cycle in queued:  # other requests come before the faulty one: they are answered first
            self.pipeline.popleft()
        elif cycle.response_started:
            self._close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._answer_refusal()

    def _answer_refusal(self) -> None:
        if self._refusal is None or self._discarded_bytes is not None or self.transport.is_closing():
            return
        self._discarded_bytes = 0
        path = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
        answer = problem(self._refusal, path)
        log.info("request refused", status=answer.status_code, code=self._refusal.code)
        headers = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            (b"x-request-id", str(uuid7()).encode()),
            (b"connection", b"close"),
            *SECURITY_HEADERS,
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", bytes(answer.body)]))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait(self.linger_seconds, self._close)

    def _discard(self, size: int) -> None:
        if self._discarded_bytes is not None:
            self._discarded_bytes += size
            if self._discarded_bytes > MAX_DISCARDED_BYTES:
                self._close()

    def _close(self) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.close()
