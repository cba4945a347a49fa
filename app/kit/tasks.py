"""Cancellation of tasks that run until they are cancelled."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

RECANCEL_AFTER_SECONDS = 5.0
"""Longer than any task takes to clean up, because a second cancellation interrupts the cleanup."""


@contextmanager
def propagate_swallowed_cancellation() -> Iterator[None]:
    """Raise CancelledError at the end of the block if a cancellation inside it was swallowed.

    Before Python 3.12, ``asyncio.wait_for`` swallows a cancellation that arrives just when the awaited
    operation completes; redis-py sends with it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until all have ended, whatever they raise.

    A task that goes on is cancelled again, because a library may have swallowed the cancellation.
    """
    pending = all_tasks = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=RECANCEL_AFTER_SECONDS)
    await asyncio.gather(*all_tasks, return_exceptions=True)
