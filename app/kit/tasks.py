"""Ending tasks that run until they are cancelled."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

AGAIN_AFTER_SECONDS = 5.0
"""Longer than anything takes to clean up: a second cancellation breaks that off."""


@contextmanager
def propagate_swallowed_cancellation() -> Iterator[None]:
    """Raise CancelledError at the end when the task was cancelled inside and that was swallowed: before
    Python 3.12 ``asyncio.wait_for``, which redis-py sends with, does it to a cancellation that comes just as
    what it waits for is done."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until all have ended, whatever they raise. One that goes on is cancelled
    again, as a library may have swallowed it."""
    left = all_tasks = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_AFTER_SECONDS)
    await asyncio.gather(*all_tasks, return_exceptions=True)
