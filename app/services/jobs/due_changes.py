"""Changes that time alone makes, run for all states: expiry and timeouts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

import structlog
from msgspec import UNSET

from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore
from app.contracts.state import FlowState
from app.services.states.executor import Executor
from config.log import describe

log = structlog.get_logger("background")

CONCURRENCY = 100
"""States that are changed at a time, so that their changes share commands."""
MIN_WAIT_SECONDS = 0.1
"""Timeouts that are due within so long of each other share commands."""

MayContinue = Callable[[], bool]


def always() -> bool:
    """Continue to the end."""
    return True


class DueChanges:
    """Ends expired states and runs timeouts.

    None of it needs the lease, as every change is a conditional commit. ``may_continue`` is called between
    pieces of work; a worker that slept for longer than its lease stops there.
    """

    def __init__(self, states: StateStore, executor: Executor, clock: Clock) -> None:
        self._states = states
        self._executor = executor
        self._clock = clock

    async def purge_expired(self, may_continue: MayContinue = always) -> int:
        """End all expired states, and return how many were ended."""
        return await self._apply(self._states.expired(self._clock.now()), may_continue)

    async def run_timeouts(self, may_continue: MayContinue = always) -> int:
        """Run the transitions of all timeouts that are due, and return how many ran."""
        return await self._apply(self._states.timed_out(self._clock.now()), may_continue)

    async def run_coming_timeouts(self, seconds: float, may_continue: MayContinue = always) -> int:
        """Run the transitions of all timeouts that are due within ``seconds``, each when it is due.

        Returns:
            How many ran.
        """
        found = self._states.timed_out(self._clock.now() + timedelta(seconds=seconds))
        return await self._apply(found, may_continue)

    async def _apply(self, found: AsyncIterator[FlowState], may_continue: MayContinue) -> int:
        """Apply the due changes of states, which come in the order of their times."""
        applied = 0
        batch: list[FlowState] = []
        async for state in found:
            seconds = self._seconds_left(state)
            if seconds > 0 or len(batch) == CONCURRENCY:
                applied += await self._apply_batch(batch)
                batch = []
                if seconds > 0:
                    await asyncio.sleep(max(seconds, MIN_WAIT_SECONDS))
                if not may_continue():
                    return applied
            batch.append(state)
        return applied + await self._apply_batch(batch)

    def _seconds_left(self, state: FlowState) -> float:
        """Return the time until a state expires or its timeout is due, whichever is first."""
        moments = [moment for moment in (state.expires_at, state.timeout_at) if moment is not UNSET]
        return (min(moments) - self._clock.now()).total_seconds() if moments else 0.0

    async def _apply_batch(self, states: Sequence[FlowState]) -> int:
        outcomes = await asyncio.gather(
            *(self._executor.apply_due_change(state) for state in states), return_exceptions=True
        )
        for state, outcome in zip(states, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailableError):
                raise outcome
            if isinstance(outcome, Exception):  # must not hold up the others
                log.error("due change failed", state=state.key, **describe(outcome))
        return sum(outcome is True for outcome in outcomes)
