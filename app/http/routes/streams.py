"""The routes for following a state without Socket.IO: catching up, and Server-Sent Events."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from msgspec import Meta, Struct, json, structs
from sse_starlette import ServerSentEvent

from app.auth.policy import Access, Permission
from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller
from app.contracts.errors import (
    EntityRequiredError,
    Fault,
    FlowError,
    FlowNotFoundError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    InvalidRequestError,
    RateLimitedError,
    SlowClientError,
)
from app.contracts.events import Resync, StateChanged
from app.contracts.positions import NOTHING_HELD, HeldPosition, held_position
from app.contracts.results import CaughtUp
from app.contracts.state import TERMINAL_STATUSES, StateId
from app.contracts.wire.encoding import encode
from app.contracts.wire.errors import error_view
from app.contracts.wire.states import (
    CaughtUpView,
    StateUpdatedEvent,
    StateView,
    caught_up_view,
    state_of_event,
    state_view,
)
from app.http.endpoint import Answer, Call, Endpoint, StateQuery
from app.http.event_stream import RETRY_MS, EventStreamResponse
from app.http.stream_caller import StreamCaller
from app.services import FlowService
from app.services.live.subscribers import LiveEvent, TopicSubscription

MAX_BACKLOG = 1000
"""Events that wait for a reader that is slower than its state."""
MAX_READERS = 50
"""Streams that one caller has of the states of one user on one worker."""
_readers: Counter[tuple[str, str]] = Counter()
"""Open streams of this process, by caller and owner."""
_POSITION = re.compile(r"(?P<epoch>[0-9a-zA-Z-]{1,64})\.(?P<revision>\d{1,15})\Z")


class PositionQuery(StateQuery, frozen=True, rename="camel"):
    """``epoch`` and ``since`` (a revision) are the position of the caller; both or none are given.

    With ``fromStart`` a caller that has no state gets the present one from its first revision.
    """

    epoch: Annotated[str, Meta(max_length=64)] | None = None
    since: Annotated[int, Meta(ge=0)] | None = None
    from_start: bool = False

    @property
    def held(self) -> HeldPosition:
        """The position of the caller. Raises InvalidRequestError."""
        return held_position(self.epoch, self.since, self.from_start)


class _Status(Struct):
    status: str


class FlowStream:
    """One reader of one state: its position, and the events after it."""

    def __init__(
        self, service: FlowService, verifier: TokenVerifier, caller: Caller, state_id: StateId
    ) -> None:
        self._service = service
        self._caller = StreamCaller(verifier, caller)
        self._state_id = state_id
        self._backlog: asyncio.Queue[LiveEvent] = asyncio.Queue()
        self._overflowed = False
        self._is_closed = False
        self._reader = (caller.user_id, state_id.user_id)
        self._subscription: TopicSubscription | None = None
        self._held = NOTHING_HELD
        self._first = CaughtUp(None)

    async def open(self, held: HeldPosition) -> None:
        """Subscribe, then read the state, so that no change is lost between. Raises FlowError."""
        _readers[self._reader] += 1
        try:
            self._subscription = await self._service.subscribers.follow_user(
                self._state_id.user_id, self._receive
            )
        except BaseException:
            self.close()
            raise
        self._held = held
        try:
            self._first = await self._catch_up()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._subscription.leave()
        if not self._is_closed:
            _readers[self._reader] -= 1
            if not _readers[self._reader]:
                del _readers[self._reader]
        self._is_closed = True

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Generate the events of the reader.

        ``flow-state`` is a whole state, ``flow-state-updated`` a change after the position, and
        ``flow-error`` the reason why the stream ends.
        """
        try:
            for event in self._replay(self._first):
                yield event
            while True:
                for event in await self._next():
                    yield event
        except FlowError as error:
            yield ServerSentEvent(event="flow-error", data=encode(error_view(error)).decode())

    async def _next(self) -> list[ServerSentEvent]:
        if self._held.from_start:  # a participant sees another life of the state only with a role on that one
            await self._service.catch_up.require_access(self._state_id, self._caller.now)
        event = await self._next_event()
        if self._overflowed:
            raise SlowClientError
        if isinstance(event, StateChanged) and event.epoch == self._held.epoch:
            if event.revision <= self._held.revision:
                return []
            if event.revision == self._held.revision + 1:
                own = await self._service.updates.for_caller(event, self._caller.now)
                if own is not None:
                    return [self._update(own)]
        elif isinstance(event, StateChanged) and event.epoch < (self._held.epoch or ""):
            return []
        return self._replay(await self._catch_up())

    async def _next_event(self) -> LiveEvent:
        """Return the next event, once the caller's token or key has been checked as long as it takes."""
        while True:
            await self._caller.check()  # also if an event waits, which ``get`` returns however late it is
            with suppress(TimeoutError):
                async with asyncio.timeout(self._caller.seconds_left):
                    return await self._backlog.get()

    def _receive(self, event: LiveEvent) -> None:
        if not isinstance(event, Resync) and event.state_id != self._state_id:
            return
        if self._backlog.qsize() < MAX_BACKLOG:
            self._backlog.put_nowait(event)
        else:
            self._overflowed = True

    async def _catch_up(self) -> CaughtUp:
        return await self._service.catch_up.for_subscriber(self._state_id, self._held, self._caller.now)

    def _replay(self, found: CaughtUp) -> list[ServerSentEvent]:
        if found.complete:
            updates = [self._update(event) for event in found.events]
            self._held = structs.replace(self._held, from_start=found.state is None)
            return updates
        if found.state is None:
            self._held = HeldPosition(from_start=True)
            return [ServerSentEvent(event="flow-state", data="null", retry=RETRY_MS)]
        return [self._start(state_view(found.state))]

    def _update(self, event: StateChanged) -> ServerSentEvent:
        if event.epoch != self._held.epoch:
            return self._start(state_of_event(json.decode(event.body, type=StateUpdatedEvent)))
        status = json.decode(event.body, type=_Status).status
        self._held = HeldPosition(event.epoch, event.revision, from_start=status in TERMINAL_STATUSES)
        return ServerSentEvent(event="flow-state-updated", data=bytes(event.body).decode(), id=self._id)

    def _start(self, state: StateView) -> ServerSentEvent:
        self._held = HeldPosition(state.epoch, state.revision, from_start=state.status in TERMINAL_STATUSES)
        data = encode(state).decode()
        return ServerSentEvent(event="flow-state", data=data, id=self._id, retry=RETRY_MS)

    @property
    def _id(self) -> str:
        return f"{self._held.epoch}.{self._held.revision}"


async def _events(call: Call) -> Answer:
    held = call.query.held
    found = await call.service.get_flow_events(
        call.owner_id, call.path["flow_id"], held, entity_id=call.query.entity_id, caller=call.caller
    )
    return Answer(caught_up_view(found))


async def _stream(call: Call) -> Answer:
    held = call.query.held
    last = call.header("last-event-id")
    if last:
        match = _POSITION.match(last)
        if match is None:
            raise InvalidRequestError(
                [Fault("/Last-Event-ID", "must be the id of an event: <epoch>.<revision>")]
            )
        held = HeldPosition(match["epoch"], int(match["revision"]), call.query.from_start)
    state_id = await call.service.identification.of(
        call.owner_id, call.path["flow_id"], call.query.entity_id, call.caller
    )
    if _readers[call.caller.user_id, state_id.user_id] >= MAX_READERS:
        raise RateLimitedError(
            f"You have {MAX_READERS} streams of this user on this worker, the maximum; close some", 5
        )
    stream = FlowStream(call.service, call.verifier, call.caller, state_id)
    await stream.open(held)
    return Answer(EventStreamResponse(stream))


_READING = (EntityRequiredError, InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError)

STREAM_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/events",
        name="getFlowEvents",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Get the changes after a position; the whole state if they cannot be proven to be complete",
        handle=_events,
        query=PositionQuery,
        answers={200: CaughtUpView},
        errors=_READING,
    ),
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/stream",
        name="streamFlowState",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Follow the state by Server-Sent Events; Last-Event-ID continues without a gap",
        handle=_stream,
        query=PositionQuery,
        request_headers=("Last-Event-ID",),
        answers={200: str},
        errors=(*_READING, RateLimitedError),
        media_type="text/event-stream",
    ),
]
