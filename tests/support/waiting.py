"""Waiting for conditions that no event announces."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds. Prefer an event: this one asks again and again."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def eventually(
    read: Callable[[], Awaitable[T]], condition: Callable[[T], bool], seconds: float = 20
) -> T:
    """Read until a condition holds, and return what was read last. Prefer an event, as above."""
    async with asyncio.timeout(seconds):
        while not condition(found := await read()):
            await asyncio.sleep(0.02)
    return found
