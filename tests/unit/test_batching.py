"""Requests in flight share commands, and each gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from models.batching.batcher import AdaptiveBatchSize, Batcher


class Server:
    """Doubles numbers; ``gate`` holds its answers back."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def work(self, items: Sequence[int]) -> list[int | Exception]:
        self.asked.append(list(items))
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]


def batches(server: Server, *, size: int = 3, lanes: int = 1, patience: float = 5) -> Batcher[int, int]:
    return Batcher(server.work, pace=AdaptiveBatchSize(size, patience), lanes=lanes, patience=patience)


async def test_those_of_one_turn_share_and_each_has_its_answer() -> None:
    server = Server()
    ask = batches(server).ask
    answers = await asyncio.gather(*(ask(n) for n in (1, 2, -3, 4)), return_exceptions=True)
    assert server.asked == [[1, 2, -3], [4]]
    assert [answers[0], answers[1], answers[3]] == [2, 4, 8]
    assert isinstance(answers[2], ValueError)


async def test_a_lone_one_is_sent_at_once_and_later_ones_gather_behind_it() -> None:
    server = Server()
    server.gate.clear()
    ask = batches(server).ask
    first = asyncio.ensure_future(ask(1))
    while not server.asked:
        await asyncio.sleep(0)
    rest = [asyncio.ensure_future(ask(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    assert server.asked == [[1]]
    server.gate.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6]
    assert server.asked == [[1], [2, 3]]


async def test_who_gave_up_is_not_worked_for() -> None:
    server = Server()
    server.gate.clear()
    ask = batches(server).ask
    tasks = [asyncio.ensure_future(ask(n)) for n in (1, 2, 3, 4)]
    while not server.asked:
        await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[3].cancel()
    await asyncio.gather(tasks[0], tasks[3], return_exceptions=True)
    server.gate.set()
    assert await asyncio.gather(*tasks[1:3]) == [4, 6]
    assert server.asked == [[1, 2, 3]], "the fourth was never sent"


async def test_a_fault_is_everybodys() -> None:
    server = Server()
    server.fault = RuntimeError("broken")
    ask = batches(server).ask
    answers = await asyncio.gather(ask(1), ask(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]
    server.fault = None
    assert await ask(3) == 6


async def test_patience_ends_when_nothing_is_answered() -> None:
    server = Server()
    server.gate.clear()
    ask = batches(server, size=1, patience=0.05).ask
    outcomes = await asyncio.gather(ask(1), ask(2), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError, TimeoutError]
    server.gate.set()
    assert await ask(3) == 6


async def test_patience_does_not_end_while_others_are_answered() -> None:
    """A long queue at a slow server is not a server that is away."""

    class Slow(Server):
        async def work(self, items: Sequence[int]) -> list[int | Exception]:
            await asyncio.sleep(0.04)
            return await super().work(items)

    ask = batches(Slow(), size=1, patience=0.1).ask
    assert await asyncio.gather(*(ask(n) for n in range(10))) == [2 * n for n in range(10)]


@pytest.mark.parametrize("lanes", [1, 2, 3])
async def test_no_more_are_under_way_than_there_are_lanes(lanes: int) -> None:
    server = Server()
    server.gate.clear()
    ask = batches(server, size=1, lanes=lanes).ask
    tasks = [asyncio.ensure_future(ask(n)) for n in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(server.asked) == lanes
    server.gate.set()
    await asyncio.gather(*tasks)
    assert len(server.asked) == 5


class Paced:
    """A server that takes its time: ``price`` seconds a command, ``each`` an item; and a pace of up to 100
    items that takes half a second, a fifth of what anybody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, each: float, price: float = 0.0) -> None:
        self.each, self.price = each, price
        self.fault: Exception | None = None
        self.raised = True
        self._now = 0.0
        self._sizes: list[int] = []
        monkeypatch.setattr("models.batching.batcher.monotonic", lambda: self._now)
        self._ask = Batcher(self._work, pace=AdaptiveBatchSize(100, 2.5), lanes=1, patience=2.5).ask

    async def _work(self, items: Sequence[int]) -> list[int | Exception]:
        self._now += self.price + self.each * len(items)
        self._sizes.append(len(items))
        if self.fault is not None and self.raised:
            raise self.fault
        return list(items) if self.fault is None else [self.fault] * len(items)

    async def sizes(self, items: int) -> list[int]:
        """Of the commands for so many at once."""
        self._sizes.clear()
        await asyncio.gather(*(self._ask(n) for n in range(items)), return_exceptions=True)
        return self._sizes.copy()


async def test_a_slow_server_is_sent_less_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Paced(monkeypatch, each=1 / 64)
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
    assert await server.sizes(20) == [5, 5, 5, 5], "also one alone tells that it is slow"


async def test_a_server_far_away_is_not_taken_for_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command takes however small it is says nothing of how many it should have."""
    server = Paced(monkeypatch, each=1 / 1024, price=0.75)
    assert await server.sizes(1) == [1]
    assert await server.sizes(350) == [5, 10, 20, 40, 80, 100, 95]
    assert await server.sizes(1) == [1]
    assert await server.sizes(100) == [100]


async def test_one_that_needs_all_patience_for_a_few_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Paced(monkeypatch, each=0.4)
    assert await server.sizes(20) == [5, 5, 5, 5]
    assert await server.sizes(1) == [1]
    assert await server.sizes(10) == [5, 5]


@pytest.mark.parametrize("raised", [True, False])
async def test_after_a_failure_few_come_first(monkeypatch: pytest.MonkeyPatch, *, raised: bool) -> None:
    server = Paced(monkeypatch, each=0.0)
    server.raised = raised
    assert await server.sizes(275) == [5, 10, 20, 40, 80, 100, 20]
    server.fault = RuntimeError("it refuses at once")
    assert await server.sizes(110) == [100, 5, 5]
    server.fault = None
    assert await server.sizes(35) == [5, 10, 20]
