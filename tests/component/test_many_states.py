"""Very many states of one user in one flow, on the real database: each is as if it were alone."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET

from app.contracts.commands import BatchAction, BatchOperation, PauseCommand, StartCommand, trusted_origin
from app.contracts.errors import EntityRequiredError, FlowStateCorruptionError
from app.contracts.events import Event, Gap, PresentClient, StateChanged, Topic
from app.contracts.migration import MigrateCommand
from app.contracts.ports.states import ListedStatus, StateFilter
from app.contracts.positions import HeldPosition
from app.contracts.state import FlowState, StateId
from app.services import FlowService
from app.services.live.subscribers import LiveEvent
from app.services.wiring import Limits
from config.settings import Settings
from models.database import connect
from models.states import commits as commit
from models.states import store as state_store
from tests.support.databases import SentCommands, discard
from tests.support.fakes import FakeBus, FakeClock
from tests.support.long_form import form
from tests.support.samples import T0, flow_dict
from tests.support.services import service_on

COUNT = form("many states of one user", short=300, long=1000)
ROOT = trusted_origin("root")
ENTITIES = [f"order-{n:04d}" for n in range(COUNT)]
MANY: dict[str, Any] = {"instances": "many"}


class Ada:
    """One user's states in the flow ``loop``, which times out at step b after ten minutes."""

    def __init__(self, url: str) -> None:
        self.clock, self.bus, self.sent = FakeClock(T0), FakeBus(all_users=True), SentCommands()
        self.database = connect(url, f"test_{uuid.uuid4().hex[:12]}", [self.sent])
        limits = Limits(state_ttl=timedelta(days=2))
        self.service: FlowService = service_on(self.database, bus=self.bus, clock=self.clock, limits=limits)
        self.flows = self.service.as_trusted()
        self.published: list[StateChanged] = []
        self.bus.subscribe(self._record_event)

    def _record_event(self, _: Topic, event: Event) -> None:
        if isinstance(event, StateChanged):
            self.published.append(event)

    async def publish_flow(self) -> None:
        await self.database.prepare()
        flow = flow_dict(**MANY)
        flow["steps"]["b"]["timeout"] = {"after": "PT10M", "transition": "back"}
        await self.service.create_flow(flow)

    async def start(self, entities: Iterable[str]) -> None:
        commands = (StartCommand(entity_id=entity, payload={"of": entity}) for entity in entities)
        started = await asyncio.gather(*(self.flows.start_flow("ada", "loop", one) for one in commands))
        assert all(created for _, created in started)

    async def go(self, entity: str) -> FlowState:
        return await self.flows.execute_transition("ada", "loop", "go", entity_id=entity)

    async def listed(self, limit: int, status: ListedStatus | None = None) -> list[list[str]]:
        """Return the entities of each page."""
        pages: list[list[str]] = []
        after = None
        while True:
            page = await self.flows.list_flow_states("ada", "loop", status=status, after=after, limit=limit)
            pages.append([state.id.instance_id or "" for state in page.states])
            after = page.next
            if after is None:
                return pages

    async def all_states(self) -> dict[str, FlowState]:
        found: dict[str, FlowState] = {}
        after = None
        while True:
            page = await self.flows.list_flow_states("ada", "loop", after=after, limit=500)
            found |= {state.id.instance_id or "": state for state in page.states}
            after = page.next
            if after is None:
                return found

    async def kinds(self, entity: str) -> list[str]:
        records = await self.flows.get_flow_history("ada", "loop", entity_id=entity)
        assert {record.instance_id for record in records} == {entity}
        return [record.kind for record in records]

    async def deliver(self) -> None:
        running = asyncio.create_task(self.service.background.relay.run())
        await self.service.background.relay.drain(60)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def ada(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ada]:
    """All states: 250 started at a time, in the order of their entities."""
    for module in (commit, state_store):  # a busy machine
        monkeypatch.setattr(module, "ANSWER_SECONDS", 60)
    assert servers.mongo_url is not None
    one = Ada(servers.mongo_url.get_secret_value())
    await one.publish_flow()
    for n in range(0, COUNT, 250):
        one.clock.time = T0 + timedelta(seconds=n)
        await one.start(ENTITIES[n : n + 250])
    yield one
    await discard(one.database)


def in_list(entities: Iterable[str]) -> list[str]:
    """Return entities as lists have them: the newest start first, then by entity."""
    return sorted(entities, key=lambda entity: (-(ENTITIES.index(entity) // 250), entity))


async def test_the_newest_are_listed_first_and_pages_are_complete(ada: Ada) -> None:
    wanted = in_list(ENTITIES)
    ada.sent.commands.clear()
    ada.sent.names.clear()
    newest = await ada.flows.list_flow_states("ada", "loop", limit=20)
    assert [state.instance_id for state in newest.states] == wanted[:20]
    assert len([name for name in ada.sent.names if name in ("find", "getMore", "aggregate")]) == 1
    pages = await ada.listed(70)
    assert [entity for page in pages for entity in page] == wanted
    assert {len(page) for page in pages[:-1]} == {70}

    paused = ENTITIES[5::50]
    pauses = [
        BatchOperation(op="pause", user_id="ada", flow_id="loop", entity_id=e, body={"reason": "audit"})
        for e in paused
    ]
    outcomes = await ada.service.bulk.run(pauses, ROOT)
    assert [outcome.entity_id for outcome in outcomes if outcome.error is None] == paused
    assert [e for page in await ada.listed(7, "paused") for e in page] == in_list(paused)
    active = [e for page in await ada.listed(100, "active") for e in page]
    assert active == in_list(set(ENTITIES) - set(paused))

    ada.clock.advance(seconds=COUNT)
    state, _ = await ada.flows.start_flow("ada", "loop")
    minted = state.instance_id
    assert minted is not UNSET
    assert minted not in ENTITIES
    newest = await ada.flows.list_flow_states("ada", "loop", limit=1)
    assert [state.instance_id for state in newest.states] == [minted]
    with pytest.raises(EntityRequiredError) as refused:
        await ada.flows.require_flow_state("ada", "loop")
    assert refused.value.details["more"] is True
    assert set(refused.value.details["entityIds"]) <= {*ENTITIES, minted}


async def test_each_moves_alone(ada: Ada) -> None:
    before = await ada.all_states()
    assert sorted(before) == ENTITIES
    await ada.deliver()
    ada.published.clear()
    one, other = ENTITIES[20], ENTITIES[2]
    moved = await ada.go(one)
    moved = await ada.flows.execute_transition("ada", "loop", "back", {"x": 1}, entity_id=one)
    assert (moved.revision, moved.step, moved.payload) == (2, "a", {"of": one, "x": 1})
    after = await ada.all_states()
    assert after.pop(one).revision == 2
    del before[one]
    assert after == before

    await ada.deliver()
    assert [(event.instance_id, event.revision) for event in ada.published] == [(one, 1), (one, 2)]
    assert await ada.kinds(one) == ["started", "transitioned", "transitioned"]
    assert await ada.kinds(other) == ["started"]
    for entity in (one, other):
        verified = await ada.flows.verify_flow_history("ada", "loop", entity_id=entity)
        assert verified.broken is None
        held = HeldPosition(before.get(entity, moved).epoch, 0)
        missed = await ada.flows.get_flow_events("ada", "loop", held, entity_id=entity)
        assert [event.revision for event in missed.events] == ([1, 2] if entity == one else [])

    presence = ada.service.presence
    client = PresentClient(client_id="c-1", user_id="ada", since="2126-01-02T03:04:05.678Z")
    presence.enter(StateId("loop", "ada", one), client)
    assert [c.entity_id for c in presence.known_on(StateId("loop", "ada", one))] == [one]
    assert presence.known_on(StateId("loop", "ada", other)) == []

    assert await ada.flows.clear_flow_state("ada", "loop", entity_id=one)
    assert await ada.flows.get_flow_state("ada", "loop", entity_id=one) is None
    assert await ada.flows.get_flow_state("ada", "loop", entity_id=other) == before[other]
    assert one not in await ada.all_states()


async def test_a_follower_gets_what_it_missed_of_many(ada: Ada) -> None:
    followed = ENTITIES[::20]
    received: list[LiveEvent] = []
    grown = asyncio.Event()

    def deliver(event: LiveEvent) -> None:
        received.append(event)
        grown.set()

    await ada.service.subscribers.follow_user("ada", deliver)
    for entity in followed:
        await ada.go(entity)
    await ada.deliver()
    assert {event.instance_id for event in received if isinstance(event, StateChanged)} >= set(followed)
    received.clear()

    handlers, ada.bus.handlers = ada.bus.handlers, []
    ada.clock.advance(minutes=1)
    since = ada.clock.now()
    for n, entity in enumerate(followed):
        await ada.flows.execute_transition("ada", "loop", "back", entity_id=entity)
        if n % 2:
            await ada.go(entity)
    await ada.deliver()
    assert received == []
    ada.bus.handlers = handlers
    repairs = asyncio.create_task(ada.service.subscribers.run())
    for missed in ada.bus.gap_handlers:
        missed(Gap(since))
    wanted = len(followed) + len(followed) // 2
    async with asyncio.timeout(30):
        while len(received) < wanted:
            grown.clear()
            await grown.wait()
    repairs.cancel()
    await asyncio.gather(repairs, return_exceptions=True)
    positions: dict[str | None, list[int]] = {}
    for event in received:
        assert isinstance(event, StateChanged), "nothing has to be reloaded"
        positions.setdefault(event.instance_id, []).append(event.revision)
    assert positions == {entity: [2, 3] if n % 2 else [2] for n, entity in enumerate(followed)}


async def test_batches_by_entity_and_by_filter(ada: Ada) -> None:
    chosen = ENTITIES[:: COUNT // 10]
    moves = [
        BatchOperation(op="transition", user_id="ada", flow_id="loop", entity_id=e, transition="go")
        for e in chosen
    ]
    outcomes = await ada.service.bulk.run(moves, ROOT)
    assert [outcome.error for outcome in outcomes] == [None] * len(chosen)
    assert [outcome.state.instance_id for outcome in outcomes if outcome.state] == chosen

    by_filter = StateFilter(flow_id="loop", entity_id=ENTITIES[7])
    pause = BatchAction(op="pause", body={"reason": "audit"})
    page, after = await ada.service.bulk.run_on_found(by_filter, pause, ROOT, after=None, limit=10)
    assert ([outcome.entity_id for outcome in page], after) == ([ENTITIES[7]], None)
    states = await ada.all_states()
    assert sorted(e for e, state in states.items() if state.step == "b") == chosen
    assert [e for e, state in states.items() if state.status == "paused"] == [ENTITIES[7]]

    cleared: list[str] = []
    after = None
    while True:
        at_a = StateFilter(flow_id="loop", step="a", status="active")
        page, after = await ada.service.bulk.run_on_found(
            at_a, BatchAction(op="clear"), ROOT, after=after, limit=300
        )
        assert [outcome.error for outcome in page] == [None] * len(page)
        cleared += [str(outcome.entity_id) for outcome in page]
        if after is None:
            break
    assert sorted(cleared) == sorted(set(ENTITIES) - {*chosen, ENTITIES[7]})
    assert sorted(await ada.all_states()) == sorted([*chosen, ENTITIES[7]])


async def test_all_are_migrated(ada: Ada, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.administration.migration.MAX_SECONDS", 120)
    await ada.go(ENTITIES[1])
    await ada.service.administration.pause_flow(
        "ada", "loop", PauseCommand(reason="audit"), entity_id=ENTITIES[2], origin=ROOT
    )
    await ada.deliver()
    await ada.service.update_flow("loop", {"title": "New"})
    report = await ada.service.migration.migrate("loop", MigrateCommand(1, 2), origin=ROOT)
    assert (report.moved, report.failed, report.remaining) == (COUNT, 0, 0)
    states = await ada.all_states()
    assert sorted(states) == ENTITIES
    assert {state.version for state in states.values()} == {2}
    assert (states[ENTITIES[1]].step, states[ENTITIES[2]].status) == ("b", "paused")
    await ada.deliver()
    for entity in ENTITIES[:3]:
        assert (await ada.kinds(entity)).count("migrated") == 1


@pytest.mark.expected_logs("damaged document", "state recovered")
async def test_one_is_recovered_and_the_others_are_as_they_were(ada: Ada) -> None:
    await ada.deliver()
    damaged, other = ENTITIES[4], ENTITIES[40]
    before = await ada.all_states()
    states = ada.database.collection("flow_states")
    key = StateId("loop", "ada", damaged).key
    await states.update_one({"_id": key}, {"$set": {"payload": 7}})
    with pytest.raises(FlowStateCorruptionError):
        await ada.go(damaged)
    assert (await ada.go(other)).step == "b"
    recovered = await ada.service.administration.recover_flow("ada", "loop", entity_id=damaged, origin=ROOT)
    assert recovered.state is not None
    assert (recovered.action, recovered.state.instance_id) == ("rebuilt", damaged)
    assert recovered.state.payload == {"of": damaged}
    after = await ada.all_states()
    assert (after.pop(damaged).revision, after.pop(other).revision) == (1, 1)
    del before[damaged], before[other]
    assert after == before
    await ada.deliver()
    assert await ada.kinds(damaged) == ["started", "recovered"]


async def test_timers_and_expiry_concern_those_that_are_due(ada: Ada) -> None:
    due_changes = ada.service.background.due_changes
    timed, later = ENTITIES[10:300:10], ENTITIES[11:300:10]
    for entity in timed:
        await ada.go(entity)
    ada.clock.advance(minutes=6)
    for entity in later:
        await ada.go(entity)
    ada.clock.advance(minutes=5)
    assert await due_changes.run_timeouts() == len(timed)
    states = await ada.all_states()
    assert sorted(e for e, state in states.items() if state.step == "b") == later
    assert Counter(state.revision for state in states.values()) == {
        0: COUNT - len(timed) - len(later), 1: len(later), 2: len(timed),
    }  # fmt: skip

    # The first 250 were started first, some of which have moved since.
    ada.clock.time = T0 + timedelta(days=2, seconds=100)
    gone = sorted(set(ENTITIES[:250]) - {*timed, *later})
    assert sorted(await ada.all_states()) == sorted(set(ENTITIES) - set(gone)), "before they are ended"
    assert await due_changes.purge_expired() == len(gone)
    await ada.deliver()
    assert await ada.kinds(gone[0]) == ["started", "expired"]
    assert await ada.kinds(ENTITIES[252]) == ["started"]
