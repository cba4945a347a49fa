"""Every query of a request or a sweep is answered from an index, on the embedded database too."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pymongo
import pytest
from msgspec import structs

from app.contracts.callers import Caller, trusted_caller
from app.contracts.commands import ClaimCommand, Origin, PauseCommand, StartCommand, trusted_origin
from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    LanePosition,
    LaneUpdate,
    LoggedDelivery,
    Mark,
)
from app.contracts.errors import EntityRequiredError
from app.contracts.integration import ApiKey
from app.contracts.migration import MigrateCommand
from app.contracts.people import Participant
from app.contracts.ports.keys import WrappedKey
from app.contracts.ports.states import REMEMBERED_REQUESTS, StateFilter, StoredState
from app.contracts.positions import HeldPosition
from app.contracts.record import HistoryFilter
from app.contracts.state import StateId
from app.flow.history_chain import seal
from app.kit.clock import SystemClock
from app.main import Backend
from app.services import FlowService
from config.settings import Settings
from models.database import Database, connect
from models.integrations.api_keys import MongoApiKeyStore
from models.integrations.lanes import MongoDeliveryLanes
from models.integrations.letters import MongoDeadLetters
from models.integrations.log import MongoDeliveryLog
from models.states.store import MongoStateStore
from tests.support.databases import SentCommands
from tests.support.samples import PROGRAM, T0, flow_dict, moved, peopled, record
from tests.support.versions import edited

# Plans are read between the requests, in the loop of the service: its bus may miss a heartbeat.
pytestmark = pytest.mark.expected_logs("redis connection lost", optional=True)

SMALL = {
    *("flow_leases", "flow_secrets", "flow_corruptions"),
    *("flow_integrations", "flow_integration_health"),
}
"""Collections of a few documents, whatever the number of states."""
MANY = 120
BYSTANDERS = 200
"""States of others, with a record each: a scan reads them too."""

EXPECTED = {
    "flow_states: _id",
    "flow_states: _id, epoch, revision",
    "flow_states: userId",
    "flow_states: userId, flowId",
    "flow_states: outbox.timestamp",
    "flow_states: expiresAt",
    "flow_states: timeoutAt",
    "flow_states: people.userId",
    "flow_states: listed",
    "flow_states: waitsFor",
    "flow_states: terms",
    "flow_reservations: _id",
    "flow_history: _id",
    "flow_history: stateId",
    "flow_history: stateId, requestId",
    "flow_history: named",
    "flow_api_keys: _id",
    "flow_api_keys: alias",
    "flow_data_keys: _id",
    "flow_data_keys: _id, revision",
    "flow_data_keys: wrappedBy",
}
"""The fields by which the use cases and sweeps are known to ask, so that none of them is left out below."""

EXPECTED_OF_DELIVERIES = {
    "flow_delivery_lanes: _id",
    "flow_delivery_lanes: due",
    "flow_delivery_lanes: failing",
    "flow_delivery_lanes: waits",
    "flow_delivery_lanes: stateKey",
    "flow_delivery_log: _id",
    "flow_delivery_log: eventId",
    "flow_delivery_log: stateKey",
    "flow_delivery_log: first",
    "flow_dead_letters: _id",
    "flow_dead_letters: eventId",
    "flow_dead_letters: place",
    "flow_dead_letters: died",
    "flow_dead_letters: stateKey",
}

T = TypeVar("T", DeadLetter, LoggedDelivery)
Query = tuple[str, dict[str, Any]]
Explain = Callable[[Query], dict[str, Any]]
Client = pymongo.MongoClient[dict[str, Any]]


def queries(commands: list[dict[str, Any]]) -> Iterator[Query]:
    """The collection and the filter of every query in ``commands``: of an aggregation, its first stage."""
    for command in commands:
        name = next(iter(command))
        collection = command[name]
        if name == "find":
            yield collection, command["filter"]
        elif name == "aggregate":
            first = command["pipeline"][0]
            if "$sample" not in first:  # once in the life of a worker
                yield collection, first["$match"]
        elif name in ("update", "delete"):
            for statement in command[f"{name}s"]:
                yield collection, statement["q"]


def shape(query: Query) -> str:
    """The query without its values."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(member) for key, member in value.items()}
        return [of(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else "?"

    return f"{query[0]} {of(query[1])}"


async def exercise(service: FlowService) -> None:
    """Run every use case that a request or a sweep has, but the statistics, which read everything."""
    flows = service.as_trusted()
    root = trusted_origin("root")
    timed = edited(flow_dict(slug="timed"), a__timeout={"after": "PT1S", "transition": "go"})
    await service.create_flow(timed)
    await service.create_flow(flow_dict(slug="short", ttl="PT1S"))
    await service.create_flow(flow_dict())
    await asyncio.gather(*(flows.start_flow(f"user-{n}", "loop") for n in range(BYSTANDERS)))
    for flow_id in ("loop", "timed", "short"):
        await flows.start_flow("ada", flow_id, StartCommand(payload={"x": 1}))
    for n in range(REMEMBERED_REQUESTS + 2):  # so that a repeat is looked for in the history
        again = Origin(trusted_caller("ada"), request_id=f"r-{n}")
        await service.execute_transition("ada", "loop", ("go", "back")[n % 2], origin=again)
    await service.background.relay.drain(10)
    repeated = Origin(trusted_caller("ada"), request_id="r-0")
    assert (await service.execute_transition("ada", "loop", "go", origin=repeated)).revision == 1

    state = await flows.get_flow_state("ada", "loop")
    assert state is not None
    await flows.get_flow_events("ada", "loop", HeldPosition(state.epoch, 2))
    await flows.get_user_flows("ada")
    history = await flows.get_flow_history("ada", "loop", limit=3)
    await flows.get_flow_history("ada", "loop", after=history[-1].id, only=HistoryFilter(actor="ada"))
    assert (await flows.verify_flow_history("ada", "loop")).whole
    for only in (
        StateFilter(),
        StateFilter(flow_id="loop", step="a"),
        StateFilter(user_id="ada"),
        StateFilter(user_id="ada", flow_id="loop"),
    ):
        page = await service.administration.find_states(only, limit=2, caller=PROGRAM)
        if page.next is not None:
            await service.administration.find_states(only, after=page.next, limit=2, caller=PROGRAM)
    await service.administration.pause_flow("ada", "loop", PauseCommand("audit"), origin=root)
    await service.administration.resume_flow("ada", "loop", origin=root)
    await service.administration.recover_flow("ada", "loop", origin=root)
    await service.update_flow("loop", {"title": "Next"})
    await service.migration.migrate("loop", MigrateCommand(1, 2, limit=3), origin=root)
    await flows.delete_flow("short")
    await exercise_many(service)


async def exercise_many(service: FlowService) -> None:
    """Run the use cases that only flows with many states for each user have, beside states of others."""
    flows = service.as_trusted()
    approvers = {"approver": {"claim": "PT15M"}, "auditor": {"group": "audit"}}
    await service.create_flow(purchase_flow(approvers))
    people = StartCommand(payload={"number": "A-1"}, participants=(Participant("approver", user_id="gil"),))
    owners = [f"user-{n}" for n in range(BYSTANDERS // 4)]
    await asyncio.gather(*(flows.start_flow(owner, "purchase", StartCommand()) for owner in owners))
    entities = []
    for n in range(4):
        own = Origin(trusted_caller("ada"), request_id=f"start-{n}")
        begun = await service.start_flow("ada", "purchase", people, origin=own)
        assert await service.start_flow("ada", "purchase", people, origin=own) == begun
        entities.append(begun.state.id.instance_id)
    await service.background.relay.drain(10)
    with pytest.raises(EntityRequiredError):
        await flows.require_flow_state("ada", "purchase")
    assert await flows.require_flow_state("ada", "purchase", entity_id=entities[0])
    page = await flows.list_flow_states("ada", "purchase", limit=2)
    await flows.list_flow_states("ada", "purchase", after=page.next, limit=2)
    await flows.list_flow_states("ada", "purchase", status="active")
    gil = Caller("gil", groups=frozenset({"audit", "it"}))
    waiting = await service.administration.list_awaiting("approver", gil, limit=2)
    assert len(waiting.states) == 2
    rest = await service.administration.list_awaiting("approver", gil, after=waiting.next)
    assert len(rest.states) == 2
    assert (await service.administration.list_awaiting("auditor", gil)).states == []
    found = await service.search.find("purchase", "/number=A-1", PROGRAM, limit=2)
    assert len(found.states) == 2
    assert len((await service.search.find("purchase", "/number=A-1", PROGRAM, after=found.next)).states) == 2
    assert (await service.search.find("purchase", "/number=A-2", PROGRAM)).states == []
    by_gil = Origin(gil)
    await service.people.claim("ada", "purchase", ClaimCommand(), entity_id=entities[0], origin=by_gil)
    await service.people.release("ada", "purchase", ClaimCommand(), entity_id=entities[0], origin=by_gil)
    await service.execute_transition("ada", "purchase", "approve", entity_id=entities[0], origin=by_gil)
    await service.administration.find_states(StateFilter(entity_id=entities[1]), limit=2, caller=PROGRAM)
    await flows.get_flow_history("ada", "purchase", entity_id=entities[0])
    assert (await flows.verify_flow_history("ada", "purchase", entity_id=entities[0])).whole


def purchase_flow(participants: dict[str, Any]) -> dict[str, Any]:
    """A flow with many states for each user, which an approver moves from step a."""
    flow = flow_dict("purchase", instances="many", participants=participants, searchable=["/number"])
    flow["steps"]["a"]["transitions"]["approve"] = {
        "transition": "approve",
        "step": "b",
        "explicit": True,
        "roles": ["approver"],
    }
    return flow


async def exercise_keys(parts: Backend) -> None:
    """Use the keys of one service beside those of others."""
    store = MongoApiKeyStore(parts.database)
    now = SystemClock().now()
    for n in range(40):
        hashed = f"{n:064x}"
        await store.add(
            ApiKey(id=f"k{n}", alias=f"service-{n % 4}", hashed=hashed, created_at=now, created_by="root")
        )
    await store.note_use("k1", now)
    assert await store.revoke("service-1", "k1", now)
    assert await store.get("k1")
    assert len(await store.of_integration("service-1")) == 10
    assert await store.delete_of("service-1") == 10


async def exercise_data_keys(parts: Backend) -> None:
    """Run every operation of the store of data keys, beside those of other users."""
    store = parts.encryption.store
    key = WrappedKey("00" * 8, b"w", "local:a", b"c", T0)
    await store.create_many({f"user:zz-{n}": key for n in range(BYSTANDERS)})
    await store.create_many({"user:zz-0": key, "user:zz-x": key})
    await store.load_many(["user:zz-0", "user:zz-1"])
    await store.rewrap("user:zz-0", key, structs.replace(key, wrapped=b"again"))
    await store.retire("user:zz-0")
    await store.destroy_retired("user:zz-0", T0, "root")
    await store.other_wrappings(["local:a"])
    assert await store.wrapped_by_others("local:a", "user:zz-", 10) == []


async def sweep(service: FlowService, parts: Backend) -> None:
    """Run what the background does, once."""
    states = MongoStateStore(parts.database, parts.codec)
    await states.changed_since(["ada", "bob"], SystemClock().now() - timedelta(hours=1))
    await service.background.sweep.run()
    await service.background.due_changes.run_timeouts()
    await service.background.due_changes.purge_expired()
    for _ in range(3):
        await service.background.check.run()


async def erase_others(parts: Backend) -> None:
    """Erase one of the people who are named in states of others; the other one stays there."""
    states = MongoStateStore(parts.database, parts.codec)
    for n in range(0, BYSTANDERS, 10):
        stored = await states.load(StateId("loop", f"user-{n}"))
        assert stored is not None
        after = moved(peopled(structs.replace(stored.state, transitions=()), "bob", "cleo"))
        await states.commit(stored.state.position, seal(record(after, kind="assigned"), stored.head, "salt"))
    done = await parts.service.personal_data.erase("bob", trusted_origin("root"))
    assert done.pseudonymised_states == BYSTANDERS // 10


@pytest.fixture(scope="module")
def client(servers: Settings) -> Iterator[Client]:
    """The connection on which plans are read."""
    assert servers.mongo_url is not None
    with Client(servers.mongo_url.get_secret_value()) as client:
        yield client


@pytest.fixture
def explain(client: Client, settings: Settings) -> Explain:
    """A function that returns the plan of a query, and how many documents it read."""

    def explained(query: Query) -> dict[str, Any]:
        command = {"find": query[0], "filter": query[1]}
        return client[settings.mongo_database].command("explain", command, verbosity="executionStats")

    return explained


async def test_no_query_scans(settings: Settings, explain: Explain) -> None:
    sent = SentCommands()
    parts = Backend(settings, listeners=[sent])
    async with parts.running() as service:
        sent.commands.clear()
        await exercise(service)
        await sweep(service, parts)
        await service.personal_data.export("ada")
        await service.personal_data.erase("ada", trusted_origin("root"))
        await erase_others(parts)
        await exercise_keys(parts)
        await exercise_data_keys(parts)
        await service.background.relay.drain(10)
        require_plans(explain, sent, EXPECTED)


def require_plans(explain: Explain, sent: SentCommands, expected: set[str]) -> None:
    """Require that an index serves every query sent, and that the ``expected`` ones are among them."""
    asked = {shape(query): query for query in queries(list(sent.commands)) if query[0] not in SMALL}
    fields = {f"{collection}: {', '.join(condition)}" for collection, condition in asked.values()}
    assert fields >= expected
    for name, query in asked.items():
        plan = explain(query)
        assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"]), name
        assert plan["executionStats"]["totalDocsExamined"] <= plan["executionStats"]["nReturned"], name


async def exercise_deliveries(database: Database) -> None:
    """Run every operation of the stores of deliveries, beside the data of another integration."""
    lanes, log, letters = MongoDeliveryLanes(database), MongoDeliveryLog(database), MongoDeadLetters(database)
    others = [StateId("loop", f"user-{n}") for n in range(BYSTANDERS)]
    place = LanePosition("e", 1)
    for alias, states in (("other", others), ("pay", others[:20])):
        await lanes.mark([Mark(alias, state_id, place, T0, T0) for state_id in states], T0)
        await log.append(alias, [dead_or_done(LoggedDelivery, alias, each, transports=()) for each in states])
        died = [dead_or_done(DeadLetter, alias, each, reason="receiver", detail="") for each in states]
        await letters.add(died)
    claimed = await lanes.claim(await lanes.list_due("pay", T0, 10), "one", T0, T0)
    job = structs.replace(claimed[0], id=structs.replace(claimed[0].id, job="job-1"))
    await lanes.add_jobs([job])
    updates = [LaneUpdate(lane=lane, cursor=place, due_at=None) for lane in (*claimed[5:], job)]
    later = T0 + timedelta(hours=1)
    failed = [LaneUpdate(lane=lane, cursor=None, due_at=later, failures=1) for lane in claimed[:5]]
    await lanes.release([*updates, *failed], T0)
    assert await lanes.get(claimed[0].id)
    for read in (lanes.list_failing, lanes.list_lanes):
        await read("pay", (await read("pay", None, 3)).next, 3)
    await lanes.count_due("pay", 10)
    waiting = await lanes.list_waiting("pay", None, 3)
    await lanes.list_waiting("pay", waiting[-1].place, 3)
    await lanes.end_waiting("pay", waiting)
    await lanes.make_due("pay", T0)
    await log.read("pay", 3, 5)
    await log.find("evt-user-3")
    for only in (
        DeadLetterFilter(),
        DeadLetterFilter(service="pay", user_id="user-3", since=T0),
        DeadLetterFilter(ids=("evt-user-3",)),
        DeadLetterFilter(service="pay", ids=("evt-user-3",)),
    ):
        page = await letters.find(only, None, 3)
        await letters.find(only, page.next, 3)
        assert await letters.count(only) > 0
    await letters.replace(page.items[0])
    await letters.delete("pay", ["evt-user-3"])
    await log.remove_expired(T0)
    await letters.remove_expired(T0)
    for store in (lanes, log, letters):
        assert await store.delete_of_state(others[5]) == 2
        assert await store.delete_of_integration("pay") > 0


def dead_or_done(shape: type[T], alias: str, state_id: StateId, **members: Any) -> T:
    """A dead letter or an entry of the log."""
    members["died_at" if shape is DeadLetter else "delivered_at"] = T0
    event_id = f"evt-{state_id.user_id}"
    return shape(
        id=event_id,
        alias=alias,
        state_id=state_id,
        epoch="e",
        revision=1,
        type="flow.started",
        at=T0,
        **members,
    )


async def test_no_query_of_deliveries_scans(settings: Settings, explain: Explain) -> None:
    sent = SentCommands()
    assert settings.mongo_url is not None
    database = connect(settings.mongo_url.get_secret_value(), settings.mongo_database, [sent])
    await database.prepare()
    sent.commands.clear()
    await exercise_deliveries(database)
    require_plans(explain, sent, EXPECTED_OF_DELIVERIES)
    await database.close()


@pytest.mark.parametrize("size", [2, 7, 50])
async def test_a_page_reads_little_more_than_itself(settings: Settings, explain: Explain, size: int) -> None:
    """All but the first one, which finds out how dense the keys are."""
    sent = SentCommands()
    parts = Backend(settings, listeners=[sent])
    async with parts.running() as service:
        flows = service.as_trusted()
        await service.create_flow(flow_dict())
        await asyncio.gather(*(flows.start_flow(f"user-{n:04}", "loop") for n in range(MANY)))
        store = MongoStateStore(parts.database, parts.codec)
        after, pages, read = "", 0, 0
        while page := await store.walk(after, size):
            after = page[-1].state.key if isinstance(page[-1], StoredState) else ""
            if pages:
                walked = [query for query in queries(sent.commands) if query[0] == "flow_states"]
                found = [explain(query)["executionStats"] for query in walked]
                read += sum(stats["totalDocsExamined"] for stats in found)
            sent.commands.clear()
            pages += 1
    assert pages == -(-MANY // size)
    assert read <= 10 * MANY
