"""Ends tasks that run until they are cancelled."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_AFTER_SECONDS = 1.0


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until all have ended, whatever they raise.

    A task that goes on is cancelled again: before Python 3.12 ``asyncio.wait_for``, which redis-py sends
    with, swallows a cancellation that comes just as what it waits for is done.
    """
    left = all_tasks = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_AFTER_SECONDS)
    await asyncio.gather(*all_tasks, return_exceptions=True)
