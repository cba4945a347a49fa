"""Ending tasks."""

import asyncio
from contextlib import suppress

import pytest

from app.kit import tasks as tasks_module
from app.kit.tasks import end_tasks, propagate_swallowed_cancellation


async def test_all_have_ended_whatever_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "RECANCEL_AFTER_SECONDS", 0.01)
    swallowed = 0

    async def swallowing() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    async def done() -> None:
        return

    tasks = [asyncio.create_task(work()) for work in (swallowing, failing, done)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end_tasks(tasks)
    assert swallowed == 3
    assert [task.done() for task in tasks] == [True, True, True]
    await end_tasks([])


async def swallow() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_a_cancellation_that_was_swallowed_is_heeded() -> None:
    async def work() -> None:
        with propagate_swallowed_cancellation():
            await swallow()
        pytest.fail("it goes on")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_one_from_before_is_not_raised_again() -> None:
    """Allow a task to clean up completely after a cancellation."""

    async def work() -> bool:
        await swallow()
        with propagate_swallowed_cancellation():
            await asyncio.sleep(0)
        return True

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task


async def test_the_end_of_a_timeout_stays_one() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            with propagate_swallowed_cancellation():
                await swallow()

    with pytest.raises(TimeoutError):
        await work()
