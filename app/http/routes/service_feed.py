"""The routes that a service polls: the states that wait for it, and its deliveries; and their stream."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct
from sse_starlette import ServerSentEvent

from app.auth.policy import Access, Permission
from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller
from app.contracts.errors import (
    Fault,
    FlowError,
    InsufficientPermissionsError,
    InvalidRequestError,
    RateLimitedError,
    ServiceNotFoundError,
)
from app.contracts.wire.encoding import encode
from app.contracts.wire.errors import error_view
from app.contracts.wire.service_feed import PendingStatesPage, ServiceEventsPage, pending_state_view
from app.contracts.wire.times import iso
from app.http.endpoint import Answer, Call, Endpoint
from app.http.event_stream import RETRY_MS, EventStreamResponse
from app.http.paging import page_answer
from app.http.stream_caller import StreamCaller
from app.services.integrations.feed import DeliveryFeed, FeedItem
from app.services.integrations.pending import PendingState

MAX_READERS = 20
"""Streams of one service on one worker."""
READ_SIZE = 100
_readers: Counter[str] = Counter()
"""Open streams of this process, by service."""

SequenceNumber = Annotated[int, Meta(ge=0, lt=2**53)]
PageSize = Annotated[int, Meta(ge=1, le=200, description="At most this many items.")]


class PendingQuery(Struct, frozen=True, rename="camel"):
    """``after`` is the ``next`` of the previous page. ``flowId`` and ``step`` select states."""

    after: str | None = None
    limit: PageSize = 100
    flow_id: str | None = None
    step: str | None = None


class ServiceEventsQuery(Struct, frozen=True):
    """``after`` is the sequence number of the last delivery that was read, 0 to begin with the oldest."""

    after: SequenceNumber = 0
    limit: PageSize = 100


class EventStreamQuery(Struct, frozen=True):
    """``after`` is as in the list of deliveries; ``Last-Event-ID`` takes precedence."""

    after: SequenceNumber = 0


class ServiceEventStream:
    """One reader of the deliveries of a service."""

    def __init__(
        self, feed: DeliveryFeed, verifier: TokenVerifier, alias: str, caller: Caller, after: int
    ) -> None:
        self._feed = feed
        self._alias = alias
        self._caller = StreamCaller(verifier, caller)
        self._after = after
        self._retry: int | None = RETRY_MS
        self._is_closed = False
        _readers[alias] += 1

    def close(self) -> None:
        """Count the reader no more."""
        if not self._is_closed:
            _readers[self._alias] -= 1
        self._is_closed = True

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Generate the events of the reader.

        ``service-event`` is a delivery, ``service-events-missing`` says that deliveries after the position
        are not stored any more, and ``flow-error`` is the reason why the stream ends.
        """
        try:
            while True:
                for event in await self._next():
                    yield event
        except FlowError as error:
            yield ServerSentEvent(event="flow-error", data=encode(error_view(error)).decode())

    async def _next(self) -> list[ServerSentEvent]:
        await self._caller.check()
        appended = self._feed.next_append(self._alias)
        page = await self._feed.read(self._alias, self._caller.now, after=self._after, limit=READ_SIZE)
        found = []
        if page.first is not None and page.next != self._after:
            data = encode({"first": page.first}).decode()
            found.append(self._sent("service-events-missing", data))
        for item in page.items:
            data = encode(feed_item(item)).decode()
            found.append(self._sent("service-event", data, str(item.sequence)))
        self._after = page.next
        if not found:
            await self._feed.wait(appended)
        return found

    def _sent(self, name: str, data: str, position: str | None = None) -> ServerSentEvent:
        """Return an event; the first one has the time after which to connect again."""
        retry, self._retry = self._retry, None
        return ServerSentEvent(event=name, data=data, id=position, retry=retry)


def feed_item(item: FeedItem) -> dict[str, Any]:
    """Return a FeedItemView whose event is encoded already."""
    shown: dict[str, Any] = {
        "sequence": item.sequence,
        "id": item.id,
        "type": item.type,
        "at": iso(item.at),
    }
    return {**shown, "gone": True} if item.event is None else {**shown, "event": Raw(item.event)}


async def _pending(call: Call) -> Answer:
    query: PendingQuery = call.query
    page = await call.service.integrations.pending.list_page(
        call.path["alias"],
        call.caller,
        after=query.after,
        limit=query.limit,
        flow_id=query.flow_id,
        step=query.step,
    )

    def view(item: PendingState) -> Any:
        return pending_state_view(item.state, iso(item.since))

    answer = page_answer(page.items, view, lambda item: item.place, page.next)
    return Answer({**answer.value, "complete": page.complete})


async def _events(call: Call) -> Answer:
    query: ServiceEventsQuery = call.query
    page = await call.service.integrations.feed.read(
        call.path["alias"], call.caller, after=query.after, limit=query.limit
    )
    answer: dict[str, Any] = {
        "items": [feed_item(item) for item in page.items],
        "next": page.next,
        "complete": page.first is None,
    }
    return Answer(answer if page.first is None else {**answer, "first": page.first})


async def _stream(call: Call) -> Answer:
    after, alias, feed = call.query.after, call.path["alias"], call.service.integrations.feed
    last = call.header("last-event-id")
    if last:
        if not (last.isascii() and last.isdigit() and len(last) <= 15):
            raise InvalidRequestError([Fault("/Last-Event-ID", "must be the id of an event: a number")])
        after = int(last)
    await feed.require_reader(alias, call.caller)
    if _readers[alias] >= MAX_READERS:
        raise RateLimitedError(
            f"Service {alias} has {MAX_READERS} streams on this worker, the maximum; close some", 5
        )
    stream = ServiceEventStream(feed, call.verifier, alias, call.caller, after)
    return Answer(EventStreamResponse(stream))


_READING = (InsufficientPermissionsError, ServiceNotFoundError)

SERVICE_FEED_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/services/{alias}/pending",
        name="listPendingStates",
        access=Access(Permission.SERVICE, for_services=True),
        summary="List the states that wait at the steps of a service, those that wait longest first",
        handle=_pending,
        query=PendingQuery,
        answers={200: PendingStatesPage},
        errors=_READING,
    ),
    Endpoint(
        method="GET",
        path="/api/services/{alias}/events",
        name="listServiceEvents",
        access=Access(Permission.SERVICE, for_services=True),
        summary="List the deliveries to a service after a sequence number, with their events",
        handle=_events,
        query=ServiceEventsQuery,
        answers={200: ServiceEventsPage},
        errors=_READING,
    ),
    Endpoint(
        method="GET",
        path="/api/services/{alias}/events/stream",
        name="streamServiceEvents",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Follow the deliveries to a service by Server-Sent Events; Last-Event-ID continues",
        handle=_stream,
        query=EventStreamQuery,
        request_headers=("Last-Event-ID",),
        answers={200: str},
        errors=(*_READING, RateLimitedError),
        media_type="text/event-stream",
    ),
]
