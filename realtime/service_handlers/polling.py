"""Polling: the deliveries of a service after a remembered position, or the states that wait for it."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from realtime.consumer.events import MalformedEntryError, StreamEvent, event_of
from realtime.service_handlers.api import ServiceApi, ServiceApiError, retry_delay
from realtime.service_handlers.handlers import ENTERED

log = logging.getLogger("realtime.service_handlers")

PAGE_SIZE = 100
CONCURRENCY = 8

Process = Callable[[StreamEvent], Awaitable[None]]
"""Handles an event and sends the answer to it."""


class PositionStore(Protocol):
    """The remembered position of a service among its deliveries."""

    async def load(self) -> int:
        """Return the position, 0 if there is none."""

    async def save(self, position: int) -> None:
        """Store a position."""


class PositionFile:
    """A position in a file, which is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> int:
        """Return the position, 0 if there is no file."""
        return int(self._path.read_text()) if self._path.exists() else 0

    async def save(self, position: int) -> None:
        """Store a position."""
        written = self._path.with_name(f"{self._path.name}.partial")
        written.write_text(str(position))
        written.replace(self._path)


class DeliveryPoller:
    """Reads the deliveries of a service, and remembers its position when all before it are handled.

    States are handled at a time, the events of one state in order. The position waits for the events whose
    handlers fail, which are handled again.
    """

    def __init__(
        self, api: ServiceApi, process: Process, position: PositionStore, idle_seconds: float
    ) -> None:
        self._api, self._process, self._position = api, process, position
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def run(self) -> None:
        """Read until the task is cancelled."""
        after = await self._position.load()
        while True:
            page = await _until_answered(partial(self._api.events, after, PAGE_SIZE))
            if page.get("complete") is False:
                log.warning("deliveries missed", extra={"after": after, "first": page.get("first")})
            await self._handle(page["items"])
            if page["next"] != after:
                after = page["next"]
                await self._position.save(after)
            if len(page["items"]) < PAGE_SIZE:
                await asyncio.sleep(self._idle_seconds)

    async def _handle(self, items: list[dict[str, Any]]) -> None:
        states: dict[Any, list[StreamEvent]] = {}
        for item in items:
            try:
                event = event_of(msgspec.json.encode(item.get("event")))
            except MalformedEntryError as error:
                error.add_note(f"in the delivery {item.get('sequence')}, whose event may be gone")
                log.error("delivery without an event", exc_info=error)
                continue
            states.setdefault(event.state, []).append(event)
        async with asyncio.TaskGroup() as group:
            for events in states.values():
                group.create_task(self._handle_state(events))

    async def _handle_state(self, events: list[StreamEvent]) -> None:
        for event in events:
            failures = 0
            while True:
                async with self._slots:
                    if await attempted(self._process, event):
                        break
                await asyncio.sleep(retry_delay(failures))
                failures += 1


class PendingPoller:
    """Reads the states that wait for a service, and has each of them handled as if it entered its step now.

    It remembers nothing but what failed: a state is in the list until it goes on.
    """

    def __init__(self, api: ServiceApi, process: Process, idle_seconds: float) -> None:
        self._api, self._process = api, process
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._failures: dict[str, tuple[int, float]] = {}

    async def run(self) -> None:
        """Read until the task is cancelled."""
        while True:
            after: str | None = None
            before, self._failures = self._failures, {}
            while True:
                page = await _until_answered(partial(self._api.pending, after, PAGE_SIZE))
                async with asyncio.TaskGroup() as group:
                    for item in page["items"]:
                        event = event_of_waiting(item)
                        group.create_task(self._handle(event, before.get(event.id, (0, 0.0))))
                after = page.get("next")
                if after is None:
                    break
            await asyncio.sleep(self._idle_seconds)

    async def _handle(self, event: StreamEvent, failed: tuple[int, float]) -> None:
        failures, retry_at = failed
        loop = asyncio.get_running_loop()
        async with self._slots:
            is_due = loop.time() >= retry_at
            if is_due and await attempted(self._process, event):
                return
        if is_due:
            failures, retry_at = failures + 1, loop.time() + retry_delay(failures)
        self._failures[event.id] = failures, retry_at


async def attempted(process: Process, event: StreamEvent) -> bool:
    """Process an event. Returns false, and logs the error, if that fails."""
    try:
        await process(event)
    except Exception as error:
        error.add_note(f"while the event {event.id} of type {event.type} was handled")
        log.warning("event handler failed", exc_info=error)
        return False
    return True


def event_of_waiting(state: dict[str, Any]) -> StreamEvent:
    """Return an event for a state that waits. Its id is the same as long as the state does not change."""
    names = ("flow", "userId", "entityId", "epoch", "revision")
    place = msgspec.json.encode([state.get(name) for name in names])
    return StreamEvent(
        id=f"pending_{hashlib.sha256(place).hexdigest()[:32]}",
        type=ENTERED,
        data={**state, "flowId": state["flow"]},
        time=state["since"],
    )


async def _until_answered(request: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Repeat a request until the server answers. A refused credential may be a new one the next time."""
    failures = 0
    while True:
        try:
            return await request()
        except ServiceApiError as error:
            log.warning("polling failed: %s", error)
        await asyncio.sleep(retry_delay(failures))
        failures += 1
