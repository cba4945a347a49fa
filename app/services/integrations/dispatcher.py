"""The dispatcher: delivers the events of all integrations on a worker.

Each integration has a loop of its own, so that none waits for another. All workers deliver: a lane belongs to
the one that has claimed it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import random as system_random

import structlog

from app.contracts.errors import StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.record import HistoryRecord
from app.kit.tasks import end_tasks
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.dispatch_loop import DispatchLoop
from app.services.integrations.event_delivery import LaneTools
from app.services.integrations.events import IntegrationEvents
from app.services.integrations.health import SharedHealth
from app.services.integrations.lane_changes import LaneChanges
from app.services.integrations.letter_events import LetterEvents
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.result_store import ResultPorts
from app.services.integrations.send_limits import RateAllowance, SendLimits
from app.services.integrations.sending import EventSender
from app.services.states.history import HistoryReader
from app.services.states.operations import StateOperations
from config.log import describe

log = structlog.get_logger("deliveries")

REVIEW_SECONDS = 1.0
"""The time between two comparisons of the loops with the registrations."""
CLOSE_SECONDS = 3.0
"""The time for requests in progress when the worker ends; a second cancellation comes after five."""
COUNTS_SECONDS = 0.5
"""The time for the last counts; they are lost if the store does not answer."""


class Dispatcher:
    """Delivers events to all registered integrations.

    Args:
        ports: The stores and transports.
        registered: Returns the registrations.
        disable: Disables an integration, for a reason.
        events: Makes events of changes.
        history: Reads changes.
        operations: Runs answered transitions.
        catalog: The definitions.
        clock: The present time.
        store_answers: Attempts have the beginning of answers.
        on_logged: Receives the alias of an integration whose log has new deliveries.
        workers: Returns the number of live workers, which share the concurrency of each integration.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        ports: IntegrationPorts,
        registered: Callable[[], Sequence[Integration]],
        disable: Callable[[str, str], Awaitable[None]],
        events: IntegrationEvents,
        history: HistoryReader,
        operations: StateOperations,
        catalog: DefinitionCatalog,
        clock: Clock,
        *,
        store_answers: bool = False,
        on_logged: Callable[[str], None] = lambda _: None,
        workers: Callable[[], int] = lambda: 1,
        random: Callable[[], float] = system_random,
    ) -> None:
        self._registered = registered
        self._registrations = ports.registrations
        self._clock = clock
        self._workers = workers
        self._limits = SendLimits()
        self._disable = disable
        changes = LaneChanges(history, clock)
        renew = LetterEvents(ports.letters, ports.registrations, events, changes, catalog).renew
        self._ports = ResultPorts(
            ports.lanes, ports.log, ports.letters, ports.streams, renew, on_logged, ports.seals_streams
        )
        self.health = SharedHealth(ports.registrations, clock, random)
        senders, health = self._limits, self.health
        sender = EventSender(
            ports.webhooks, operations, history, senders, health, clock, store_answers=store_answers
        )
        self._tools = LaneTools(
            events=events,
            changes=changes,
            sender=sender,
            catalog=catalog,
            letters=ports.letters,
            health=self.health,
            clock=clock,
            disable=self._disable_and_review,
            random=random,
        )
        self._loops: dict[str, DispatchLoop] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._running = False

    def offer(self, alias: str, records: Sequence[HistoryRecord]) -> None:
        """Deliver changes at once whose lanes were just marked for an integration."""
        loop = self._loops.get(alias)
        if loop is not None:
            loop.offer(records)

    def poll(self, alias: str) -> None:
        """Look for due lanes of an integration now, as after jobs were added."""
        loop = self._loops.get(alias)
        if loop is not None:
            loop.poll()

    async def run(self) -> None:
        """Deliver until cancelled. Requests in progress then have a few seconds to end."""
        self._running = True
        try:
            while True:
                self.review()
                await self._store_counts()
                await asyncio.sleep(REVIEW_SECONDS)
        finally:
            self._running = False
            await self._close()
            with suppress(TimeoutError):
                async with asyncio.timeout(COUNTS_SECONDS):
                    await self._store_counts()

    def review(self) -> None:
        """Start loops of new integrations, change those of changed ones, and end those of removed ones.

        It follows each change at once: until then a worker would send what a registration forbids by now. One
        that was removed and made again is another one, even at the same revision.
        """
        if not self._running:
            return
        registered = {integration.alias: integration for integration in self._registered()}
        for alias in list(self._loops):
            integration = registered.get(alias)
            if (
                integration is None
                or integration.registered_at != self._loops[alias].integration.registered_at
            ):
                self._end(alias)
        for alias, integration in registered.items():
            loop = self._loops.get(alias)
            if loop is None or self._tasks[alias].done():
                self._begin(integration)
            elif loop.integration.revision != integration.revision:
                loop.change(integration)

    def _end(self, alias: str) -> None:
        ended = self._tasks.pop(alias)
        ended.cancel()
        self._ending.add(ended)
        ended.add_done_callback(self._ending.discard)
        del self._loops[alias]
        self._limits.forget(alias)
        self.health.forget(alias)

    def _begin(self, integration: Integration) -> None:
        rate = RateAllowance(self._registrations, self._clock)
        loop = DispatchLoop(self._tools, self._ports, integration, self._limits, rate, self._workers)
        self._loops[integration.alias] = loop
        self._tasks[integration.alias] = asyncio.create_task(loop.run())

    async def _disable_and_review(self, alias: str, reason: str) -> None:
        await self._disable(alias, reason)
        self.review()

    async def _store_counts(self) -> None:
        try:
            await self.health.store_counts()
        except StoreUnavailableError:
            return
        except Exception as error:  # noqa: BLE001 - one failure must not end the deliveries
            log.error("dispatch failed", **describe(error))

    async def _close(self) -> None:
        self._limits.close()
        try:
            await asyncio.gather(*(loop.close(CLOSE_SECONDS) for loop in self._loops.values()))
        finally:
            await end_tasks([*self._tasks.values(), *self._ending])
