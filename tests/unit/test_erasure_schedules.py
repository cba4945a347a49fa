"""An erasure beside commands of another worker that has the data key in its cache, in many schedules.

The workers share a database and the stored data keys, and no event of the erasure reaches the other one. Each
call of a store waits until the schedule lets it go on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import Any, cast

import pytest

from app.contracts.commands import StartCommand, trusted_origin
from app.contracts.errors import FlowNotStartedError, StoreUnavailableError
from app.contracts.state import FlowState, StateId
from app.crypto.data_keys import DataKeys
from app.crypto.payload_cipher import AesPayloadCipher
from app.crypto.wrapping import LocalKeys
from app.services import FlowService
from app.services.trusted import TrustedFlows
from app.services.wiring import KeyPorts
from models.clear_data import MongoClearData
from models.database import Collection, Database
from models.document_codec import DocumentCodec
from models.history_store import MongoHistoryStore
from models.states.store import MongoStateStore
from tests.support.fake_data_keys import FakeDataKeyStore
from tests.support.fakes import FakeBus
from tests.support.long_form import form
from tests.support.mock_database import mock_database
from tests.support.rig import Rig
from tests.support.samples import flow_dict

ROOT = trusted_origin("root")
MAX_TURNS = 2000
TURNS_OF_LOOP = 12
"""Enough for every task to reach its next call of a store."""
CALLS_OF_COMMAND = 12
CALLS_OF_ERASURE = 90
ALL = 10_000

Before = Callable[[TrustedFlows], Awaitable[None]]
Command = Callable[[TrustedFlows], Awaitable[FlowState]]

_actor: ContextVar[str] = ContextVar("actor")


class Schedule:
    """Lets one waiting call go on at a time: so many of one actor, then so many of another, and so on."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self.calls: dict[str, int] = {}
        self.calls_until_failure = ALL
        self._on = False

    async def turn(self) -> None:
        """Wait for the turn of a call."""
        self.calls_until_failure -= 1
        if not self.calls_until_failure:
            raise StoreUnavailableError("a call fails")
        if self._on:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((_actor.get(), turn))
            await turn

    async def run(self, order: Sequence[tuple[str, int]], **work: Awaitable[Any]) -> None:
        """Run all to their ends."""
        self._on = True
        tasks = {actor: asyncio.create_task(self._as(actor, one)) for actor, one in work.items()}
        for actor, calls in order:
            for _ in range(calls):
                if not await self._next(actor, tasks[actor]):
                    break
        self._on = False
        await asyncio.gather(*tasks.values())

    async def _as(self, actor: str, work: Awaitable[Any]) -> None:
        _actor.set(actor)
        await work

    async def _next(self, actor: str, task: asyncio.Task[None]) -> bool:
        """Let the next call of an actor go on; false if it has ended."""
        for _ in range(MAX_TURNS):
            for _ in range(TURNS_OF_LOOP):
                await asyncio.sleep(0)
            turn = next((waiting for waiting in self._waiting if waiting[0] == actor), None)
            if turn is not None:
                self._waiting.remove(turn)
                self.calls[actor] = self.calls.get(actor, 0) + 1
                turn[1].set_result(None)
                return True
            if task.done():
                return False
            await asyncio.sleep(0.001)  # a command pauses after a lost race
        raise AssertionError(f"{actor} waits for another one")


class Gated:
    """A port or a collection whose calls wait for their turns."""

    def __init__(self, port: Any, schedule: Schedule) -> None:
        self._port = port
        self._schedule = schedule

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._port, name)
        if not iscoroutinefunction(member):
            return member

        async def call(*arguments: Any, **named: Any) -> Any:
            await self._schedule.turn()
            return await member(*arguments, **named)

        return call


class GatedDatabase(Database):
    """A database whose collections wait for their turns."""

    def __init__(self, database: Database, schedule: Schedule) -> None:
        self._gated = database
        self._schedule = schedule

    def collection(self, name: str) -> Collection:
        return cast(Collection, Gated(self._gated.collection(name), self._schedule))


class World:
    """Workers over one database."""

    def __init__(self, database: Database) -> None:
        self.key_store = FakeDataKeyStore()
        self.schedule = Schedule()
        self.database = GatedDatabase(database, self.schedule)
        self.rig = Rig()

    def worker(self) -> FlowService:
        """Make a worker with a cache of its own, and no connection to the others."""
        rig, schedule = self.rig, self.schedule
        wrapping = LocalKeys([b"a" * 32])
        keys = DataKeys(cast(FakeDataKeyStore, Gated(self.key_store, schedule)), wrapping, rig.clock)
        codec = DocumentCodec(AesPayloadCipher(keys))
        rig.keys = KeyPorts(self.key_store, wrapping, keys, MongoClearData(self.database, codec))
        rig.states = cast(Any, MongoStateStore(self.database, codec))
        rig.history = cast(Any, MongoHistoryStore(self.database, codec=codec))
        rig.bus = FakeBus(all_users=True)
        return rig.make()


async def start(flows: TrustedFlows) -> FlowState:
    return (await flows.start_flow("ada", "loop", StartCommand(payload={"text": "of the command"}))).state


async def again(flows: TrustedFlows) -> FlowState:
    return await flows.execute_transition("ada", "loop", "again", {"text": "of the command"})


async def nothing(flows: TrustedFlows) -> None:
    """No state before."""


async def started(flows: TrustedFlows) -> None:
    await start(flows)


async def without_payload(flows: TrustedFlows) -> None:
    await flows.start_flow("ada", "loop")


COMMANDS: dict[str, tuple[Before, Command]] = {
    "first start": (nothing, start),
    "transition": (started, again),
    "transition of a state without payload": (without_payload, again),
}
AFTER_CALLS = [
    *((calls, ALL) for calls in range(form("an erasure in a command", short=7, long=CALLS_OF_COMMAND))),
    *((0, calls) for calls in range(0, CALLS_OF_ERASURE, form("a command in an erasure", short=45, long=1))),
]
CASES = [(name, False) for name in COMMANDS] + [("first start", True)]


@pytest.mark.parametrize(("name", "erased_before"), CASES)
async def test_what_is_acknowledged_after_an_erasure_is_readable(name: str, *, erased_before: bool) -> None:
    before, command = COMMANDS[name]
    for command_calls, erasure_calls in AFTER_CALLS:
        world = World(await mock_database())
        eraser, other = world.worker(), world.worker()
        await eraser.create_flow(flow_dict())
        await eraser.create_flow(flow_dict("other"))
        if erased_before:
            await started(other.as_trusted())
            await world.worker().personal_data.erase("ada", ROOT)
        await other.as_trusted().start_flow("ada", "other")  # the data key is in its cache
        await before(other.as_trusted())
        log: list[Any] = []

        async def erase(eraser: FlowService = eraser, log: list[Any] = log) -> None:
            log.append(await eraser.personal_data.erase("ada", ROOT))

        async def run(other: FlowService = other, log: list[Any] = log) -> None:
            with suppress(FlowNotStartedError):
                log.append(await command(other.as_trusted()))

        order = [("command", command_calls), ("erasure", erasure_calls), ("command", ALL), ("erasure", ALL)]
        await world.schedule.run(order, erasure=erase(), command=run())
        assert world.schedule.calls["erasure"] < CALLS_OF_ERASURE
        assert world.schedule.calls["command"] < CALLS_OF_COMMAND
        at = (command_calls, erasure_calls)
        reader = world.worker().as_trusted()
        found = await reader.get_flow_state("ada", "loop")
        if isinstance(log[-1], FlowState):
            assert found is not None, at
            assert (found.position, found.payload) == (log[-1].position, log[-1].payload), at
        elif found is not None:
            assert found.payload == {"text": "of the command"}, at
        assert (await reader.verify_flow_history("ada", "loop")).broken is None, at


async def test_a_worker_whose_key_was_destroyed_changes_a_state_that_another_one_started() -> None:
    world = World(await mock_database())
    stale = world.worker().as_trusted()
    await world.worker().create_flow(flow_dict())
    await world.worker().create_flow(flow_dict("other"))
    await stale.start_flow("ada", "other", StartCommand(payload={"n": 1}))
    await world.worker().personal_data.erase("ada", ROOT)
    starter = world.worker()
    await without_payload(starter.as_trusted())
    stored = await world.rig.states.load(StateId("loop", "ada"))
    assert stored is not None
    await starter.background.relay.deliver(stored.pending)  # with the outbox goes what the key has sealed
    await again(stale)
    found = await world.worker().as_trusted().get_flow_state("ada", "loop")
    assert found is not None
    assert found.payload == {"text": "of the command"}


@pytest.mark.parametrize("again", [False, True], ids=["erased", "erased and started again"])
async def test_an_erasure_that_failed_at_any_call_is_completed_by_the_next_one(*, again: bool) -> None:
    step = form("failing calls of an erasure", short=7, long=1)
    for calls in range(1, CALLS_OF_ERASURE, step):
        world = World(await mock_database())
        flows = world.worker().as_trusted()
        await world.worker().create_flow(flow_dict())
        await start(flows)
        world.schedule.calls_until_failure = calls
        with suppress(StoreUnavailableError):
            await world.worker().personal_data.erase("ada", ROOT)
        world.schedule.calls_until_failure = ALL
        if again:
            await flows.reset_flow("ada", "loop")
        done = await world.worker().personal_data.erase("ada", ROOT)
        assert done.destroyed_keys, calls
        assert world.key_store.rings["user:ada"].usable == (), calls
        reader = world.worker()
        assert await reader.as_trusted().get_flow_state("ada", "loop") is None
        found = await reader.as_trusted().verify_flow_history("ada", "loop")
        assert (found.broken, found.erased) == (None, found.records - len(done.receipts)), calls
