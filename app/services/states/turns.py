"""The queue of the commands of one state in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Runs one command at a time for each state, first come, first served.

    So no command loses a race against another one in this process.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def take(self, key: str, seconds: float) -> AsyncIterator[None]:
        """Wait for the turn at the state ``key``, and hold it until the end of the block.

        A task that holds it does not wait for itself.

        Raises:
            TimeoutError: The turn did not come within ``seconds``.
        """
        queue = self._queues.setdefault(key, _Queue())
        task = asyncio.current_task()
        if queue.holder is task:
            yield
            return
        queue.commands += 1
        try:
            async with asyncio.timeout(seconds):
                await queue.lock.acquire()
            queue.holder = task
            try:
                yield
            finally:
                queue.holder = None
                queue.lock.release()
        finally:
            queue.commands -= 1
            if not queue.commands:
                del self._queues[key]


class _Queue:
    """The commands of one state: one runs, the others wait."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.commands = 0
        self.holder: asyncio.Task[object] | None = None
