"""``data export`` and ``data import`` on a real database: exact, consistent, and repeatable."""

import asyncio
import gzip
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from bson.codec_options import CodecOptions
from bson.json_util import loads
from bson.raw_bson import RawBSONDocument

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin, trusted_origin
from app.contracts.deliveries import LaneId, LanePosition, LaneUpdate, Mark
from app.contracts.errors import DatabaseRefusedError, DataTransferError
from app.contracts.state import StateId
from app.contracts.transfer import TransferReport
from app.main import Backend, publish_definitions
from config.settings import Settings
from models.data_export import export_data
from models.data_file import (
    COLLECTIONS,
    FORMAT,
    FORMAT_VERSION,
    DataFileWriter,
    Header,
    created_file,
    read_file,
    verify_file,
)
from models.data_import import import_data
from models.database import IMPORT_LEASE, Database, connect
from models.documents import DOCUMENTS
from models.integrations.lanes import MongoDeliveryLanes
from tests.support.databases import discard
from tests.support.faults import BreakingProxy, MongoServer
from tests.support.samples import T0, flow_dict

SHAPES = Path(__file__).parents[1] / "stored_shapes"
HEADER = Header(FORMAT, FORMAT_VERSION, "0.5.0", "2026-01-01T00:00:00.000Z")
ROOT = trusted_origin("root")
POSITIONS = {"ada": 1, "eve": 5, "new": 5}
"""Changes that are marked for a service, by user."""
MARK = {"_id": IMPORT_LEASE, "fence": 1, "until": datetime(9999, 1, 1, tzinfo=UTC)}
RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)

MakeDatabase = Callable[[], Awaitable[Database]]


def ignore(collection: str, documents: int) -> None:
    """Report no progress."""


@pytest.fixture
async def new_database(servers: Settings) -> AsyncIterator[MakeDatabase]:
    """Makes empty databases on the test server."""
    made: list[Database] = []

    async def make() -> Database:
        assert servers.mongo_url is not None
        made.append(connect(servers.mongo_url.get_secret_value(), f"test_{uuid.uuid4().hex[:12]}"))
        return made[-1]

    yield make
    for database in made:
        await discard(database)


async def export(database: Database, path: Path, batch_documents: int = 1000) -> TransferReport:
    with created_file(path, replace=False) as out:
        return await export_data(database, DataFileWriter(out, HEADER), ignore, batch_documents)


async def load(database: Database, path: Path, *, replace_definitions: bool = False) -> TransferReport:
    return await import_data(database, path, replace_definitions=replace_definitions, progress=ignore)


async def stored(database: Database, collection: str) -> set[bytes]:
    """Every document of a collection, byte by byte."""
    raw: Any = database.collection(collection).with_options(codec_options=RAW)
    return {bytes(document.raw) for document in await raw.find({}).to_list(None)}


async def fill_with_shapes(database: Database) -> None:
    """Every shape that ever shipped, and documents with every type of BSON."""
    for path in sorted(SHAPES.glob("*.json")):
        collection = database.collection(path.stem.split("-", 1)[1])
        for document in loads(path.read_text()):
            await collection.replace_one({"_id": document["_id"]}, document, upsert=True)
    odd = {
        "_id": "loop:odd",
        "epoch": 7,
        "revision": Int64(3),
        "small": 3,
        "large": Int64(2**40),
        "number": 1.0,
        "infinite": float("inf"),
        "when": datetime(2026, 1, 1, 1, 2, 3, 4000, tzinfo=UTC),
        "id": ObjectId(),
        "bytes": Binary(b"\x00\xff", 4 + 128),
        "decimal": Decimal128("1.10"),
        "none": None,
        "deep": [{"$ref": "x", "z": 1, "a": [True, ""]}],
    }
    await database.collection("flow_states").insert_one(odd)
    keys = database.collection("flow_data_keys")
    await keys.replace_one({"_id": "user:odd"}, {"current": Binary(b"\0", 6)}, upsert=True)
    await keys.delete_one({"_id": "service"})  # what it seals stays in the database
    await database.collection("flow_history").insert_one(
        {"_id": "odd record", "stateId": ["no", "key"], "epoch": None}
    )


async def test_every_document_comes_back_byte_by_byte(new_database: MakeDatabase, tmp_path: Path) -> None:
    source, target = await new_database(), await new_database()
    await fill_with_shapes(source)
    exported = await export(source, tmp_path / "a.flow")
    imported = await load(target, tmp_path / "a.flow")
    assert imported == exported == verify_file(tmp_path / "a.flow")
    for collection in COLLECTIONS:
        documents = await stored(source, collection)
        assert len(documents) == exported.documents[collection] > 0
        assert await stored(target, collection) == documents, collection
    declared = {document.Settings.name for document in DOCUMENTS}
    assert declared - set(COLLECTIONS) == {
        *("flow_leases", "flow_reservations", "flow_secrets", "flow_audit"),
        *("flow_integrations", "flow_integration_health", "flow_api_keys"),
    }, "a copy must not send events to the services of the original"
    assert await stored(target, "flow_leases") == set()


async def test_life_goes_on_after_a_round_trip(
    parts: Backend, new_database: MakeDatabase, settings: Settings, tmp_path: Path
) -> None:
    service = parts.service
    flows = service.as_trusted()
    await service.create_flow(flow_dict(title="Loop"))
    for user in ("ada", "eve", "ian"):
        await flows.start_flow(user, "loop")
        await service.execute_transition(
            user, "loop", "go", {"n": 1}, origin=Origin(trusted_caller(user), request_id="r")
        )
    await flows.clear_flow_state("eve", "loop")
    await service.personal_data.erase("ian", ROOT)
    await export(parts.database, tmp_path / "a.flow")  # a part of the records may still wait in outboxes
    target = await new_database()
    await load(target, tmp_path / "a.flow")
    again = Backend(settings.model_copy(update={"mongo_database": target_name(target)}))
    async with again.running() as second:
        second_flows = second.as_trusted()
        for user in ("ada", "eve", "ian"):
            found = await second_flows.verify_flow_history(user, "loop")
            assert (found.whole, found.broken) == (True, None), user
            assert found.head == (await flows.verify_flow_history(user, "loop")).head
        repeated = await second.execute_transition(
            "ada", "loop", "go", {"n": 1}, origin=Origin(trusted_caller("ada"), request_id="r")
        )
        assert repeated.revision == 1, "a request of before the export is still known"
        moved = await second_flows.execute_transition("ada", "loop", "back")
        assert moved.revision == 2
        assert (await second_flows.verify_flow_history("ada", "loop")).records == 3


async def test_a_service_continues_at_the_change_that_its_state_had_in_the_file(
    new_database: MakeDatabase, tmp_path: Path
) -> None:
    """A lane that went on during the export is not ahead of its state, whose next changes it must deliver."""
    source, target = await new_database(), await new_database()
    await source.prepare()
    epoch = "0193b5a0-0000-7000-8000-000000000000"
    states = [{"_id": f"loop:{user}", "epoch": epoch, "revision": 2} for user in ("ada", "eve")]
    await source.collection("flow_states").insert_many(states)
    lanes = MongoDeliveryLanes(source)
    positions = {user: LanePosition(epoch, n) for user, n in POSITIONS.items()}
    marks = [Mark("pay", StateId("loop", user), at, T0, T0) for user, at in positions.items()]
    await lanes.mark(marks, T0)
    ids = [LaneId("pay", mark.state_id) for mark in marks]
    claimed = await lanes.claim(ids, "a worker", T0, T0)
    await lanes.release([LaneUpdate(lane=lane, cursor=lane.newest, due_at=None) for lane in claimed], T0)
    before = (await lanes.list_lanes("pay", None, 10)).items
    await export(source, tmp_path / "a.flow")
    await load(target, tmp_path / "a.flow")
    ada, eve, new = (await MongoDeliveryLanes(target).list_lanes("pay", None, 10)).items
    assert [ada, new] == [before[0], before[2]]
    assert eve.newest == eve.cursor == LanePosition(epoch, 2) < before[1].newest


def target_name(database: Database) -> str:
    return str(database.collection("any").database.name)


async def test_an_export_of_a_busy_database_has_every_state_at_one_moment(
    parts: Backend, new_database: MakeDatabase, settings: Settings, tmp_path: Path
) -> None:
    """Users go on, start and end while small batches are read; each state in the file verifies."""
    service = parts.service
    flows = service.as_trusted()
    await service.create_flow(flow_dict(title="Loop"))
    users = [f"u{n}" for n in range(30)]
    for user in users:
        await flows.start_flow(user, "loop")
    running = True
    changes: Counter[str] = Counter()

    async def change(user: str) -> None:
        while running:
            state, _ = await flows.start_flow(user, "loop")
            await flows.execute_transition(user, "loop", "go" if state.step == "a" else "back")
            changes[user] += 1
            if changes[user] % 5 == 0:
                await flows.clear_flow_state(user, "loop")

    changing = [asyncio.create_task(change(user)) for user in [*users, *(f"late{n}" for n in range(10))]]
    file = tmp_path / "a.flow"
    try:
        meanwhile = 0
        while len(changes) < len(changing) or min(changes.values()) < 6 or meanwhile < len(users):
            file.unlink(missing_ok=True)
            before = changes.total()
            await export(parts.database, file, batch_documents=7)
            meanwhile = changes.total() - before
    finally:
        running = False
        await asyncio.gather(*changing)
    target = await new_database()
    await load(target, file)
    again = Backend(settings.model_copy(update={"mongo_database": target_name(target)}))
    async with again.running() as second:
        second_flows = second.as_trusted()
        keys = {bson.decode(raw)["_id"] for raw in await stored(target, "flow_states")}
        assert keys >= {f"loop:{user}" for user in users}
        for key in keys:
            found = await second_flows.verify_flow_history(key.partition(":")[2], "loop")
            assert (found.whole, found.broken) == (True, None), key
        records = {bson.decode(raw)["stateId"] for raw in await stored(target, "flow_history")}
        assert records <= keys, "no record of a state that started later"


@pytest.fixture
async def exported(settings: Settings, tmp_path: Path) -> Path:
    """A file of a small database, which no service uses any more."""
    parts = Backend(settings)
    async with parts.running() as service:
        flows = service.as_trusted()
        await publish_definitions(service, settings)
        await flows.start_flow("ada", "user-onboarding")
        await service.background.relay.drain(5)
        await export(parts.database, tmp_path / "good.flow")
    return tmp_path / "good.flow"


async def test_a_damaged_file_is_refused_before_anything_is_written(
    exported: Path, new_database: MakeDatabase, tmp_path: Path
) -> None:
    target = await new_database()
    good = exported.read_bytes()
    plain = gzip.decompress(good)
    at = plain.index(b"ada")
    changed = plain[:at] + b"eve" + plain[at + 3 :]
    end = plain.rindex(b"\x03end\0") - 4
    later = plain.replace(b'"version":1', b'"version":9', 1)
    for content, message in (
        (good[:-20], "is truncated"),
        (good[: len(good) // 2], "is truncated"),
        (good[:60] + b"\xff" + good[61:], "is damaged"),
        (b"", "is not a file of"),
        (b"hello", "is damaged, or is not a file of"),
        (gzip.compress(b"hello\n"), "is not a file of"),
        (gzip.compress(later), "has version 9 of the format, written by server-flow 0.5.0; this"),
        (gzip.compress(changed), "does not match its counts and its checksum"),
        (gzip.compress(plain[:end]), "is truncated"),
        (gzip.compress(plain[: end - 9]), "is truncated"),
        (gzip.compress(plain + b"more"), "something follows its end"),
    ):  # fmt: skip
        bad = tmp_path / "bad.flow"
        bad.write_bytes(content)
        with pytest.raises(DataTransferError) as refused:
            await load(target, bad)
        assert message in str(refused.value), content[:20]
        assert str(refused.value).startswith(f"{bad} ")
    with pytest.raises(DataTransferError, match="No such file"):
        await load(target, tmp_path / "missing.flow")
    for collection in (*COLLECTIONS, "flow_leases"):
        assert await stored(target, collection) == set()


async def test_data_that_is_there_is_not_touched(
    exported: Path, parts: Backend, new_database: MakeDatabase, settings: Settings
) -> None:
    leases = parts.database.collection("flow_leases")
    async with asyncio.timeout(30):  # a job may be between two holds of its lease
        while not await leases.count_documents({"until": {"$gt": datetime.now(UTC) + timedelta(seconds=1)}}):
            await asyncio.sleep(0.05)
    with pytest.raises(DataTransferError, match="A service runs on this database"):
        await load(parts.database, exported)
    target = await new_database()
    await load(target, exported)
    with pytest.raises(DataTransferError, match="has states or history already"):
        await load(target, exported, replace_definitions=True)
    only_definitions = await new_database()
    await only_definitions.collection("flow_definitions").insert_one(
        {"_id": "sign-in:1", "flowId": "sign-in"}
    )
    with pytest.raises(DataTransferError, match="--replace-definitions"):
        await load(only_definitions, exported)
    await load(only_definitions, exported, replace_definitions=True)
    assert await stored(only_definitions, "flow_definitions") == await stored(target, "flow_definitions")


async def test_an_interrupted_import_blocks_services_until_it_is_repeated(
    exported: Path, new_database: MakeDatabase, tmp_path: Path
) -> None:
    complete = await new_database()
    whole = await load(complete, exported)
    cut_off = await new_database()
    mark = {
        "_id": IMPORT_LEASE,
        "holder": whole.sha256,
        "fence": 1,
        "until": datetime.now(UTC) + timedelta(1),
    }
    await cut_off.collection("flow_leases").insert_one(mark)
    some = next(raw for collection, raw in read_file(exported) if collection == "flow_history")
    await cut_off.collection("flow_history").insert_one(bson.decode(some))
    with pytest.raises(DatabaseRefusedError) as refused:
        await cut_off.prepare()
    assert "has not finished: repeat 'server-flow data import'" in str(refused.value.advice)
    other = tmp_path / "other.flow"
    await export(await new_database(), other)
    with pytest.raises(DataTransferError, match="An import of another file"):
        await load(cut_off, other)
    assert (await load(cut_off, exported)).already_there == 1
    await cut_off.prepare()
    for collection in COLLECTIONS:
        assert await stored(cut_off, collection) == await stored(complete, collection)


async def test_another_document_in_the_place_of_one_of_the_file_is_a_conflict(
    exported: Path, new_database: MakeDatabase
) -> None:
    target = await new_database()
    mark = {
        "_id": IMPORT_LEASE,
        "holder": verify_file(exported).sha256,
        "fence": 1,
        "until": datetime.now(UTC),
    }
    await target.collection("flow_leases").insert_one(mark)
    some = bson.decode(next(raw for collection, raw in read_file(exported) if collection == "flow_history"))
    await target.collection("flow_history").insert_one({**some, "actor": "eve"})
    with pytest.raises(DataTransferError, match="flow_history has another document"):
        await load(target, exported)
    with pytest.raises(DatabaseRefusedError):
        await target.prepare()


@pytest.mark.parametrize("answered", [False, True], ids=["before it is applied", "after it is applied"])
async def test_a_batch_that_is_not_answered_is_repeated(
    exported: Path, tmp_path: Path, answered: bool
) -> None:
    server = MongoServer(tmp_path / "mongodb")
    proxy = await BreakingProxy(server.port).start()
    options = "retryWrites=false&directConnection=true&retryReads=false"
    database = connect(f"mongodb://127.0.0.1:{proxy.port}/?{options}", "target")
    try:
        await database.prepare(importing=True)
        proxy.break_next(b"user-onboarding:ada:", answered=answered)
        report = await load(database, exported)
        assert proxy.broken == 1
        assert (report.already_there > 0) == answered
        for collection, documents in report.documents.items():
            assert len(await stored(database, collection)) == documents, collection
    finally:
        await database.close()
        await proxy.stop()
        server.kill()


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.flow"
    with created_file(target, replace=False) as out:
        out.write(b"1")
        assert not target.exists()
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DataTransferError, match="exists already"):
        write(target, b"2")
    with pytest.raises(ZeroDivisionError):
        write(target, b"2", replace=True, fail=True)
    assert target.read_bytes() == b"1"
    write(target, b"3", replace=True)
    assert target.read_bytes() == b"3"
    assert list(tmp_path.iterdir()) == [target], "no draft is left"
    with pytest.raises(DataTransferError, match="cannot be written: Not a directory"):
        write(target / "x", b"4")


def write(path: Path, content: bytes, *, replace: bool = False, fail: bool = False) -> None:
    with created_file(path, replace=replace) as out:
        out.write(content)
        if fail:
            raise ZeroDivisionError
