"""Behaviour of the stores that only a real database shows."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.errors import AutoReconnect

from app.contracts.commands import StartCommand
from app.contracts.deliveries import LaneId, LanePosition, LaneUpdate, Mark
from app.contracts.errors import DatabaseRefusedError, FlowStateCorruptionError, StoreUnavailableError
from app.contracts.state import StateId
from app.main import Backend
from config.settings import Settings
from models.database import connect
from models.definition_store import MongoDefinitionStore
from models.history_store import MongoHistoryStore
from models.indexes import EXPIRY_GRACE_SECONDS
from models.integrations.lanes import MongoDeliveryLanes
from models.states import commits as commit
from models.states.store import MongoStateStore
from models.write_failures import LAST_FAILURE
from tests.support.databases import InterceptedDatabase, SentCommands
from tests.support.samples import T0, flow_dict, fresh, moved, record
from tests.support.services import service_on


async def test_indexes_are_as_declared(parts: Backend) -> None:
    states = await parts.database.collection("flow_states").index_information()
    assert states["user_flow"]["key"] == [("userId", 1), ("flowId", 1)]
    assert states["created"]["key"] == [("createdAt", 1)]
    assert states["expires"]["key"] == [("expiresAt", 1)]
    assert states["expires"]["expireAfterSeconds"] == EXPIRY_GRACE_SECONDS
    assert states["waiting"]["key"] == [("outbox.timestamp", 1)]
    assert states["timeout"]["key"] == [("timeoutAt", 1)]
    assert states["waiting"]["sparse"] is states["timeout"]["sparse"] is True
    definitions = await parts.database.collection("flow_definitions").index_information()
    assert definitions["flow_version"]["key"] == [("flowId", 1), ("version", -1)]
    assert definitions["flow_version"]["unique"] is True
    history = await parts.database.collection("flow_history").index_information()
    assert history["state_position"]["key"][0] == ("stateId", 1)


async def test_a_prepared_database_is_left_as_it_is_and_a_lost_index_comes_back(settings: Settings) -> None:
    assert settings.mongo_url is not None
    sent = SentCommands()
    database = connect(settings.mongo_url.get_secret_value(), settings.mongo_database, [sent])
    await database.prepare()
    states = database.collection("flow_states")
    await states.drop_index("created")
    await states.drop_index("timeout")
    await database.prepare()
    assert set(await states.index_information()) >= {"created", "timeout"}
    sent.names.clear()
    await database.prepare()
    assert {"create", "createIndexes", "dropIndexes"} & set(sent.names) == set()
    await database.close()


async def test_history_has_a_ttl_only_where_records_have_an_end(settings: Settings) -> None:
    """A TTL that never ends anything has the embedded server read the whole history each minute."""
    assert settings.mongo_url is not None
    database = connect(settings.mongo_url.get_secret_value(), settings.mongo_database)
    history = database.collection("flow_history")
    await database.prepare()
    assert "retention" not in await history.index_information()
    await database.prepare(retention=True)
    assert (await history.index_information())["retention"]["expireAfterSeconds"] == 0
    await MongoHistoryStore(database, retention=timedelta(days=1)).append([record(fresh())])
    await database.prepare()
    assert "retention" in await history.index_information(), "a record still has an end"
    await history.delete_many({})
    await MongoHistoryStore(database).append([record(fresh())])
    await database.prepare()
    assert "retention" not in await history.index_information()
    await database.close()


async def test_lanes_without_work_end_with_the_history_of_their_states(parts: Backend) -> None:
    """Not those of states that wait, however long: ``pending`` lists them."""
    day, state_id = timedelta(days=1), StateId("loop", "ada")
    lanes = MongoDeliveryLanes(parts.database, parts.codec, retention=day)
    stored = parts.database.collection("flow_delivery_lanes")

    async def ends_at(revision: int, waits_since: datetime | None = None, *, works: bool = True) -> object:
        position = LanePosition("e", revision)
        await lanes.mark([Mark("svc", state_id, position, T0, waits_since)], T0)
        if works:
            (lane,) = await lanes.claim([LaneId("svc", state_id)], str(revision), T0, T0 + day)
            await lanes.release([LaneUpdate(lane=lane, cursor=position, due_at=None)], T0)
        (found,) = await stored.find({}).to_list(None)
        return found.get("expiresAt")

    assert await ends_at(0) == T0 + day
    assert await ends_at(1, works=False) is None, "it has work"
    assert await ends_at(2, waits_since=T0) is None
    assert await ends_at(3) == T0 + day


async def test_the_setting_for_retention_makes_the_ttl(settings: Settings) -> None:
    parts = Backend(settings.model_copy(update={"history_retention": timedelta(days=1)}))
    async with parts.running():
        for name in ("flow_history", "flow_delivery_lanes"):
            assert "retention" in await parts.database.collection(name).index_information()


async def test_readiness_after_a_failed_write_is_proven_by_a_write(
    parts: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LAST_FAILURE, "reason", "the disk of the database is full")
    await parts.database.ping()
    assert LAST_FAILURE.reason is None
    probes = {"_id": {"$regex": "^probe"}}
    assert await parts.database.collection("flow_leases").count_documents(probes) == 0


Write = Callable[[], Awaitable[Any]]


def store_through(parts: Backend, write: Callable[[Write], Any]) -> MongoStateStore:
    """Build a store whose commands that write commits go through a function."""
    return MongoStateStore(InterceptedDatabase(parts.database, "flow_states", bulk_write=write), parts.codec)


def breaking(parts: Backend, faults: list[str]) -> MongoStateStore:
    """Build a store whose connection breaks at each write, ``before`` it is made or ``after``."""

    async def broken(write: Write) -> Any:
        fault = faults.pop(0) if faults else ""
        if fault == "before":
            raise AutoReconnect("connection closed")
        done = await write()
        if fault == "after":
            raise AutoReconnect("connection closed")
        return done

    return store_through(parts, broken)


@pytest.mark.parametrize("faults", [["before"], ["after"], ["before", "after"], ["before", "before"]])
async def test_an_outcome_that_was_lost_is_looked_up(parts: Backend, faults: list[str]) -> None:
    state = fresh()
    assert await breaking(parts, [*faults]).commit(None, record(state, commit="mine"))
    second = moved(state)
    store = breaking(parts, [*faults])
    assert await store.commit(state.position, record(second, commit="mine-too"))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert [p.commit_id for p in stored.pending] == ["mine", "mine-too"]


def late(parts: Backend) -> MongoStateStore:
    """Build a store whose first write seems lost, and arrives just before the second."""
    under_way: list[Write] = []

    async def delayed(write: Write) -> Any:
        if not under_way:
            under_way.append(write)
            raise AutoReconnect("connection closed")
        if len(under_way) == 1:
            under_way.append(write)
            await under_way[0]()
        return await write()

    return store_through(parts, delayed)


async def test_a_write_that_arrives_late_is_known_as_the_own(parts: Backend) -> None:
    state = fresh()
    assert await late(parts).commit(None, record(state, commit="mine"))
    assert await late(parts).commit(state.position, record(moved(state), commit="mine-too"))
    stored = await MongoStateStore(parts.database, parts.codec).load(StateId("loop", "ada"))
    assert stored is not None
    assert [p.commit_id for p in stored.pending] == ["mine", "mine-too"]


async def test_an_outcome_is_found_after_the_record_was_delivered(parts: Backend) -> None:
    """Another worker may deliver the record while the committer still asks whether it was made."""
    state = fresh()
    other = MongoStateStore(parts.database, parts.codec)
    await other.commit(None, record(state))
    made = record(moved(state), commit="mine")
    lost: list[bool] = []

    async def deliver_and_lose(write: Write) -> Any:
        done = await write()
        if lost:
            return done
        lost.append(True)
        await MongoHistoryStore(parts.database, codec=parts.codec).append([made])
        await other.release([made])
        raise AutoReconnect("connection closed")

    assert await store_through(parts, deliver_and_lose).commit(state.position, made)
    assert lost


async def test_a_rivals_commit_is_not_mistaken_for_the_own(parts: Backend) -> None:
    state = fresh()
    rival_store = MongoStateStore(parts.database, parts.codec)
    await rival_store.commit(None, record(state))
    rivals = [record(moved(state, message="rival"), commit="rival")]

    async def overtaken(write: Write) -> Any:
        if rivals:
            assert await rival_store.commit(state.position, rivals.pop())
            raise AutoReconnect("connection closed")
        return await write()

    store = store_through(parts, overtaken)
    assert not await store.commit(state.position, record(moved(state), commit="mine"))
    stored = await rival_store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.state.message == "rival"


async def test_what_is_known_of_a_batch_is_reported_though_a_look_fails(parts: Backend) -> None:
    """Of several in one command some lost their race; the look at which fails once."""
    looks: list[str] = []

    def fail_once(find: Callable[[], Any]) -> Any:
        looks.append("failed" if not looks else "answered")
        if len(looks) == 1:
            raise AutoReconnect("connection closed")
        return find()

    store = MongoStateStore(InterceptedDatabase(parts.database, "flow_states", find=fail_once), parts.codec)
    states = [fresh(user=f"u-{n}") for n in range(3)]
    await asyncio.gather(*(store.commit(None, record(state)) for state in states[:2]))
    assert looks == []
    made = await asyncio.gather(
        store.commit(states[0].position, record(moved(states[0]))),
        store.commit(moved(states[1]).position, record(moved(moved(states[1])))),
        store.commit(None, record(states[2])),
    )
    assert looks == ["failed", "answered"]
    assert list(made) == [True, False, True]


async def test_an_unavailable_store_is_reported(parts: Backend) -> None:
    with pytest.raises(StoreUnavailableError):
        await breaking(parts, ["before"] * 9).commit(None, record(fresh()))


@pytest.mark.expected_logs("damaged document", "damaged state", "state recovered", optional=True)
@pytest.mark.parametrize(
    "damage",
    [
        {"$unset": {"step": ""}},
        {"$set": {"revision": "two"}},
        {"$set": {"status": "odd"}},
        {"$set": {"step": "nowhere"}},
        {"$set": {"version": 99}},
        {"$set": {"payload": 7}},
        {"$unset": {"epoch": ""}},
    ],
)
async def test_a_damaged_document_is_corruption_never_a_bare_500(parts: Backend, damage: Any) -> None:
    service = parts.service
    flows = service.as_trusted()
    await flows.start_flow("ada", "user-onboarding")
    await parts.database.collection("flow_states").update_one({"_id": "user-onboarding:ada"}, damage)
    for work in (
        flows.get_flow_state("ada", "user-onboarding"),
        flows.execute_transition("ada", "user-onboarding", "start"),
    ):
        with pytest.raises(FlowStateCorruptionError) as refusal:
            await work
        assert refusal.value.details["flowId"] == "user-onboarding"
    await flows.start_flow("ada", "sign-in")
    assert "sign-in" in [state.flow for state in await flows.get_user_flows("ada")], "no other is hidden"
    repaired = await flows.reset_flow("ada", "user-onboarding")
    assert repaired.step == "welcome"
    assert await flows.get_flow_state("ada", "user-onboarding") == repaired
    assert (await flows.execute_transition("ada", "user-onboarding", "start")).step == "profile-setup"


@pytest.mark.expected_logs("unreadable definition")
async def test_a_damaged_definition_is_reported_and_hides_no_other(parts: Backend) -> None:
    definitions = parts.service.definitions
    for slug in ("whole", "loop"):
        await definitions.create(flow_dict(slug), actor="root", source="api")
    await definitions.update("loop", {"title": "Second"}, actor="root", source="api")
    stored = parts.database.collection("flow_definitions")
    await stored.update_one({"_id": "loop:2"}, {"$set": {"definition": '{"flow": "loop"}'}})
    store = MongoDefinitionStore(parts.database)
    for read in (store.latest("loop"), store.get("loop", 2)):
        with pytest.raises(FlowStateCorruptionError, match=r"version 2 .* restore it in the database"):
            await read
    assert await store.get("loop", 1) is not None
    assert [version.version for version in await store.versions("loop")] == [2, 1]
    assert "whole" in [definition.flow.flow for definition in (await store.list_latest(None, 100)).items]


@pytest.mark.expected_logs("damaged document")
async def test_what_is_damaged_does_not_stop_the_expiry_of_others(parts: Backend) -> None:
    states = parts.database.collection("flow_states")
    for user in ("damaged", "sound"):
        await parts.service.as_trusted().start_flow(user, "user-onboarding")
    past = {"$set": {"expiresAt": T0.replace(year=2020)}}
    await states.update_many({}, past)
    await states.update_one({"userId": "damaged"}, {"$set": {"revision": "x"}})
    assert await parts.service.purge_expired_flows() == 1


@pytest.mark.parametrize(
    "payload",
    [
        {"x": {"$ref": "a", "$id": 1}},
        {"$oid": "x"},
        {"$where": 1, "a.b": {"": 0}},
        {"n": -(2**63), "f": 1e300},
    ],
)
async def test_payloads_that_mean_something_to_the_database_do_not(parts: Backend, payload: Any) -> None:
    service = parts.service
    flows = service.as_trusted()
    await flows.start_flow("ada", "user-onboarding", StartCommand(payload=payload))
    await flows.execute_transition("ada", "user-onboarding", "start", payload)
    await service.background.relay.drain(5)
    state = await flows.get_flow_state("ada", "user-onboarding")
    assert state is not None
    assert state.payload == payload
    history = await flows.get_flow_history("ada", "user-onboarding")
    assert [r.payload for r in history] == [payload, payload]
    slug = await service.create_flow(flow_dict(meta=payload))
    assert [f.meta for f in await flows.list_flows() if f.flow == slug] == [payload]


async def test_a_transition_is_one_read_and_one_update(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands on the way of a request; the relay's come after it, shared by its batch: one insert, and
    updates of 10, 20, 40 and 32. (Fewer at a time on a machine that is busy: so long is not waited for one
    answer.)"""
    monkeypatch.setattr(commit, "ANSWER_SECONDS", 60)
    assert settings.mongo_url is not None
    sent = SentCommands()
    database = connect(settings.mongo_url.get_secret_value(), settings.mongo_database, [sent])
    try:
        await database.prepare()
        service = service_on(database)
        flows = service.as_trusted()
        await service.create_flow(flow_dict())
        await flows.start_flow("ada", "loop")
        sent.names.clear()
        await flows.execute_transition("ada", "loop", "go")
        assert sent.names == ["find", "update"]
        sent.names.clear()
        await flows.get_flow_state("ada", "loop")
        assert sent.names == ["find"]
        await asyncio.gather(*(flows.start_flow(f"u{n}", "loop") for n in range(100)))
        sent.names.clear()
        async with service:  # its relay finds them waiting, and delivers them together
            await service.background.relay.drain(60)
        delivering = [name for name in sent.names if name in ("insert", "update", "delete")]
        assert delivering == ["insert", *["update"] * 4]
        assert await database.collection("flow_history").count_documents({}) == 102
        undelivered = {"outbox.0": {"$exists": True}}
        assert await database.collection("flow_states").count_documents(undelivered) == 0
    finally:
        await database.close()


def test_a_wrong_url_is_refused_without_a_word_of_its_password() -> None:
    for url in ("mongodb://ada:pa/ss:word@host", "mongodb://ada:pass%word@host", "redis://ada:password@host"):
        with pytest.raises(DatabaseRefusedError, match="it must look like mongodb://") as refused:
            connect(url, "flow")
        assert not {"pa", "ss", "word", "ada"} & set(re.findall(r"[a-z]+", str(refused.value)))


async def test_a_name_that_dns_does_not_know_is_an_outage() -> None:
    database = connect("mongodb+srv://nowhere.example.invalid/flow", "flow")
    with pytest.raises(StoreUnavailableError, match="DNS does not know"):
        await database.ping()
    await database.close()


@pytest.mark.expected_logs("MongoDB refused access")
async def test_who_waits_for_a_database_does_not_wait_for_one_that_refuses(settings: Settings) -> None:
    assert settings.mongo_url is not None
    wrong = settings.mongo_url.get_secret_value().replace("://flow:", "://flow:x", 1)
    parts = Backend(settings.model_copy(update={"mongo_url": SecretStr(wrong)}))
    with pytest.raises(DatabaseRefusedError, match=r"MongoDB refuses \(code 18\): check the user"):
        async with asyncio.timeout(10), parts.running(patient=True):
            pytest.fail("it is let in")


async def test_indexes_of_older_versions_are_removed(settings: Settings) -> None:
    assert settings.mongo_url is not None
    database = connect(settings.mongo_url.get_secret_value(), settings.mongo_database)
    states = database.collection("flow_states")
    await states.create_index([("expiresAt", 1)], name="expiry", expireAfterSeconds=3600)
    await states.create_index(
        [("updatedAt", 1)], name="undelivered", partialFilterExpression={"outbox.0": {"$exists": True}}
    )
    await database.prepare()
    assert {"expiry", "undelivered"} & set(await states.index_information()) == set()
    await database.prepare()
    await database.close()
