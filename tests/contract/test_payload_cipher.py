"""The contract of PayloadCipher, and of the stores that use one."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    DeliveryAttempt,
    Lane,
    LaneId,
    LanePosition,
    LaneUpdate,
)
from app.contracts.ports.ciphers import PayloadCipher, PayloadText
from app.contracts.ports.states import DamagedState, StateFilter, StoredState
from app.contracts.record import MergedField, payload_place, remembered_request
from app.contracts.state import StateId
from models.database import Database
from models.document_codec import DocumentCodec
from models.history_store import MongoHistoryStore
from models.integrations.lanes import MongoDeliveryLanes
from models.integrations.letters import MongoDeadLetters
from models.states.store import MongoStateStore
from tests.support.fakes import FakeCipher
from tests.support.samples import T0, fresh, moved, record

PORTS = (PayloadCipher,)
SECRET = {"iban": "DE02 1203"}
WITH_DOCUMENTS = pytest.mark.parametrize(
    "database", ["mongomock", pytest.param("mongodb", marks=pytest.mark.server)], indirect=True
)


@pytest.fixture
def cipher() -> FakeCipher:
    return FakeCipher()


@pytest.fixture
def sealed_database(database: Database | None) -> Database:
    """The database of stores with a cipher."""
    assert database is not None
    return database


@pytest.fixture
def states(sealed_database: Database, cipher: FakeCipher) -> MongoStateStore:
    return MongoStateStore(sealed_database, DocumentCodec(cipher))


@pytest.fixture
def history(sealed_database: Database, cipher: FakeCipher) -> MongoHistoryStore:
    return MongoHistoryStore(sealed_database, codec=DocumentCodec(cipher))


async def documents(database: Database, collection: str) -> list[dict[str, Any]]:
    """Read the stored documents, and require that no payload is readable in them."""
    found = await database.collection(collection).find({}).to_list(None)
    assert "DE02" not in str(found)
    assert "3021 20ED" in str(found), "it is the payload that was sealed"
    return found


async def test_opened_texts_are_the_sealed_ones_in_order(cipher: PayloadCipher) -> None:
    texts = [PayloadText("ada", f"loop:ada:e:{n}", f'{{"n":{n}}}') for n in range(3)]
    sealed = await cipher.seal_many(texts)
    assert all(one != text.text for one, text in zip(sealed, texts, strict=True))
    replaced = [structs.replace(t, text=one) for t, one in zip(texts, sealed, strict=True)]
    assert list(await cipher.open_many(replaced)) == [text.text for text in texts]


async def test_a_text_opens_only_in_its_document(cipher: PayloadCipher) -> None:
    (sealed,) = await cipher.seal_many([PayloadText("ada", "loop:ada", "{}")])
    for other in (PayloadText("ada", "loop:eve", sealed), PayloadText("eve", "loop:ada", sealed)):
        with pytest.raises(ValueError, match="another document"):
            await cipher.open_many([other])


@WITH_DOCUMENTS
async def test_states_are_stored_sealed_and_loaded_open(
    states: MongoStateStore, sealed_database: Database
) -> None:
    state = fresh(payload=SECRET)
    started = structs.replace(record(state), payload=SECRET)
    assert await states.commit(None, started)
    (document,) = await documents(sealed_database, "flow_states")
    assert document["payload"].startswith("<ada|loop:ada>")
    assert document["outbox"][0]["payload"].startswith(f"<ada|{started.id}>")
    assert document["outbox"][0]["after"]["payload"].startswith(f"<ada|{started.id}>")
    place = payload_place(started, None)
    request = remembered_request(started)
    stored = StoredState(state, (started,), () if request is None else (request,), "", place)
    assert await states.load(StateId("loop", "ada")) == stored
    assert await asyncio.gather(*(states.load(StateId("loop", "ada")) for _ in range(3))) == [stored] * 3
    assert await states.load_or_salvage(StateId("loop", "ada")) == stored
    assert await states.walk("", 10) == [stored]
    later = T0 + timedelta(hours=1)
    assert await states.list_undelivered(later, 10) == [stored]
    assert (await states.find(StateFilter(), None, 10, T0)).states == [state]


@WITH_DOCUMENTS
async def test_a_change_that_leaves_the_payload_leaves_it_sealed(
    states: MongoStateStore, sealed_database: Database
) -> None:
    state = fresh(payload=SECRET)
    await states.commit(None, record(state))
    (before,) = await documents(sealed_database, "flow_states")
    after = moved(state)
    assert await states.commit(state.position, structs.replace(record(after), payload_revision=0))
    (document,) = await documents(sealed_database, "flow_states")
    assert document["payload"] == before["payload"]
    loaded = await states.load(StateId("loop", "ada"))
    assert loaded is not None
    assert loaded.state == after
    assert [one.after for one in loaded.deliverable] == [state, after]


@pytest.mark.expected_logs("damaged document")
@WITH_DOCUMENTS
async def test_a_damaged_state_is_replaced_by_a_sealed_one(
    states: MongoStateStore, sealed_database: Database
) -> None:
    state = fresh(payload=SECRET)
    await states.commit(None, record(state))
    await sealed_database.collection("flow_states").update_one({"_id": state.key}, {"$unset": {"step": ""}})
    damaged = await states.load_or_salvage(StateId("loop", "ada"))
    assert isinstance(damaged, DamagedState)
    assert [one.after for one in damaged.pending] == [state]
    assert await states.replace(damaged, record(moved(state)))
    await documents(sealed_database, "flow_states")
    loaded = await states.load(StateId("loop", "ada"))
    assert loaded is not None
    assert loaded.state == moved(state)


@WITH_DOCUMENTS
async def test_records_are_stored_sealed_and_read_open(
    history: MongoHistoryStore, sealed_database: Database, cipher: FakeCipher
) -> None:
    first = structs.replace(record(fresh(payload=SECRET)), payload=SECRET)
    second = record(moved(fresh(payload=SECRET)))
    await history.append([first, second])
    assert cipher.calls == [4], "all payloads of a command are sealed together"
    await documents(sealed_database, "flow_history")
    assert (await history.read(StateId("loop", "ada"), None, 10)).items == [first, second]
    assert cipher.calls == [4, 4]
    assert (await history.scan(StateId("loop", "ada"), None, 10)).items == [first, second]
    assert await history.newest(StateId("loop", "ada")) == second
    assert await history.get(first.id) == first
    assert await history.get_many([second.id]) == [second]
    assert await history.find_request(StateId("loop", "ada"), "ada", "r-1", T0 - timedelta(1)) in (
        first,
        second,
    )


@WITH_DOCUMENTS
async def test_the_values_of_a_merge_are_sealed_too(
    history: MongoHistoryStore, states: MongoStateStore, sealed_database: Database
) -> None:
    one = structs.replace(
        record(fresh()), payload=UNSET, merged=(MergedField("/iban", SECRET["iban"], {"$ref": 1}),)
    )
    await history.append([one])
    (document,) = await documents(sealed_database, "flow_history")
    assert document["merged"].startswith(f"<ada|{one.id}>")
    assert await history.get(one.id) == one
    assert await states.commit(None, one)
    await documents(sealed_database, "flow_states")
    loaded = await states.load(StateId("loop", "ada"))
    assert loaded is not None
    assert loaded.pending == (one,)


@WITH_DOCUMENTS
async def test_without_a_payload_nothing_is_sealed(states: MongoStateStore, cipher: FakeCipher) -> None:
    await states.commit(None, structs.replace(record(fresh()), payload=UNSET))
    assert await states.load(StateId("loop", "ada")) is not None
    assert cipher.calls == []


@WITH_DOCUMENTS
async def test_answers_and_events_of_deliveries_are_stored_sealed_and_read_open(
    sealed_database: Database, cipher: FakeCipher
) -> None:
    codec = DocumentCodec(cipher)
    lanes, letters = MongoDeliveryLanes(sealed_database, codec), MongoDeadLetters(sealed_database, codec)
    failed = DeliveryAttempt(at=T0, duration_ms=1.5, reason="receiver", status=500, body="no such DE02 1203")
    lane = Lane(
        id=LaneId("pay", StateId("loop", "ada"), "j"), since=T0, newest=LanePosition("e", 1), due_at=T0
    )
    await lanes.add_jobs([structs.replace(lane, failures=1, attempts=(failed,))])
    (claimed,) = await lanes.claim([lane.id], "one", T0, T0)
    assert claimed.attempts == (failed,)
    await lanes.release([LaneUpdate(lane=claimed, cursor=None, due_at=T0, attempts=(failed,) * 2)], T0)
    (document,) = await documents(sealed_database, "flow_delivery_lanes")
    assert document["attempts"].startswith(f"<ada|{lane.id.key}>")
    found = await lanes.get(lane.id)
    assert found is not None
    assert found.attempts == (failed,) * 2
    letter = DeadLetter(
        id="evt_1",
        alias="pay",
        state_id=StateId("loop", "ada"),
        epoch="e",
        revision=1,
        type="flow.started",
        at=T0,
        died_at=T0,
        reason="receiver",
        detail="it answered 500",
        event={"data": SECRET},
        attempts=(failed,),
    )
    await letters.add([letter])
    (document,) = await documents(sealed_database, "flow_dead_letters")
    assert document["event"].startswith("<ada|pay;evt_1>")
    assert (await letters.find(DeadLetterFilter(), None, 10)).items == [letter]
