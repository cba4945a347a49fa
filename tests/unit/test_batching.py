"""Concurrent requests share commands, and each gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from models.batching.adaptive_size import AdaptiveBatchSize
from models.batching.batcher import Batcher


class Server:
    """Doubles numbers; ``gate`` holds its answers back."""

    def __init__(self) -> None:
        self.received: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def work(self, items: Sequence[int]) -> list[int | Exception]:
        self.received.append(list(items))
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]


def make_batcher(
    server: Server, *, size: int = 3, max_in_flight: int = 1, timeout: float = 5
) -> Batcher[int, int]:
    return Batcher(
        server.work,
        batch_size=AdaptiveBatchSize(size, timeout),
        max_in_flight=max_in_flight,
        timeout=timeout,
    )


async def test_requests_of_one_turn_share_a_batch_and_each_has_its_answer() -> None:
    server = Server()
    submit = make_batcher(server).submit
    answers = await asyncio.gather(*(submit(n) for n in (1, 2, -3, 4)), return_exceptions=True)
    assert server.received == [[1, 2, -3], [4]]
    assert [answers[0], answers[1], answers[3]] == [2, 4, 8]
    assert isinstance(answers[2], ValueError)


async def test_a_single_request_is_sent_at_once_and_later_ones_share_the_next_batch() -> None:
    server = Server()
    server.gate.clear()
    submit = make_batcher(server).submit
    first = asyncio.ensure_future(submit(1))
    while not server.received:
        await asyncio.sleep(0)
    rest = [asyncio.ensure_future(submit(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    assert server.received == [[1]]
    server.gate.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6]
    assert server.received == [[1], [2, 3]]


async def test_cancelled_requests_are_not_sent() -> None:
    server = Server()
    server.gate.clear()
    submit = make_batcher(server).submit
    tasks = [asyncio.ensure_future(submit(n)) for n in (1, 2, 3, 4)]
    while not server.received:
        await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[3].cancel()
    await asyncio.gather(tasks[0], tasks[3], return_exceptions=True)
    server.gate.set()
    assert await asyncio.gather(*tasks[1:3]) == [4, 6]
    assert server.received == [[1, 2, 3]], "the fourth was never sent"


async def test_a_failed_batch_raises_to_every_caller() -> None:
    server = Server()
    server.fault = RuntimeError("broken")
    submit = make_batcher(server).submit
    answers = await asyncio.gather(submit(1), submit(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]
    server.fault = None
    assert await submit(3) == 6


async def test_requests_time_out_when_no_batch_succeeds() -> None:
    server = Server()
    server.gate.clear()
    submit = make_batcher(server, size=1, timeout=0.05).submit
    outcomes = await asyncio.gather(submit(1), submit(2), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError, TimeoutError]
    server.gate.set()
    assert await submit(3) == 6


async def test_requests_do_not_time_out_while_other_batches_succeed() -> None:
    """A long queue at a slow server does not mean that the server is unavailable."""

    class Slow(Server):
        async def work(self, items: Sequence[int]) -> list[int | Exception]:
            await asyncio.sleep(0.04)
            return await super().work(items)

    submit = make_batcher(Slow(), size=1, timeout=0.1).submit
    assert await asyncio.gather(*(submit(n) for n in range(10))) == [2 * n for n in range(10)]


@pytest.mark.parametrize("max_in_flight", [1, 2, 3])
async def test_no_more_batches_are_in_flight_than_allowed(max_in_flight: int) -> None:
    server = Server()
    server.gate.clear()
    submit = make_batcher(server, size=1, max_in_flight=max_in_flight).submit
    tasks = [asyncio.ensure_future(submit(n)) for n in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(server.received) == max_in_flight
    server.gate.set()
    await asyncio.gather(*tasks)
    assert len(server.received) == 5


class TimedServer:
    """A server with a fixed duration: ``overhead`` seconds a command, ``each`` an item.

    Batches have up to 100 items and a budget of half a second, a fifth of the timeout.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, each: float, overhead: float = 0.0) -> None:
        self.each, self.overhead = each, overhead
        self.fault: Exception | None = None
        self.raised = True
        self._now = 0.0
        self._sizes: list[int] = []
        monkeypatch.setattr("models.batching.batcher.monotonic", lambda: self._now)
        self._submit = Batcher(
            self._work, batch_size=AdaptiveBatchSize(100, 2.5), max_in_flight=1, timeout=2.5
        ).submit

    async def _work(self, items: Sequence[int]) -> list[int | Exception]:
        self._now += self.overhead + self.each * len(items)
        self._sizes.append(len(items))
        if self.fault is not None and self.raised:
            raise self.fault
        return list(items) if self.fault is None else [self.fault] * len(items)

    async def sizes(self, items: int) -> list[int]:
        """Return the sizes of the commands for so many requests at once."""
        self._sizes.clear()
        await asyncio.gather(*(self._submit(n) for n in range(items)), return_exceptions=True)
        return self._sizes.copy()


async def test_a_slow_server_receives_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    server = TimedServer(monkeypatch, each=1 / 64)
    assert await server.sizes(1) == [1]
    assert await server.sizes(160) == [10, 20, 33, 33, 33, 31], "few at first"
    server.each = 0.0
    assert await server.sizes(200) == [33, 66, 100, 1]
    server.each = 1 / 128
    assert await server.sizes(228) == [100, 64, 64]
    server.each = 10.0
    assert await server.sizes(84) == [64, 5, 5, 5, 5], "however slow, some share a command"
    server.each = 1 / 4
    assert await server.sizes(1) == [1]
    assert await server.sizes(20) == [5, 5, 5, 5], "a single request also shows that it is slow"


async def test_latency_alone_does_not_make_batches_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The overhead of a command, however small, does not limit the number of its items."""
    server = TimedServer(monkeypatch, each=1 / 1024, overhead=0.75)
    assert await server.sizes(1) == [1]
    assert await server.sizes(350) == [5, 10, 20, 40, 80, 100, 95]
    assert await server.sizes(1) == [1]
    assert await server.sizes(100) == [100]


async def test_batches_stay_small_if_a_few_items_use_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = TimedServer(monkeypatch, each=0.4)
    assert await server.sizes(20) == [5, 5, 5, 5]
    assert await server.sizes(1) == [1]
    assert await server.sizes(10) == [5, 5]


@pytest.mark.parametrize("raised", [True, False])
async def test_batches_start_small_after_a_failure(monkeypatch: pytest.MonkeyPatch, *, raised: bool) -> None:
    server = TimedServer(monkeypatch, each=0.0)
    server.raised = raised
    assert await server.sizes(275) == [5, 10, 20, 40, 80, 100, 20]
    server.fault = RuntimeError("it refuses at once")
    assert await server.sizes(110) == [100, 5, 5]
    server.fault = None
    assert await server.sizes(35) == [5, 10, 20]
