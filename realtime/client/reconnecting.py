"""A connection that is made again whenever it ends, each time with a newly requested token."""

import asyncio
import base64
import copy
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from app.kit.tasks import end_tasks
from realtime.client.connection import Connection
from realtime.client.errors import (
    Backoff,
    ConnectionLostError,
    FlowClientError,
    retry_after,
    unreachable,
)

log = logging.getLogger("realtime.client")

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or a callback that returns one. It is called for every connection."""

CONNECT_TIMEOUT_SECONDS = 10.0
WARN_SECONDS = 10.0
"""An outage of this length is logged."""
MAX_REFUSALS = 3
"""Final refusals in a row, each of a newly requested token, after which the client ends."""


class Listener(Protocol):
    """Receives what happens, in the order in which it happened."""

    def connected(self) -> None:
        """A connection was established, for the first time or again."""

    def event_received(self, event: str, body: Any) -> None:
        """An event has arrived."""

    def failed(self, error: FlowClientError) -> None:
        """The connection failed for good."""


class Outage:
    """The time without a connection. A long one is logged, once."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._warned = False

    def record_failure(self, error: FlowClientError, now: float) -> None:
        """Record that a connection could not be made."""
        if self._since is None:
            self._since = now
        if now - self._since >= WARN_SECONDS and not self._warned:
            self._warned = True
            log.warning("no connection: %s", error)

    def end(self) -> None:
        """Record that a connection was established."""
        self._since, self._warned = None, False


class ReconnectingConnection:
    """One connection at a time, until it is closed or refused for good.

    Attributes:
        user: The user of the token; known once there was a connection.
        failure: The error with which the connection ended for good.
        last_error: The reason why there is no connection now.
    """

    def __init__(self, url: str, token: Token, device: str | None, listener: Listener) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https", "ws", "wss"} or not parts.netloc:
            raise ValueError(f"the server's address must be a URL such as https://flows.example.org: {url}")
        self.user: str | None = None
        self._subject: str | None = None
        self.failure: FlowClientError | None = None
        self.last_error: FlowClientError | None = None
        self._url = url
        self._address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self._token = token
        self._device = device
        self._listener = listener
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Start to connect, in the background."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the connection. Pending requests fail with CLOSED."""
        self._fail(FlowClientError("CLOSED", "The client is closed"))
        await end_tasks(task for task in (self._task, *self._sending) if task is not None)

    async def request(self, event: str, body: dict[str, Any], timeout_seconds: float) -> Any:
        """Send an event once, as soon as there is a connection, and return its answer.

        Raises:
            FlowClientError: The connection failed for good, or the message is too large.
            ConnectionLostError: The connection ended before the answer.
            TimeoutError: No answer in time.
        """
        return await (await self._established()).request(event, body, timeout_seconds)

    async def ready(self) -> None:
        """Wait for a connection."""
        await self._established()

    def send(self, event: str, body: dict[str, Any]) -> None:
        """Send an event whose answer does not matter, if there is a connection."""
        if self._connection is not None:
            task = asyncio.create_task(_emit(self._connection, event, body))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def flush(self) -> None:
        """Wait until all events of ``send`` are on their way."""
        await asyncio.gather(*self._sending)

    def reconnect(self) -> None:
        """End this connection and make another one with a new token."""
        if self._connection is not None:
            self._connection.end()

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the client."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def _established(self) -> Connection:
        while self._connection is None:
            if self.failure is not None:
                raise copy.copy(self.failure)
            await self._changed.wait()
        return self._connection

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        refusals, delay = 0, 0.0
        outage = Outage()
        while True:
            connection = Connection(self)
            try:
                refusal = await self._open(connection)
                if connection.was_established:
                    refusals, established_at = 0, loop.time()
                    outage.end()
                    await connection.ended.wait()
                    # A connection that ends at once does not reset the delays.
                    if loop.time() - established_at > delay:
                        backoff.reset()
            finally:
                await connection.discard()
            delay = backoff.next()
            if refusal is not None:
                self.last_error = refusal
                outage.record_failure(refusal, loop.time())
                delay = retry_after(refusal) or delay
                refusals += not refusal.retryable
                if refusals >= MAX_REFUSALS:
                    self._fail(refusal)
                    self._listener.failed(refusal)
                    return
            await asyncio.sleep(delay)

    def set_user(self, user: str) -> None:
        """Set the user that the server names, which another claim than ``sub`` may give.

        Earlier events were not recognized as the user's own, so all subscriptions are synced again.
        """
        if user != self.user:
            self.user = user
            self._listener.event_received("flow-resync", {"reason": "user"})

    async def _open(self, connection: Connection) -> FlowClientError | None:
        """Connect; return the error if that fails."""
        try:
            token = await self._request_token()
            subject = _subject(token)
            if subject != self._subject:
                self.user = self._subject = subject
            auth = {"token": token} if self._device is None else {"token": token, "device": self._device}
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                return await connection.open(self._url, auth)
        except FlowClientError as error:
            return error
        except TimeoutError:
            return unreachable(self._address, TimeoutError(f"no answer in {CONNECT_TIMEOUT_SECONDS:g} s"))
        except Exception as error:  # noqa: BLE001 - whatever prevents the connection, it is tried again
            return unreachable(self._address, error)

    async def _request_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                token = self._token()
                token = await token if inspect.isawaitable(token) else token
            if not isinstance(token, str):
                raise TypeError(f"a token must be a str, not {type(token).__name__}")
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            name = type(error).__name__
            log.warning("the token callback failed: %s", name)
            raise _token_unavailable(f"{name}: {error}".removesuffix(": ")) from error
        return token

    def _fail(self, error: FlowClientError) -> None:
        if self.failure is None:
            self.failure = error
        self._closed.set()
        self._changed.set()

    # ConnectionListener

    def connection_established(self, connection: Connection) -> None:
        """Use a new connection, before any event that arrives on it."""
        self._connection, self.last_error = connection, None
        self._changed.set()
        self._listener.connected()

    def event_received(self, event: str, body: Any) -> None:
        """Pass an event on."""
        self._listener.event_received(event, body)

    def connection_ended(self, connection: Connection) -> None:
        """Stop using a connection that has ended."""
        if self._connection is connection:
            self._connection = None
            if self.failure is None:
                self._changed.clear()


def _token_unavailable(reason: str) -> FlowClientError:
    return FlowClientError("TOKEN_UNAVAILABLE", f"The token callback failed: {reason}", True)


async def _emit(connection: Connection, event: str, body: dict[str, Any]) -> None:
    with suppress(ConnectionLostError):
        await connection.emit_event(event, body)


def _subject(token: str) -> str | None:
    """Return the ``sub`` of a JWT, unverified: the server decides whether the token is valid."""
    try:
        body = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["sub"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None
