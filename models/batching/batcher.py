"""Lets requests in flight share commands: one for many documents costs a fraction of many for one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

FEWEST = 5
"""However slow the server is, so many may share a command."""
SHARE_OF_PATIENCE = 0.2
"""How much of what anybody waits a command should take at most."""


class AdaptiveBatchSize:
    """How many items the next command takes, at most ``most``: so many as should take a fifth of
    ``patience`` seconds, judged by the last command. What the quickest one took is the price of a command,
    however small. It begins with few, also after a failure, and at most doubles, so that a slow server is
    not met with a full one."""

    def __init__(self, most: int, patience: float) -> None:
        self._fewest = self.size = min(FEWEST, most)
        self._most = most
        self._seconds = SHARE_OF_PATIENCE * patience
        self._price = patience

    def took(self, sent: int, seconds: float) -> None:
        """Judge by a command of so many items."""
        self._price = min(self._price, seconds)
        over = seconds - self._price
        if over:
            fitting = int(sent * self._seconds / over)
        else:  # the quickest yet: how much of it was for its items is not known
            fitting = max(self.size, int(sent * self._seconds / seconds) if seconds else self._most)
        self.size = max(self._fewest, min(self._most, 2 * self.size, fitting))

    def failed(self) -> None:
        """Nothing came of a command, however quickly."""
        self.size = self._fewest


class Batcher(Generic[T, R]):
    """Gathers what is asked in one turn of the event loop, and while a batch is under way, into the next
    batch. Nothing waits for a timer: a lone request is sent at once.

    ``work`` answers a batch in its order; an answer that is an exception is raised to who asked. At most
    ``lanes`` batches are under way, each as large as ``pace`` says. Who asks waits while batches are
    answered, and no longer than ``patience`` seconds while none is: the server is slow in the one case, away
    in the other.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        pace: AdaptiveBatchSize,
        lanes: int,
        patience: float,
    ) -> None:
        self._work = work
        self._patience = patience
        self._answered_at = 0.0
        self._pace = pace
        self._lanes = lanes
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._called = False

    @property
    def busy(self) -> bool:
        """True if anybody waits for an answer."""
        return bool(self._waiting or self._under_way)

    async def ask(self, item: T) -> R:
        """The answer to ``item``. Raises TimeoutError when the server does not answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if not self._called:
            self._called = True
            loop.call_soon(self._send)
        asked_at = loop.time()
        try:
            while not (await asyncio.wait((answer,), timeout=self._patience))[0]:
                if self._answered_at <= asked_at:
                    raise TimeoutError
                asked_at = loop.time()
            return answer.result()
        finally:
            answer.cancel()  # who gave up is not worked for

    def _send(self) -> None:
        self._called = False
        while self._waiting and len(self._under_way) < self._lanes:
            batch: list[tuple[T, asyncio.Future[R]]] = []
            while self._waiting and len(batch) < self._pace.size:
                item, answer = self._waiting.popleft()
                if not answer.done():  # who asked did not give up meanwhile
                    batch.append((item, answer))
            if batch:
                task = asyncio.ensure_future(self._answer(batch))
                self._under_way.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._send()

    async def _answer(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        answers: Sequence[R | Exception]
        sent_at = monotonic()
        try:
            async with asyncio.timeout(2 * self._patience):  # a dead connection must not block a lane
                answers = await self._work([item for item, _ in batch])
            self._answered_at = asyncio.get_running_loop().time()
        except Exception as error:  # noqa: BLE001 - raised to everybody who asked
            answers = [error] * len(batch)
        if all(isinstance(answer, Exception) for answer in answers):
            self._pace.failed()
        else:
            self._pace.took(len(batch), monotonic() - sent_at)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
