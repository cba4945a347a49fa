"""A subscription of a client, shared by all who read it: a state that is followed, a flow that is watched."""

import asyncio
import copy
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar

from msgspec import ValidationError, convert

from app.contracts.wire.states import FlowUpdatedEvent
from realtime.client.errors import Backoff, FlowClientError
from realtime.client.reconnecting import ReconnectingConnection
from realtime.client.requests import Requests
from realtime.client.sync import Following, StateUpdate, Stats, SyncAnswer

T = TypeVar("T")
S = TypeVar("S")

WAITING = 1000
"""A consumer that is further behind is not shown the oldest that wait."""


class Mailbox(Generic[T]):
    """The updates that one consumer has still to be shown."""

    def __init__(self) -> None:
        self._items: deque[T] = deque(maxlen=WAITING)
        self._changed = asyncio.Event()
        self._ended = False
        self._error: FlowClientError | None = None

    def put(self, item: T) -> None:
        """One more; the oldest is left out when it is one too many."""
        self._items.append(item)
        self._changed.set()

    def end(self, error: FlowClientError | None) -> None:
        """Nothing comes any more. Without an error, what waits is not shown either."""
        if error is None:
            self._items.clear()
        self._ended, self._error = True, error
        self._changed.set()

    def check(self) -> None:
        """Raise the error that it ended with, if it did."""
        if self._error is not None:
            raise copy.copy(self._error)

    async def next(self) -> T:
        """The next one. After the end its error, or StopAsyncIteration."""
        while not self._items:
            self.check()
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()


class Source(ABC, Generic[T]):
    """Something to listen to at the server, for as long as somebody reads."""

    def __init__(
        self,
        link: ReconnectingConnection,
        requests: Requests,
        body: dict[str, Any],
        ended: Callable[[], None],
    ) -> None:
        self._link = link
        self._requests = requests
        self._body = body
        self._ended = ended
        self._lines: set[Mailbox[T]] = set()
        self._wake = asyncio.Event()
        self._wake.set()
        self.listening = asyncio.Event()
        """Set once the server tells of changes, and when it never will."""
        self.task = asyncio.create_task(self._run())

    @abstractmethod
    def connected(self, now: float) -> None:
        """There is a new connection, by which the server knows of nothing yet."""

    @abstractmethod
    async def _listen(self) -> None:
        """Have the server tell, again whenever woken."""

    @abstractmethod
    def _silence(self) -> None:
        """Nobody reads any more: tell the server."""

    def join(self) -> Mailbox[T]:
        """A line for one more reader."""
        line: Mailbox[T] = Mailbox()
        self._lines.add(line)
        return line

    def leave(self, line: Mailbox[T]) -> None:
        """A reader goes; with the last one it ends."""
        if line not in self._lines:
            return
        self._lines.discard(line)
        line.end(None)
        if not self._lines:
            self._silence()
            self.finish(None)

    def finish(self, error: FlowClientError | None) -> None:
        """End, and all reading of it."""
        self._ended()
        self.listening.set()
        for line in self._lines:
            line.end(error)
        self._lines.clear()
        if self.task is not asyncio.current_task():
            self.task.cancel()

    async def told(self) -> None:
        """Wait until what the server is to know of it is on its way."""
        await self._link.posted()

    def _show(self, items: Iterable[T]) -> None:
        for item in items:
            for line in self._lines:
                line.put(item)

    async def _run(self) -> None:
        try:
            await self._listen()
        except FlowClientError as error:
            self.finish(error)


class Subscription(Source[StateUpdate | None]):
    """One state that is followed."""

    def __init__(
        self,
        link: ReconnectingConnection,
        requests: Requests,
        body: dict[str, Any],
        ended: Callable[[], None],
    ) -> None:
        self.following = Following()
        super().__init__(link, requests, body, ended)

    def join(self) -> Mailbox[StateUpdate | None]:
        """A line that begins with the present state, as soon as it is known."""
        line = super().join()
        if self.following.known:
            line.put(self.following.state)
        return line

    def connected(self, now: float) -> None:
        """Request what was missed before this connection."""
        self.following.want_sync(now)
        self._wake.set()

    def heard(self, update: StateUpdate, now: float) -> None:
        """An event of this state came."""
        self._show(self.following.event(update, now))
        if self.following.needs_sync:
            self._wake.set()

    async def _listen(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._become_level()

    async def _become_level(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        in_vain = 0
        while self.following.needs_sync:
            if in_vain > 1:  # one more sync is usual; many are not hurried
                await self._link.pause(backoff.next())
            await self._link.ready()
            sync = self.following.begin()
            body = self._body
            if sync.epoch is not None:
                body = {**body, "epoch": sync.epoch, "since": sync.since}
            if self.following.absent:
                body = {**body, "fromStart": True}
            answer = await self._requests.attempt("flow-subscribe", body, backoff)
            if answer is None:
                self.following.failed(sync.number)
                continue
            self._show(self.following.answer(sync.number, decoded(answer, SyncAnswer), loop.time()))
            if "userId" not in self._body and isinstance(answer.get("userId"), str):
                self._link.learn_user(answer["userId"])
            in_vain += 1
            self.listening.set()

    def _silence(self) -> None:
        self._link.post("flow-unsubscribe", self._body)


class Watch(Source[FlowUpdatedEvent]):
    """One flow of which all changes are told."""

    def connected(self, now: float) -> None:
        """Another connection has to watch again."""
        self._wake.set()

    def heard(self, update: FlowUpdatedEvent) -> None:
        """A change was told."""
        self._show([update])

    async def _listen(self) -> None:
        while True:
            await self._wake.wait()
            await self._link.ready()
            self._wake.clear()
            backoff = Backoff()
            while await self._requests.attempt("flow-watch", self._body, backoff) is None:
                await self._link.ready()
                self._wake.clear()
            self.listening.set()

    def _silence(self) -> None:
        self._link.post("flow-unwatch", self._body)


class Reader(Generic[T]):
    """Reads a source, with ``async for``. It ends with ``aclose()``, at the end of its ``async with``, when
    it is let go of (as a loop over it does that is left), or with the client.
    """

    def __init__(self, source: Source[T]) -> None:
        self._line = source.join()
        loop = asyncio.get_running_loop()
        self._leave = weakref.finalize(self, _leave_soon, loop, source, self._line)
        self._leave.atexit = False
        self._source = source

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self._line.next()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def ready(self) -> None:
        """Wait until no change is missed from now on. The error, if it ended with one."""
        await self._source.listening.wait()
        self._line.check()

    async def aclose(self) -> None:
        """Read no more."""
        self._leave.detach()
        self._source.leave(self._line)
        await self._source.told()


class States(Reader[StateUpdate | None]):
    """The states of a following, each once, in their order; None says that there is no state."""

    def __init__(self, source: Subscription) -> None:
        super().__init__(source)
        self._following = source.following

    @property
    def state(self) -> StateUpdate | None:
        """The newest state, also when the loop has not come to it."""
        return self._following.state

    @property
    def level(self) -> bool:
        """True if nothing is known to be missing."""
        return self._following.known and not self._following.syncing

    @property
    def stats(self) -> Stats:
        """The counters, of all who follow this state by this client."""
        return self._following.stats


def _leave_soon(loop: asyncio.AbstractEventLoop, source: Source[T], line: Mailbox[T]) -> None:
    # The garbage collector may run in any thread, and after the loop.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(source.leave, line)


def decoded(answer: Any, shape: type[S]) -> S:
    """The server's answer as a value."""
    try:
        return convert(answer, shape)
    except ValidationError as error:
        raise FlowClientError("INVALID_ANSWER", f"The server's answer is none of ours: {error}") from None
