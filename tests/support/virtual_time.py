"""An event loop whose time passes only while nothing else is to do: days of pauses take no time."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

THREAD_SECONDS = 10.0
"""The time for a thread to end that is all that tasks wait for."""
START = datetime(2026, 1, 1, tzinfo=UTC)


class _Selector(selectors.DefaultSelector):
    """Moves the time of the loop forward instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = super().select(THREAD_SECONDS)
            if not ready:
                raise RuntimeError("nothing will ever happen: all tasks wait for each other")
            return ready
        self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop with a time of its own. No task may wait for sockets or processes."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class VirtualClock:
    """The clock of the running loop, from ``START``, in whole milliseconds; ``START`` without a loop."""

    def now(self) -> datetime:
        if asyncio._get_running_loop() is None:
            return START
        return START + timedelta(milliseconds=int(asyncio.get_running_loop().time() * 1000))


def run_virtually(test: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(test)
