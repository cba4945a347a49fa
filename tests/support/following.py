"""Reading the states that a Python client shows."""

import asyncio
from collections.abc import Callable
from typing import Any

from realtime.client import Reader, StateUpdate


async def read(states: Reader[Any], until: Callable[[Any], bool]) -> list[Any]:
    """Return the states shown, up to the first for which ``until`` holds."""
    shown: list[Any] = []
    async with asyncio.timeout(20):
        async for state in states:
            shown.append(state)
            if until(state):
                return shown
    raise AssertionError(f"ended after {shown}")


def at_revision(revision: int) -> Callable[[StateUpdate | None], bool]:
    """Build a condition that holds for a state at this revision."""
    return lambda state: state is not None and state.revision == revision


def revisions(shown: list[Any]) -> list[int | None]:
    """Return the revision of each state shown, None where there was no state."""
    return [None if state is None else state.revision for state in shown]
