"""Random histories of states, workers that crash anywhere, and receivers that fail: nothing is lost.

Three workers deliver to three integrations. Each call of a store or a transport may be the last one of its
worker, before or after it took effect. Changes are marked and stored in any order.
"""

import asyncio
import random
from collections import defaultdict
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import pytest
from msgspec import structs

from app.contracts.errors import FlowError
from app.contracts.integration import Integration
from app.contracts.ports.transports import WebhookAnswer
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId
from app.kit.tasks import end_tasks
from app.services.integrations import dispatch_loop, dispatcher
from app.services.integrations.dispatcher import Dispatcher
from tests.support.dispatching import FLOW, Deliveries
from tests.support.fake_transports import NO_ANSWER, OK, SentWebhook, answer
from tests.support.fakes import FakeStateStore
from tests.support.long_form import form
from tests.support.virtual_time import START, run_virtually

USERS = ("ada", "bob", "cyd", "dan", "eve")
WORKERS = 3
STORM_SECONDS = form("dispatcher model: seconds of a storm", short=250.0, long=400.0)
CALM_SECONDS = 12 * 3600.0
REVIEW_SECONDS_IN_CALM = form("dispatcher model: seconds between reviews in calm", short=60.0, long=5.0)
MAX_POLL_SECONDS_IN_CALM = form("dispatcher model: seconds between polls in calm", short=60.0, long=15.0)
PAUSE = 0.05
"""The longest duration of a call."""


class Mortal:
    """A port as one worker has it: it takes time, and its caller may die at any call."""

    def __init__(self, port: Any, worker: "Worker") -> None:
        self._port = port
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        method, worker = getattr(self._port, name), self._worker

        async def call(*arguments: Any, **options: Any) -> Any:
            risk = 0.02 if name in ("send", "append", "release") else 0.001
            await worker.survive(risk)
            result = await method(*arguments, **options)
            await worker.survive(risk)
            return result

        return call


class Worker:
    """A worker that is started anew after each crash."""

    def __init__(self, made: Deliveries, randomly: random.Random) -> None:
        self._made = made
        self._random = randomly
        self._dead = asyncio.Event()
        self.crashes = 0
        self.mortal = True
        self.dispatcher: Dispatcher | None = None

    async def survive(self, risk: float) -> None:
        """Take some time; die at times."""
        await asyncio.sleep(self._random.random() * PAUSE)
        if self.mortal and self._random.random() < risk:
            self._dead.set()
        if self._dead.is_set():
            await asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        while True:
            self._dead = asyncio.Event()
            ports = self._made.ports
            names = ("registrations", "lanes", "log", "letters", "webhooks", "streams")
            mortal = {name: Mortal(getattr(ports, name), self) for name in names}
            self.dispatcher = self._made.dispatcher(structs.replace(ports, **mortal))
            task = asyncio.create_task(self.dispatcher.run())
            try:
                await self._dead.wait()
                self.crashes += 1
                self.dispatcher = None
            finally:
                await end_tasks([task])
            await asyncio.sleep(self._random.random() * 20)


class TornStates(FakeStateStore):
    """A store whose answers are a moment old when they arrive."""

    async def load_or_salvage(self, state_id: StateId) -> Any:
        found = await super().load_or_salvage(state_id)
        await asyncio.sleep(PAUSE * random.random())
        return found


class Model:
    """One random run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.made = Deliveries(
            integration("payment", concurrency=3),
            integration("mail", stream=True),
            integration("audit", url=None),
            seed=seed,
        )
        self.made.rig.states = TornStates()
        self.made.use_new_service()
        self.calm = False
        self.committed: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._relayed: dict[str, dict[str, bool]] = defaultdict(dict)
        """Records of each user by id, and which of them are stored and marked."""
        self._relays: set[asyncio.Task[None]] = set()
        self.workers: list[Worker] = []

    def answering(self, request: SentWebhook) -> WebhookAnswer:
        if self.calm or self.random.random() < 0.7:
            return OK
        return self.random.choice([answer(500), answer(429, retry_after="3"), NO_ANSWER, answer(302)])

    async def play(self) -> None:
        await self.made.prepare()
        for alias in ("payment", "mail"):
            self.made.webhooks.script(alias, self.answering)
        self.workers = [Worker(self.made, random.Random(self.random.random())) for _ in range(WORKERS)]
        running = [asyncio.create_task(worker.run()) for worker in self.workers]
        loop = asyncio.get_running_loop()
        while loop.time() < STORM_SECONDS:
            user = self.random.choice(USERS)
            for _ in range(self.random.choice([1, 1, 2, 4])):
                await self.change(user)
                await asyncio.sleep(self.random.choice([0, 0, 0.01]))
            await asyncio.sleep(self.random.choice([0, 0, 0.01, 0.2, 5]))
        await asyncio.gather(*self._relays)
        self.calm = True
        for worker in self.workers:
            worker.mortal = False
        with (
            patch.object(dispatcher, "REVIEW_SECONDS", REVIEW_SECONDS_IN_CALM),
            patch.object(dispatch_loop, "MAX_POLL_SECONDS", MAX_POLL_SECONDS_IN_CALM),
        ):
            await asyncio.sleep(CALM_SECONDS)
        await end_tasks(running)

    async def change(self, user: str) -> None:
        """Run some command, and relay what it committed."""
        flows = self.made.flows
        with suppress(FlowError):
            match self.random.choice(["go", "go", "go", "back", "back", "start", "clear", "reset"]):
                case "start":
                    await flows.start_flow(user, FLOW)
                case "clear":
                    await flows.clear_flow_state(user, FLOW)
                case "reset":
                    await flows.reset_flow(user, FLOW)
                case transition:
                    await flows.execute_transition(user, FLOW, transition)
        for record in self.made.records(user):
            if record.id not in self._relayed[user]:
                self._relayed[user][record.id] = False
                self.committed[user].append((record.epoch, record.revision))
                relay = asyncio.create_task(self.relay(record))
                self._relays.add(relay)
                relay.add_done_callback(self._relays.discard)

    async def relay(self, record: HistoryRecord) -> None:
        """Store and mark a change some time later; others may be relayed before it."""
        await asyncio.sleep(self.random.choice([0, 0.01, 0.1, 3]) * self.random.random())
        await self.made.rig.history.append([record])
        await asyncio.sleep(self.random.choice([0, 0.01, 3]) * self.random.random())
        for alias in self.made.aliases:
            await self.made.lanes.mark([self.made.mark_of(alias, record)], self.made.clock.now())
            dispatcher = self.random.choice(self.workers).dispatcher
            if dispatcher is not None:
                dispatcher.offer(alias, [record])
        relayed = self._relayed[record.user_id]
        relayed[record.id] = True
        for waiting in self.made.records(record.user_id):  # those before the first that is not relayed
            if not relayed[waiting.id]:
                break
            await self.made.rig.states.release([waiting])

    def check(self) -> None:
        for alias in self.made.aliases:
            entries = self.made.logged(alias)
            logged = [(e.state_id.user_id, (e.epoch, e.revision), e.id) for e in entries]
            self._check_sequence(logged)
            if alias != "audit":
                sent = [self._named(request.event) for request in self.made.webhooks.to(alias)]
                self._check_sequence(sent)
                assert set(sent) == set(logged)
            if alias == "mail":
                streamed = [self._named(event) for event in self.made.streams.events(alias)]
                self._check_sequence(streamed)
        assert not self.made.letters.letters
        assert all(lane.due_at is None for lane in self.made.lanes.lanes.values())

    def _check_sequence(self, events: list[tuple[str, tuple[str, int], str]]) -> None:
        """Check that all changes are there, first occurrences in order, repeats with the same id."""
        ids: dict[tuple[str, tuple[str, int]], str] = {}
        firsts: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for user, position, event_id in events:
            if (user, position) not in ids:
                firsts[user].append(position)
            assert ids.setdefault((user, position), event_id) == event_id
        assert len(set(ids.values())) == len(ids)
        assert firsts == self.committed

    def _named(self, event: Any) -> tuple[str, tuple[str, int], str]:
        data = event["data"]
        return data["userId"], (data["epoch"], data["revision"]), event["id"]


def integration(alias: str, **changes: Any) -> Integration:
    members = {"url": f"https://{alias}.example/", "flows": (FLOW,), **changes}
    return Integration(alias=alias, registered_at=START, updated_at=START, **members)


@pytest.mark.timeout(300)
@pytest.mark.expected_logs("breaker opened", optional=True)
def test_nothing_is_lost_and_order_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "REVIEW_SECONDS", 5.0)
    crashes = changes = repeats = 0
    for seed in range(form("dispatcher model: runs", short=1, long=15)):
        model = Model(seed)
        run_virtually(model.play())
        model.check()
        crashes += sum(worker.crashes for worker in model.workers)
        changes += sum(len(positions) for positions in model.committed.values())
        repeats += len(model.made.logged("audit")) - sum(map(len, model.committed.values()))
    assert crashes > form("dispatcher model: crashes", short=8, long=20), "the model must crash workers"
    assert changes > form("dispatcher model: changes", short=150, long=300)
    print(f"\n{changes} changes, {crashes} crashes, {repeats} repeats")
