"""Claims the due lanes of one integration, and has them worked on."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from math import exp, inf

import structlog
from msgspec import UNSET

from app.contracts.deliveries import Lane, LaneId
from app.contracts.errors import StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.record import HistoryRecord
from app.kit.ids import new_id
from app.kit.tasks import end_tasks
from app.services.integrations import breaker
from app.services.integrations.breaker import Outcome, fingerprint
from app.services.integrations.event_delivery import LaneTools
from app.services.integrations.lane_offers import LaneOffers
from app.services.integrations.lane_result import LaneResult
from app.services.integrations.lane_work import LaneWork
from app.services.integrations.result_store import ResultPorts, ResultStore
from app.services.integrations.send_limits import MAX_SENDS, RateAllowance, SendLimits
from config.log import describe

log = structlog.get_logger("deliveries")

CLAIM = timedelta(seconds=30)
"""The events that a killed worker was sending are sent again after it."""
MAX_CLAIM_AGE_SECONDS = 12.0
"""After it no event of a claimed lane is sent, so that the answer comes before the claim ends."""
MAX_CLAIMED = 128
"""The largest number of lanes of an integration that a worker has claimed."""
PACE_SECONDS = 0.5
"""Lanes are claimed for so long ahead, at the pace at which they were finished."""
MIN_POLL_SECONDS = 1.0
MAX_POLL_SECONDS = 15.0
POLL_GROWTH = 1.5
"""Polls become rarer while nothing is due: what this worker commits or retries wakes the loop anyway."""
SOON_SECONDS = 0.3
PROBE_CHOICES = 20
PROBE_CHECK_SECONDS = 2.0
"""The time between two looks at a probe that another worker makes."""
OPEN_CHECK_SECONDS = 5.0
"""The time between two looks at an open breaker, which an administrator may have closed."""
FINISH_SECONDS = 1.0
OUTAGE_PAUSE_SECONDS = 2.0
DEFECT_PAUSE_SECONDS = 5.0


class DispatchLoop:
    """The deliveries of this worker to one integration.

    Args:
        tools: The components that all integrations share.
        ports: The stores.
        integration: The registration; ``change`` replaces it.
        limits: The senders of this worker.
        rate: The rate of the integration.
        workers: Returns the number of workers that share its concurrency.
    """

    def __init__(
        self,
        tools: LaneTools,
        ports: ResultPorts,
        integration: Integration,
        limits: SendLimits,
        rate: RateAllowance,
        workers: Callable[[], int],
    ) -> None:
        self.integration = integration
        self._alias = integration.alias
        self._tools = tools
        self._lanes = ports.lanes
        self._results = ResultStore(ports, lambda: self.integration, tools.clock, tools.random)
        self._limits = limits
        self._rate = rate
        self._workers = workers
        self._offers = LaneOffers()
        self._working: dict[LaneId, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._behind = False
        self._poll_at = 0.0
        self._poll_pause = MIN_POLL_SECONDS
        self._finished = 0.0
        self._finished_at = 0.0
        self._closing = False
        self._claiming: asyncio.Task[list[Lane]] | None = None

    def change(self, integration: Integration) -> None:
        """Use a changed registration: lanes that are worked on are claimed anew with it."""
        self.integration = integration
        self.poll()

    def offer(self, records: Sequence[HistoryRecord]) -> None:
        """Deliver changes whose lanes were just marked, without reading them if possible."""
        if not self._offers.add(self._alias, records):
            self._behind = True
        self._wake.set()

    def poll(self) -> None:
        """Look for due lanes now."""
        self._poll_at = 0.0
        self._poll_pause = MIN_POLL_SECONDS
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        self._poll_at = self._time() + MIN_POLL_SECONDS * self._tools.random()
        storing = asyncio.create_task(self._results.run())
        try:
            while True:
                await self._wait()
                pause = await self._step_safely()
                if pause:
                    await asyncio.sleep(pause * (0.5 + self._tools.random()))
        finally:
            await self._finish(storing)

    async def close(self, seconds: float) -> None:
        """Claim no more lanes; wait for requests in progress, and release all claims."""
        self._closing = True
        self._offers.clear()
        if self._working:
            await asyncio.wait(self._working.values(), timeout=seconds)
        for task in self._working.values():
            task.cancel()  # its result so far is stored

    async def _finish(self, storing: asyncio.Task[None]) -> None:
        """Wait for results that are being stored, but not for a server that is unavailable."""
        until = self._time() + FINISH_SECONDS
        try:
            await self._release_claimed()
            while self._working and not self._results.stalled and self._time() < until:
                await asyncio.wait(self._working.values(), timeout=FINISH_SECONDS / 10)
        finally:
            await end_tasks([storing, *self._working.values()])

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        delay = max(0.0, self._poll_at - self._time())
        with suppress(TimeoutError):
            async with asyncio.timeout(None if delay == inf else delay):
                await self._wake.wait()
        self._wake.clear()

    async def _step_safely(self) -> float:
        """Claim what is due. Returns the seconds to wait after a failure, 0 after none."""
        try:
            await self._step()
        except StoreUnavailableError:
            return OUTAGE_PAUSE_SECONDS
        except Exception as error:  # noqa: BLE001 - one failure must not end the deliveries
            log.error("dispatch failed", service=self._alias, **describe(error))
            return DEFECT_PAUSE_SECONDS
        return 0.0

    async def _step(self) -> None:
        if self._closing or self._results.stalled or not self.integration.enabled:
            self._leave_to_store()
            self._poll_at = self._time() + MIN_POLL_SECONDS if self._results.stalled else inf
            return
        if self._is_allowed():
            await self._claim_due()
            return
        self._leave_to_store()
        if self._time() >= self._poll_at:
            await self._tools.health.refresh()  # another worker may have made a probe
        if self._is_allowed():
            self.poll()
        elif breaker.probe_due(self._tools.health.of(self._alias), self._tools.clock.now()):
            await self._probe()
        else:
            self._wait_for_probe()

    async def _claim_due(self) -> None:
        """Claim lanes that were offered, and lanes that are due, as far as there is room."""
        capacity = self._capacity()
        room = capacity - len(self._working)
        listing = self._behind or self._time() >= self._poll_at
        half = capacity // 2
        if room <= 0 or (listing and not self._offers and room < half):
            self._poll_at, self._behind = inf, self._behind or listing  # the end of a lane wakes
            return
        offered = self._offers.take((room + 1) // 2 if listing else room, self._working)
        ids = list(offered)
        if listing and len(ids) < room:
            ids += await self._list_due(room - len(ids), offered)
        if not ids:
            return
        await self._tools.health.refresh()
        self._set_limit()
        if not self._is_allowed():
            self._behind = True
            self.poll()
            return
        claimed = await self._claim(ids)
        for lane in claimed:
            self._start(lane, offered.get(lane.id, ()))
        if len(claimed) < len(ids):  # others have them, and will leave them due if they were marked again
            self._poll_pause = MIN_POLL_SECONDS
            self._poll_at = min(self._poll_at, self._time() + SOON_SECONDS)

    async def _list_due(self, room: int, offered: dict[LaneId, list[HistoryRecord]]) -> list[LaneId]:
        """Return due lanes; a random part of the oldest, so that workers rarely compete for the same."""
        now = self._tools.clock.now()
        listed = await self._lanes.list_due(self._alias, now, 2 * room)
        self._behind = len(listed) >= 2 * room
        self._poll_pause = (
            MIN_POLL_SECONDS if listed else min(POLL_GROWTH * self._poll_pause, MAX_POLL_SECONDS)
        )
        self._poll_at = self._time() + self._poll_pause * (0.8 + 0.4 * self._tools.random())
        free = [lane_id for lane_id in listed if lane_id not in self._working and lane_id not in offered]
        if len(free) > room:
            self._behind = True
            free = sorted(free, key=lambda _: self._tools.random())[:room]
        return free

    async def _probe(self) -> None:
        """Claim the probe of the open breaker, and make it with a lane that has not failed."""
        health = self._tools.health
        listed = await self._lanes.list_due(self._alias, self._tools.clock.now(), PROBE_CHOICES)
        free = [lane_id for lane_id in listed if lane_id not in self._working]
        if not free:
            self._poll_pause = self._longer_pause()
            self._poll_at = self._time() + self._poll_pause
            return
        await health.refresh()
        failing = health.of(self._alias).failing
        chosen = next((lane_id for lane_id in free if fingerprint(lane_id) not in failing), free[0])
        if await health.begin_probe(self._alias):
            claimed = await self._claim([chosen])
            if claimed:
                self._set_limit()
                self._start(claimed[0], (), probe=True)
            else:
                await health.report(self.integration, Outcome("abandoned"))
        if self._is_allowed():
            self.poll()
        else:
            self._wait_for_probe()

    def _is_allowed(self) -> bool:
        health = self._tools.health.of(self._alias)
        return breaker.allowance(health, self.integration.concurrency) > 0

    async def _claim(self, ids: Sequence[LaneId]) -> list[Lane]:
        now = self._tools.clock.now()
        self._claiming = asyncio.create_task(self._lanes.claim(ids, new_id(), now, now + CLAIM))
        try:
            claimed = await asyncio.shield(self._claiming)
        except Exception:
            self._claiming = None
            raise
        self._claiming = None  # but not after a cancellation, which leaves it unknown what is claimed
        return claimed

    async def _release_claimed(self) -> None:
        """Release lanes whose claim was in progress when the worker ended."""
        claiming, self._claiming = self._claiming, None
        if claiming is None:
            return
        with suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                lanes, now = await claiming, self._tools.clock.now()
                await self._lanes.release([LaneResult(lane, now).update for lane in lanes], now)

    def _start(self, lane: Lane, hand: Sequence[HistoryRecord], *, probe: bool = False) -> None:
        registration, oldest = self.integration, self._time() + MAX_CLAIM_AGE_SECONDS

        def is_stopping() -> bool:
            changed = registration.revision != self.integration.revision
            return self._closing or changed or not self.integration.enabled or self._time() > oldest

        work = LaneWork(self._tools, registration, lane, hand, self._rate, is_stopping, probe=probe)
        self._working[lane.id] = asyncio.create_task(self._work(lane.id, work, probe=probe))

    async def _work(self, lane_id: LaneId, work: LaneWork, *, probe: bool) -> None:
        try:
            await work.run()
            if probe and self._tools.health.of(self._alias).breaker == "probing":
                await self._tools.health.report(self.integration, Outcome("abandoned"))
            if not await self._results.store(work.result) and not self._closing:
                work.result.discard()
                work.note_defect()
                await self._results.store(work.result)  # otherwise the claim ends by itself
        except Exception as error:  # noqa: BLE001 - the claim ends by itself
            log.error("dispatch failed", service=self._alias, **describe(error))
        finally:
            del self._working[lane_id]
            self._note_finished(work.result.due_at)
            if self._behind or self._offers or probe:
                self._wake.set()

    def _note_finished(self, due_at: datetime | None) -> None:
        now = self._time()
        self._finished = 1 + self._finished * exp(self._finished_at - now)
        self._finished_at = now
        self._set_limit()
        if due_at is not None:
            wait = (due_at - self._tools.clock.now()).total_seconds()
            self._poll_at = min(self._poll_at, now + max(wait, SOON_SECONDS))
            self._wake.set()

    def _capacity(self) -> int:
        """Return how many lanes may be claimed: more the faster they are finished."""
        if self.integration.url is None:
            return MAX_CLAIMED
        ahead = int(PACE_SECONDS * self._finished * exp(self._finished_at - self._time()))
        capacity = max(2 * self._limit(), min(ahead, MAX_CLAIMED))
        if self.integration.rate is not None:
            capacity = min(capacity, max(2, 5 * self.integration.rate))
        return capacity

    def _limit(self) -> int:
        """Return the largest number of requests of this worker at a time."""
        allowed = breaker.allowance(self._tools.health.of(self._alias), self.integration.concurrency)
        return min(max(1, allowed // max(1, self._workers())), MAX_SENDS // 2)

    def _set_limit(self) -> None:
        self._limits.set_limit(self._alias, self._limit())

    def _leave_to_store(self) -> None:
        """Forget what is in hand: it is due in the store."""
        self._offers.clear()
        self._behind = True

    def _wait_for_probe(self) -> None:
        health = self._tools.health.of(self._alias)
        wait = PROBE_CHECK_SECONDS
        if health.breaker == "open" and health.next_probe_at is not UNSET:
            wait = min((health.next_probe_at - self._tools.clock.now()).total_seconds(), OPEN_CHECK_SECONDS)
        self._poll_at = self._time() + max(wait, 0.0) + SOON_SECONDS * self._tools.random()

    def _longer_pause(self) -> float:
        return min(POLL_GROWTH * self._poll_pause, MAX_POLL_SECONDS)

    def _time(self) -> float:
        return asyncio.get_running_loop().time()
