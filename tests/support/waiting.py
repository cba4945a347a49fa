"""Waiting for conditions that no event announces."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds. Prefer an event: this one asks again and again."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
