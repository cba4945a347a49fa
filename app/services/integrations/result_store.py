"""Stores the results of many lanes of an integration together, with few commands."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import structlog
from msgspec import Struct, structs

from app.contracts.deliveries import DeadLetter
from app.contracts.errors import BusUnavailableError, StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.ports.deliveries import DeadLetters, DeliveryLanes, DeliveryLog
from app.contracts.ports.transports import EventStreams
from app.services.integrations.lane_result import LaneResult
from config.log import describe

log = structlog.get_logger("deliveries")

MAX_CHUNK = 200
"""The largest number of events or lanes in a command."""
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 5.0
LETTERS_LOGGED_EVERY_SECONDS = 60.0

T = TypeVar("T")


class ResultPorts(Struct, frozen=True):
    """The stores and the transport that results go to.

    ``on_logged`` receives the alias of an integration after deliveries were appended to its log, ``renew`` a
    letter after it was stored, as its event may have been erased from the history meanwhile.
    ``seals_streams``: events are sealed before they are appended to a stream.
    """

    lanes: DeliveryLanes
    log: DeliveryLog
    letters: DeadLetters
    streams: EventStreams
    renew: Callable[[DeadLetter], Awaitable[None]]
    on_logged: Callable[[str], None] = lambda _: None
    seals_streams: bool = False


class ResultStore:
    """Stores results of an integration: those that arrive while others are stored go together.

    First the events are appended to the stream, then to the log, then the lanes are released, so that a
    crash between them repeats events and loses none. While a store or Redis is unavailable, the results wait,
    and ``stalled`` is true: no more lanes should be claimed.

    Args:
        ports: The stores.
        integration: Returns the integration as it is registered now.
        clock: The present time.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        ports: ResultPorts,
        integration: Callable[[], Integration],
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._ports = ports
        self._alias = integration().alias
        self._integration = integration
        self._clock = clock
        self._random = random
        self._queue: list[tuple[LaneResult, asyncio.Future[bool]]] = []
        self._added = asyncio.Event()
        self._letters_logged_at = float("-inf")
        self._unlogged_letters = 0
        self._ended = False
        self.stalled = False

    async def store(self, result: LaneResult) -> bool:
        """Store a result and release its lane. Returns false if it cannot be stored."""
        if self._ended:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((result, done))
        self._added.set()
        return await done

    async def run(self) -> None:
        """Store results until cancelled. Those that remain are not stored: their claims end by themselves."""
        batch: list[tuple[LaneResult, asyncio.Future[bool]]] = []
        try:
            while True:
                await self._added.wait()
                self._added.clear()
                batch, self._queue = self._queue, []
                await self._store_batch(batch)
        finally:
            self._ended = True
            for _, done in (*batch, *self._queue):
                if not done.done():
                    done.set_result(False)

    async def _store_batch(self, batch: list[tuple[LaneResult, asyncio.Future[bool]]]) -> None:
        stored = await self._try([result for result, _ in batch])
        for result, done in batch:
            alone = stored or (len(batch) > 1 and await self._try([result]))
            if not done.done():
                done.set_result(alone)

    async def _try(self, results: Sequence[LaneResult]) -> bool:
        try:
            await self._store(results)
        except Exception as error:  # noqa: BLE001 - one bad result must not stop the others
            log.error("deliveries not stored", service=self._alias, lanes=len(results), **describe(error))
            return False
        return True

    async def _store(self, results: Sequence[LaneResult]) -> None:
        alias, ports = self._alias, self._ports
        deliveries = [delivery for result in results for delivery in result.deliveries]
        for events in _chunks([(logged.id, body) for logged, body in deliveries if body]):
            await self._insist(partial(self._append, events))
        for logged in _chunks([logged for logged, _ in deliveries]):
            await self._insist(partial(ports.log.append, alias, logged))
            ports.on_logged(alias)
        await self._store_letters(alias, results)
        for updates in _chunks([result.update for result in results]):
            await self._insist(partial(ports.lanes.release, updates, self._clock.now()))

    async def _append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Append events to the stream, sealed with the secret that is the newest one at that time."""
        newest = self._integration().secrets[0] if self._ports.seals_streams else None
        await self._ports.streams.append(self._alias, events, newest)

    async def _store_letters(self, alias: str, results: Sequence[LaneResult]) -> None:
        letters = [letter for result in results for letter in result.letters]
        if letters:
            await self._insist(partial(self._add_letters, letters))
            self._log_letters(letters)
        for result in results:
            for letter in result.changed_letters:
                await self._insist(partial(self._note_failure, letter))
        redelivered = [letter_id for result in results for letter_id in result.redelivered]
        if redelivered:
            await self._insist(partial(self._ports.letters.delete, alias, redelivered))

    async def _add_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters with the present time: lists end at a time, before which none may be stored later."""
        now = self._clock.now()
        stamped = [structs.replace(letter, died_at=now) for letter in letters]
        await self._ports.letters.add(stamped)
        for letter in stamped:
            await self._ports.renew(letter)

    async def _note_failure(self, letter: DeadLetter) -> None:
        """Store a failed redelivery, with the event that the letter has by now."""
        stored = await self._ports.letters.get(letter.alias, letter.id)
        if stored is not None:
            changed = structs.replace(letter, event=stored.event, edited_by=stored.edited_by)
            await self._ports.letters.replace(changed)

    async def _insist(self, command: Callable[[], Awaitable[object]]) -> None:
        """Repeat a command while its server is unavailable."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await command()
            except (StoreUnavailableError, BusUnavailableError):
                self.stalled = True
            else:
                self.stalled = False
                return
            await asyncio.sleep(pause * (0.5 + self._random()))
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _log_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Warn about dead letters, once a minute."""
        self._unlogged_letters += len(letters)
        now = asyncio.get_running_loop().time()
        if now - self._letters_logged_at < LETTERS_LOGGED_EVERY_SECONDS:
            return
        last = letters[-1]
        log.warning(
            "events became dead letters",
            service=last.alias,
            events=self._unlogged_letters,
            last=last.id,
            reason=last.reason,
        )
        self._letters_logged_at, self._unlogged_letters = now, 0


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), MAX_CHUNK):
        yield items[start : start + MAX_CHUNK]
