"""The work of a service beside its requests: every worker delivers what it committed; the one that has
the lease sweeps for all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta

import structlog
from msgspec import UNSET

from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore
from app.contracts.state import FlowState
from app.kit.tasks import end_tasks
from app.services.administration.integrity import IntegrityCheck
from app.services.delivery.relay import Relay
from app.services.jobs.lease import LeaseHolder
from app.services.states.executor import Executor
from config.log import describe

log = structlog.get_logger("background")

TIMEOUTS_EVERY_SECONDS = 1.0
"""As short as the shortest timeout, so that each is found before it is due."""
TOGETHER_SECONDS = 0.1
"""Timeouts that are due within so long of each other share commands."""
SWEEP_EVERY_SECONDS = 2.0
SWEEP_BY_ALL_SECONDS = 10.0
SWEEP_AGE = timedelta(seconds=4)
SWEEP_BATCH = 1000
EXPIRE_EVERY_SECONDS = 5.0
CHECK_EVERY_SECONDS = 60.0
TOGETHER = 100
"""How many states are changed at a time, so that their changes share commands."""
DRAIN_SECONDS = 5.0
ANSWER_SECONDS = 1.0
"""A store that does not answer for so long at the end is away."""


class Background:
    """Runs the relay and the ``own`` work of every worker, and under the lease the sweeps. Two workers that
    both believe to have the lease do no harm: every change is a conditional commit."""

    def __init__(
        self,
        states: StateStore,
        executor: Executor,
        relay: Relay,
        check: IntegrityCheck,
        own: Sequence[Callable[[], Coroutine[None, None, None]]],
        lease: LeaseHolder,
        clock: Clock,
    ) -> None:
        self._states = states
        self._executor = executor
        self.relay = relay
        self.check = check
        self._own = own
        self._lease = lease
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [
            asyncio.create_task(self.relay.run()),
            *(asyncio.create_task(work()) for work in self._own),
            asyncio.create_task(self._lease.run()),
            asyncio.create_task(self._every("timeouts", TIMEOUTS_EVERY_SECONDS, self._run_timeouts)),
            asyncio.create_task(self._every("delivery", SWEEP_EVERY_SECONDS, self.deliver_for_others)),
            asyncio.create_task(
                self._every("delivery", SWEEP_BY_ALL_SECONDS, self.deliver_for_others, leased=False)
            ),
            asyncio.create_task(self._every("expiry", EXPIRE_EVERY_SECONDS, self._expire)),
            asyncio.create_task(self._every("check of states", CHECK_EVERY_SECONDS, self.check.run)),
        ]

    async def stop(self) -> None:
        """Deliver what is queued, then end. While the database is away, end at once: the outboxes have what
        was not delivered, and the lease ends by itself."""
        answers = not self._tasks or await self._store_answers()
        delivered = not self._tasks or await self.relay.drain(DRAIN_SECONDS if answers else 0)
        await end_tasks(self._tasks)
        self._tasks = []
        if answers and delivered:
            await self._lease.give_up()

    async def _store_answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._states.list_undelivered(self._clock.now() - SWEEP_AGE, 1)
        except (StoreUnavailableError, TimeoutError):
            return False
        return True

    async def deliver_for_others(self) -> None:
        """Deliver records that wait for longer than they would with a living worker. Now and then every
        worker does, as the one that has the lease may be cut off from Redis."""
        before = self._clock.now() - SWEEP_AGE
        found = await self._states.list_undelivered(before, SWEEP_BATCH)
        if len(found) == SWEEP_BATCH and (aside := self.relay.states_set_aside):
            # What cannot be delivered is the oldest: it must not stand before all others for ever.
            found += await self._states.list_undelivered(before, SWEEP_BATCH, aside)
        taken = sum(self.relay.enqueue(stored.deliverable) for stored in found)
        if taken:  # the others are this worker's own, on their way
            log.info("undelivered records found", records=taken)

    async def purge_expired(self, may_go_on: Callable[[], bool] = lambda: True) -> int:
        """End all states that are past their time; how many were ended. Needs no lease."""
        return await self._pass_time(self._states.expired(self._clock.now()), may_go_on)

    async def run_timeouts(self, may_go_on: Callable[[], bool] = lambda: True) -> int:
        """Run the transitions of all timeouts that are due; how many ran. Needs no lease."""
        return await self._pass_time(self._states.timed_out(self._clock.now()), may_go_on)

    async def run_coming_timeouts(self, seconds: float, may_go_on: Callable[[], bool] = lambda: True) -> int:
        """Run the transitions of all timeouts that are due within ``seconds``, each at its moment; how many
        ran. Needs no lease."""
        found = self._states.timed_out(self._clock.now() + timedelta(seconds=seconds))
        return await self._pass_time(found, may_go_on)

    async def _expire(self) -> None:
        ended = await self.purge_expired(lambda: self._lease.held)
        if ended:
            log.info("expired states ended", states=ended)

    async def _run_timeouts(self) -> None:
        ran = await self.run_coming_timeouts(TIMEOUTS_EVERY_SECONDS, lambda: self._lease.held)
        if ran:
            log.info("timeouts ran", states=ran)

    async def _pass_time(self, found: AsyncIterator[FlowState], may_go_on: Callable[[], bool]) -> int:
        made = 0
        together: list[FlowState] = []
        async for state in found:
            if (seconds := self._seconds_left(state)) > 0:
                made += await self._pass_time_of(together)
                together = []
                await asyncio.sleep(max(seconds, TOGETHER_SECONDS))
                if not may_go_on():
                    return made
            together.append(state)
            if len(together) == TOGETHER:
                made += await self._pass_time_of(together)
                together = []
                if not may_go_on():
                    return made
        return made + await self._pass_time_of(together)

    def _seconds_left(self, state: FlowState) -> float:
        """How long until a state expires or its timeout is due, whichever is first."""
        moments = [moment for moment in (state.expires_at, state.timeout_at) if moment is not UNSET]
        return (min(moments) - self._clock.now()).total_seconds() if moments else 0.0

    async def _pass_time_of(self, states: Sequence[FlowState]) -> int:
        outcomes = await asyncio.gather(
            *(self._executor.apply_due_change(state) for state in states), return_exceptions=True
        )
        for state, outcome in zip(states, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailableError):
                raise outcome
            if isinstance(outcome, Exception):  # must not hold up the others
                log.error("state cannot be ended or moved on", state=state.key, **describe(outcome))
        return sum(outcome is True for outcome in outcomes)

    async def _every(
        self,
        name: str,
        seconds: float,
        work: Callable[[], Awaitable[None]],
        *,
        leased: bool = True,
    ) -> None:
        """Do ``work`` each so many seconds, from beginning to beginning; after longer work, at once."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + seconds, loop.time())
            await asyncio.sleep(due - loop.time())
            if leased and not self._lease.held:
                continue
            try:
                await work()
            except FlowError as error:
                log.warning("background work put off", work=name, code=error.code)
            except Exception as error:  # noqa: BLE001 - one failure must not end the loop
                log.error("background work failed", work=name, **describe(error))
