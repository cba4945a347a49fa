"""Subscriptions of a client to states and watched flows, each shared by all of its readers."""

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

MAX_QUEUED_UPDATES = 1000
"""Updates queued for one reader; a slower reader misses the oldest ones."""


class Mailbox(Generic[T]):
    """The updates that wait for one reader."""

    def __init__(self) -> None:
        self._items: deque[T] = deque(maxlen=MAX_QUEUED_UPDATES)
        self._changed = asyncio.Event()
        self._ended = False
        self._error: FlowClientError | None = None

    def put(self, item: T) -> None:
        """Add an update. A full mailbox drops its oldest one."""
        self._items.append(item)
        self._changed.set()

    def end(self, error: FlowClientError | None) -> None:
        """End the mailbox. Without an error, the queued updates are discarded."""
        if error is None:
            self._items.clear()
        self._ended, self._error = True, error
        self._changed.set()

    def check(self) -> None:
        """Raise the error with which the mailbox ended, if there is one."""
        if self._error is not None:
            raise copy.copy(self._error)

    async def next(self) -> T:
        """Wait for the next update.

        Raises:
            FlowClientError: The mailbox ended with it.
            StopAsyncIteration: The mailbox ended without an error.
        """
        while not self._items:
            self.check()
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()


class Source(ABC, Generic[T]):
    """A subscription at the server, as long as it has readers.

    Attributes:
        subscribed: Set once the server sends changes, and when it never will.
        task: Renews the subscription on every connection.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        requests: Requests,
        body: dict[str, Any],
        on_end: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._requests = requests
        self._body = body
        self._on_end = on_end
        self._mailboxes: set[Mailbox[T]] = set()
        self._wake = asyncio.Event()
        self._wake.set()
        self.subscribed = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    @abstractmethod
    def connected(self, now: float) -> None:
        """Subscribe again: on a new connection the server knows of no subscription."""

    @abstractmethod
    async def _subscribe(self) -> None:
        """Subscribe, and again whenever woken."""

    @abstractmethod
    def _unsubscribe(self) -> None:
        """Unsubscribe at the server: the last reader has left."""

    def add_reader(self) -> Mailbox[T]:
        """Return the mailbox of a new reader."""
        mailbox: Mailbox[T] = Mailbox()
        self._mailboxes.add(mailbox)
        return mailbox

    def remove_reader(self, mailbox: Mailbox[T]) -> None:
        """Remove a reader. The subscription ends with its last one."""
        if mailbox not in self._mailboxes:
            return
        self._mailboxes.discard(mailbox)
        mailbox.end(None)
        if not self._mailboxes:
            self._unsubscribe()
            self.finish(None)

    def finish(self, error: FlowClientError | None) -> None:
        """End the subscription and all mailboxes."""
        self._on_end()
        self.subscribed.set()
        for mailbox in self._mailboxes:
            mailbox.end(error)
        self._mailboxes.clear()
        if self.task is not asyncio.current_task():
            self.task.cancel()

    async def flush(self) -> None:
        """Wait until the messages to the server are on their way."""
        await self._connection.flush()

    def _deliver(self, items: Iterable[T]) -> None:
        for item in items:
            for mailbox in self._mailboxes:
                mailbox.put(item)

    async def _run(self) -> None:
        try:
            await self._subscribe()
        except FlowClientError as error:
            self.finish(error)


class Subscription(Source[StateUpdate | None]):
    """The subscription to one state.

    ``is_shared`` returns true if another subscription is to the same state, by another of its names: the
    server knows one.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        requests: Requests,
        body: dict[str, Any],
        on_end: Callable[[], None],
        is_shared: Callable[[], bool],
    ) -> None:
        self.following = Following(body.get("entityId"))
        self._is_shared = is_shared
        super().__init__(connection, requests, body, on_end)

    @property
    def address(self) -> dict[str, Any]:
        """The members by which requests name the state."""
        entity_id = self.following.entity_id
        return self._body if entity_id is None else {**self._body, "entityId": entity_id}

    def add_reader(self) -> Mailbox[StateUpdate | None]:
        """Return the mailbox of a new reader, which begins with the present state if that is known."""
        mailbox = super().add_reader()
        if self.following.known:
            mailbox.put(self.following.state)
        return mailbox

    def connected(self, now: float) -> None:
        """Request what was missed before this connection."""
        self.following.want_sync(now)
        self._wake.set()

    def event_received(self, update: StateUpdate, now: float) -> None:
        """Apply an event of the flow and the user."""
        self._deliver(self.following.event(update, now))
        if self.following.needs_sync:
            self._wake.set()

    async def _subscribe(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._sync()

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        rounds = 0
        while self.following.needs_sync:
            if rounds > 1:  # a second sync is usual; further ones are delayed
                await self._connection.pause(backoff.next())
            await self._connection.ready()
            sync = self.following.begin()
            body = self.address
            if sync.epoch is not None:
                body = {**body, "epoch": sync.epoch, "since": sync.since}
            if self.following.absent:
                body = {**body, "fromStart": True}
            answer = await self._requests.attempt("flow-subscribe", body, backoff)
            if answer is None:
                self.following.failed(sync.number)
                continue
            self._deliver(self.following.answer(sync.number, decoded(answer, SyncAnswer), loop.time()))
            if "userId" not in self._body and isinstance(answer.get("userId"), str):
                self._connection.set_user(answer["userId"])
            rounds += 1
            self.subscribed.set()

    def _unsubscribe(self) -> None:
        if not self._is_shared():
            self._connection.send("flow-unsubscribe", self.address)


class Watch(Source[FlowUpdatedEvent]):
    """The subscription to all changes of one flow."""

    def connected(self, now: float) -> None:
        """Watch the flow on a new connection."""
        self._wake.set()

    def event_received(self, update: FlowUpdatedEvent) -> None:
        """Deliver a change of the flow."""
        self._deliver([update])

    async def _subscribe(self) -> None:
        while True:
            await self._wake.wait()
            await self._connection.ready()
            self._wake.clear()
            backoff = Backoff()
            while await self._requests.attempt("flow-watch", self._body, backoff) is None:
                await self._connection.ready()
                self._wake.clear()
            self.subscribed.set()

    def _unsubscribe(self) -> None:
        self._connection.send("flow-unwatch", self._body)


class Reader(Generic[T]):
    """An asynchronous iterator over the updates of a subscription.

    It ends with ``aclose()``, at the end of its ``async with``, when it is garbage-collected (as after a loop
    over it is left), or with the client.
    """

    def __init__(self, source: Source[T]) -> None:
        self._mailbox = source.add_reader()
        loop = asyncio.get_running_loop()
        self._finalizer = weakref.finalize(self, _remove_later, loop, source, self._mailbox)
        self._finalizer.atexit = False
        self._source = source

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self._mailbox.next()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def ready(self) -> None:
        """Wait until every later change is delivered.

        Raises:
            FlowClientError: The subscription ended with it.
        """
        await self._source.subscribed.wait()
        self._mailbox.check()

    async def aclose(self) -> None:
        """End the iteration."""
        self._finalizer.detach()
        self._source.remove_reader(self._mailbox)
        await self._source.flush()


class States(Reader[StateUpdate | None]):
    """The states of a subscription, each once and in order; None if there is no state."""

    def __init__(self, source: Subscription) -> None:
        super().__init__(source)
        self._following = source.following

    @property
    def state(self) -> StateUpdate | None:
        """The newest state, also before the iteration reaches it."""
        return self._following.state

    @property
    def level(self) -> bool:
        """True if nothing is known to be missing."""
        return self._following.known and not self._following.syncing

    @property
    def stats(self) -> Stats:
        """Counters of the subscription, which all readers of this state share."""
        return self._following.stats


def _remove_later(loop: asyncio.AbstractEventLoop, source: Source[T], mailbox: Mailbox[T]) -> None:
    # The garbage collector may run in any thread, and after the end of the loop.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(source.remove_reader, mailbox)


def decoded(answer: Any, shape: type[S]) -> S:
    """Decode an answer of the server.

    Raises:
        FlowClientError: It has another shape (INVALID_ANSWER).
    """
    try:
        return convert(answer, shape)
    except ValidationError as error:
        raise FlowClientError("INVALID_ANSWER", f"The server sent a malformed answer: {error}") from None
