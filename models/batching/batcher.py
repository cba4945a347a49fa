"""Group commit: concurrent requests share commands.

One command for many documents costs a fraction of as many commands for one document.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

from models.batching.adaptive_size import AdaptiveBatchSize

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects requests into batches: those of one turn of the event loop, and those made during a batch.

    No timer delays a request: a single one is sent at once.

    A request waits while batches succeed, and no longer than ``timeout`` seconds while none does: the server
    is slow in the one case and unavailable in the other.

    Args:
        work: Answers a batch in its order; an answer that is an exception is raised to its caller.
        batch_size: The size of the next batch.
        max_in_flight: The largest number of batches at the same time.
        timeout: In seconds.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        batch_size: AdaptiveBatchSize,
        max_in_flight: int,
        timeout: float,
    ) -> None:
        self._work = work
        self._timeout = timeout
        self._answered_at = 0.0
        self._batch_size = batch_size
        self._max_in_flight = max_in_flight
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._send_scheduled = False

    @property
    def busy(self) -> bool:
        """True while requests wait for their answers."""
        return bool(self._waiting or self._in_flight)

    async def submit(self, item: T) -> R:
        """Return the answer to ``item``.

        Raises:
            TimeoutError: The server does not answer.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if not self._send_scheduled:
            self._send_scheduled = True
            loop.call_soon(self._send)
        waiting_since = loop.time()
        try:
            while not (await asyncio.wait((answer,), timeout=self._timeout))[0]:
                if self._answered_at <= waiting_since:
                    raise TimeoutError
                waiting_since = loop.time()
            return answer.result()
        finally:
            answer.cancel()  # so that a request whose caller timed out is dropped

    def _send(self) -> None:
        self._send_scheduled = False
        while self._waiting and len(self._in_flight) < self._max_in_flight:
            batch: list[tuple[T, asyncio.Future[R]]] = []
            while self._waiting and len(batch) < self._batch_size.size:
                item, answer = self._waiting.popleft()
                if not answer.done():  # drop requests whose caller timed out
                    batch.append((item, answer))
            if batch:
                task = asyncio.ensure_future(self._resolve_batch(batch))
                self._in_flight.add(task)
                task.add_done_callback(self._on_batch_done)

    def _on_batch_done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._send()

    async def _resolve_batch(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        answers: Sequence[R | Exception]
        sent_at = monotonic()
        try:
            async with asyncio.timeout(2 * self._timeout):  # a dead connection must not block the others
                answers = await self._work([item for item, _ in batch])
            self._answered_at = asyncio.get_running_loop().time()
        except Exception as error:  # noqa: BLE001 - raised to every caller
            answers = [error] * len(batch)
        if all(isinstance(answer, Exception) for answer in answers):
            self._batch_size.record_failure()
        else:
            self._batch_size.record(len(batch), monotonic() - sent_at)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
