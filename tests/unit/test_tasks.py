"""Ending tasks."""

import asyncio

import pytest

from app import tasks as tasks_module
from app.tasks import end_tasks


async def test_all_have_ended_whatever_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "AGAIN_AFTER_SECONDS", 0.01)
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
