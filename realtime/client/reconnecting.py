"""The connection of a client, kept up: made again whenever it ends, each time with a token asked for
anew."""

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
    FlowClientError,
    LostError,
    retry_after,
    unreachable,
)

log = logging.getLogger("realtime.client")

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what gives one; asked at every connect."""

CONNECT_SECONDS = 10.0
WARN_SECONDS = 10.0
"""So long without a connection is worth a warning."""
REFUSALS = 3
"""So many final refusals in a row, each of a token asked for anew, end the client."""


class Listener(Protocol):
    """The listener of a link; never before an event that came earlier."""

    def connected(self) -> None:
        """There is a connection (again)."""

    def heard(self, event: str, body: Any) -> None:
        """An event came."""

    def failed(self, error: FlowClientError) -> None:
        """There will be no connection any more."""


class Outage:
    """The time without a connection. A long one is logged, once."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._warned = False

    def go_on(self, error: FlowClientError, now: float) -> None:
        """Note that there is still no connection."""
        if self._since is None:
            self._since = now
        if now - self._since >= WARN_SECONDS and not self._warned:
            self._warned = True
            log.warning("no connection: %s", error)

    def end(self) -> None:
        """Note that there is a connection."""
        self._since, self._warned = None, False


class ReconnectingConnection:
    """Keeps one connection up until it is closed, or refused for good."""

    def __init__(self, url: str, token: Token, device: str | None, listener: Listener) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https", "ws", "wss"} or not parts.netloc:
            raise ValueError(f"not a server's address: {url}")
        self.user: str | None = None
        """The user of the token; known once there was a connection."""
        self._subject: str | None = None
        self.failure: FlowClientError | None = None
        self.trouble: FlowClientError | None = None
        """Why there is no connection now."""
        self._url = url
        self._address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self._token = token
        self._device = device
        self._listener = listener
        self._wire: Connection | None = None
        self._changed = asyncio.Event()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._posts: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """End the connection; whatever waits for an answer fails with CLOSED."""
        self._give_up(FlowClientError("CLOSED", "The client is closed"))
        await end_tasks(task for task in (self._task, *self._posts) if task is not None)

    async def call(self, event: str, body: dict[str, Any], seconds: float) -> Any:
        """The answer to one event, sent once, as soon as there is a connection. LostError when that
        ended first, TimeoutError when no answer came in time."""
        return await (await self._connection()).ask(event, body, seconds)

    async def ready(self) -> None:
        """Wait for a connection."""
        await self._connection()

    def post(self, event: str, body: dict[str, Any]) -> None:
        """Send an event whose answer does not matter, if there is a connection."""
        if self._wire is not None:
            task = asyncio.create_task(_tell(self._wire, event, body))
            self._posts.add(task)
            task.add_done_callback(self._posts.discard)

    async def posted(self) -> None:
        """Wait until all that was posted is on its way."""
        await asyncio.gather(*self._posts)

    def drop(self) -> None:
        """End this connection and make another, with a new token."""
        if self._wire is not None:
            self._wire.end()

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the link."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    # One connection after the other

    async def _connection(self) -> Connection:
        while self._wire is None:
            if self.failure is not None:
                raise copy.copy(self.failure)
            await self._changed.wait()
        return self._wire

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        refusals, delay = 0, 0.0
        outage = Outage()
        while True:
            wire = Connection(self)
            try:
                refusal = await self._open(wire)
                if wire.connected_once:
                    refusals, began = 0, loop.time()
                    outage.end()
                    await wire.ended.wait()
                    # One that ends at once does not make the delays short again.
                    if loop.time() - began > delay:
                        backoff.reset()
            finally:
                await wire.discard()
            delay = backoff.next()
            if refusal is not None:
                self.trouble = refusal
                outage.go_on(refusal, loop.time())
                delay = retry_after(refusal) or delay
                refusals += not refusal.retryable
                if refusals >= REFUSALS:
                    self._give_up(refusal)
                    self._listener.failed(refusal)
                    return
            await asyncio.sleep(delay)

    def learn_user(self, user: str) -> None:
        """Take the user that the server names, which another claim than ``sub`` may give.

        Events that came before were not taken for its own, so that everything is caught up with.
        """
        if user != self.user:
            self.user = user
            self._listener.heard("flow-resync", {"reason": "user"})

    async def _open(self, wire: "Connection") -> FlowClientError | None:
        """Connect; why there is no connection, if there is none."""
        try:
            token = await self._ask_for_token()
            subject = _subject(token)
            if subject != self._subject:
                self.user = self._subject = subject
            auth = {"token": token} if self._device is None else {"token": token, "device": self._device}
            async with asyncio.timeout(CONNECT_SECONDS):
                return await wire.open(self._url, auth)
        except FlowClientError as error:
            return error
        except TimeoutError:
            return unreachable(self._address, TimeoutError(f"no answer in {CONNECT_SECONDS:g} s"))
        except Exception as error:  # noqa: BLE001 - whatever keeps it from connecting, it tries again
            return unreachable(self._address, error)

    async def _ask_for_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                token = self._token()
                token = await token if inspect.isawaitable(token) else token
            if not isinstance(token, str):
                raise TypeError(f"a token is text, and not {type(token).__name__}")
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            name = type(error).__name__
            log.warning("the token callback failed: %s", name)
            raise _no_token(f"{name}: {error}".removesuffix(": ")) from error
        return token

    def _give_up(self, error: FlowClientError) -> None:
        if self.failure is None:
            self.failure = error
        self._over.set()
        self._changed.set()

    def wire_connected(self, wire: "Connection") -> None:
        """Called by the wire, before any event that comes by it."""
        self._wire, self.trouble = wire, None
        self._changed.set()
        self._listener.connected()

    def wire_heard(self, event: str, body: Any) -> None:
        """Called by the wire."""
        self._listener.heard(event, body)

    def wire_ended(self, wire: "Connection") -> None:
        """Called by the wire."""
        if self._wire is wire:
            self._wire = None
            if self.failure is None:
                self._changed.clear()


def _no_token(why: str) -> FlowClientError:
    return FlowClientError("TOKEN_UNAVAILABLE", f"The token callback failed: {why}", True)


async def _tell(wire: Connection, event: str, body: dict[str, Any]) -> None:
    with suppress(LostError):
        await wire.tell(event, body)


def _subject(token: str) -> str | None:
    """The user of a token, as far as it is a JWT; the server says whether it is a good one."""
    try:
        body = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["sub"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None
