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
from app.contracts.errors import FlowStateCorruptionError, OperationalError
from app.contracts.integration import ApiKey, Integration, IntegrationSecret
from app.contracts.ports.ciphers import PayloadCipher, PayloadText, SealedText, Unopened
from app.contracts.ports.states import DamagedState, StateFilter, StoredState
from app.contracts.record import MergedField, payload_place, remembered_request
from app.contracts.state import StateId
from app.flow.history_chain import is_intact, seal
from models.database import Database
from models.document_codec import DocumentCodec
from models.history_store import MongoHistoryStore
from models.integrations.api_keys import MongoApiKeyStore
from models.integrations.lanes import MongoDeliveryLanes
from models.integrations.letters import MongoDeadLetters
from models.integrations.registrations import MongoIntegrationStore
from models.secret_store import MongoSecretStore
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
    texts = [PayloadText("ada", f"loop:ada:e:{n}", "payload", f'{{"n":{n}}}') for n in range(3)]
    sealed = await cipher.seal_many(texts)
    assert all(one != text.text.encode() for one, text in zip(sealed, texts, strict=True))
    replaced = [
        SealedText(t.user_id, t.document_id, t.field, one) for t, one in zip(texts, sealed, strict=True)
    ]
    assert list(await cipher.open_many(replaced)) == [text.text for text in texts]


async def test_a_text_opens_only_in_its_field(cipher: PayloadCipher) -> None:
    (sealed,) = await cipher.seal_many([PayloadText("ada", "loop:ada", "payload", "{}")])
    moved = [
        SealedText("ada", "loop:eve", "payload", sealed),
        SealedText("ada", "loop:ada", "message", sealed),
        SealedText("ada", "loop:ada", "payload", sealed),
    ]
    assert list(await cipher.open_many(moved)) == [Unopened.DAMAGED, Unopened.DAMAGED, "{}"]


@WITH_DOCUMENTS
async def test_states_are_stored_sealed_and_loaded_open(
    states: MongoStateStore, sealed_database: Database
) -> None:
    state = fresh(payload=SECRET)
    started = structs.replace(record(state), payload=SECRET)
    assert await states.commit(None, started)
    (document,) = await documents(sealed_database, "flow_states")
    assert b"<ada|loop:ada|payload>" in document["payload"]
    assert f"<ada|{started.id}|payload>".encode() in document["outbox"][0]["payload"]
    assert f"<ada|{started.id}|after.payload>".encode() in document["outbox"][0]["after"]["payload"]
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
    assert cipher.calls == [6], "all texts of a command are sealed together"
    await documents(sealed_database, "flow_history")
    assert (await history.read(StateId("loop", "ada"), None, 10)).items == [first, second]
    assert cipher.calls == [6, 6]
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
    assert f"<ada|{one.id}|merged>".encode() in document["merged"]
    assert await history.get(one.id) == one
    assert await states.commit(None, one)
    await documents(sealed_database, "flow_states")
    loaded = await states.load(StateId("loop", "ada"))
    assert loaded is not None
    assert loaded.pending == (one,)


@WITH_DOCUMENTS
async def test_a_state_without_data_of_users_names_its_data_key(
    states: MongoStateStore, sealed_database: Database, cipher: FakeCipher
) -> None:
    await states.commit(None, structs.replace(record(fresh()), payload=UNSET))
    (document,) = await sealed_database.collection("flow_states").find({}).to_list(None)
    assert b"<ada|loop:ada|keyCheck>" in document["keyCheck"]
    assert await states.load(StateId("loop", "ada")) is not None
    with_payload = moved(fresh(payload=SECRET))
    assert await states.commit(fresh().position, record(with_payload))
    (document,) = await sealed_database.collection("flow_states").find({}).to_list(None)
    assert "keyCheck" not in document
    assert cipher.fresh == 1, "the start alone reads the keys again"


@WITH_DOCUMENTS
async def test_a_state_whose_data_key_was_destroyed_has_ended(
    states: MongoStateStore, history: MongoHistoryStore, cipher: FakeCipher
) -> None:
    bare = structs.replace(fresh(), user_id="eve")
    await states.commit(None, record(fresh(payload=SECRET)))
    await states.commit(None, structs.replace(record(bare), payload=UNSET))
    sealed = seal(record(fresh(payload=SECRET)), "", "5a17")
    await history.append([sealed])
    for user_id in ("ada", "eve"):
        cipher.erase(user_id)
        found = await states.load_or_salvage(StateId("loop", user_id))
        assert isinstance(found, StoredState)
        assert (found.state.status, found.state.payload) == ("cleared", UNSET)
        assert found.state.is_gone_at(T0)
    (erased,) = (await history.read(StateId("loop", "ada"), None, 10)).items
    assert erased.is_erased
    assert is_intact(erased)


@WITH_DOCUMENTS
async def test_a_sealed_document_without_its_key_is_unreadable_and_says_why(
    states: MongoStateStore, history: MongoHistoryStore, sealed_database: Database
) -> None:
    await states.commit(None, record(fresh(payload=SECRET)))
    await history.append([record(fresh(payload=SECRET))])
    keyless = MongoStateStore(sealed_database)
    with pytest.raises(FlowStateCorruptionError) as refusal:
        await keyless.load(StateId("loop", "ada"))
    assert "FLOW_ENCRYPTION_KEYS" in refusal.value.details["reason"]
    with pytest.raises(FlowStateCorruptionError) as refusal:
        await MongoHistoryStore(sealed_database).read(StateId("loop", "ada"), None, 10)
    assert "FLOW_ENCRYPTION_KEYS" in refusal.value.details["reason"]
    await sealed_database.collection("flow_states").update_one(
        {"_id": "loop:ada"}, {"$set": {"payload": b"\1changed"}}
    )
    with pytest.raises(FlowStateCorruptionError) as refusal:
        await states.load(StateId("loop", "ada"))
    assert "its payload is encrypted, and was changed" in refusal.value.details["reason"]


@WITH_DOCUMENTS
async def test_the_request_of_a_sealed_record_is_found_and_that_of_a_clear_one_too(
    history: MongoHistoryStore, sealed_database: Database
) -> None:
    old = structs.replace(record(fresh()), request_id="r-old", actor="ada")
    new = structs.replace(record(moved(fresh())), request_id="r-new", actor="ada")
    await MongoHistoryStore(sealed_database).append([old])
    await history.append([new])
    since = T0 - timedelta(1)
    assert await history.find_request(StateId("loop", "ada"), "ada", "r-old", since) == old
    assert await history.find_request(StateId("loop", "ada"), "ada", "r-new", since) == new
    assert await history.find_request(StateId("loop", "ada"), "ada", "r-none", since) is None


@WITH_DOCUMENTS
async def test_a_receipt_of_an_erasure_is_stored_in_the_clear(
    history: MongoHistoryStore, sealed_database: Database
) -> None:
    ended = structs.replace(fresh(), status="cleared")
    receipt = structs.replace(seal(record(ended), "", "5a17"), kind="erased", payload=UNSET)
    await history.append([receipt])
    (document,) = await sealed_database.collection("flow_history").find({}).to_list(None)
    assert document["salt"] == "5a17"


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
    assert f"<ada|{lane.id.key}|attempts>".encode() in document["attempts"]
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
    assert b"<ada|pay;evt_1;pay;loop:ada;evt_1|event>" in document["event"]
    assert (await letters.find(DeadLetterFilter(), None, 10)).items == [letter]


@WITH_DOCUMENTS
async def test_secrets_of_the_service_are_stored_sealed_and_read_open(
    sealed_database: Database, cipher: FakeCipher
) -> None:
    codec = DocumentCodec(cipher)
    stores = MongoSecretStore(sealed_database, codec), MongoSecretStore(sealed_database, codec)
    first, second = await asyncio.gather(*(store.secret("bus") for store in stores))
    assert first == second
    (document,) = await sealed_database.collection("flow_secrets").find({}).to_list(None)
    assert b"<None|bus|value>" in document["value"]
    with pytest.raises(OperationalError, match="FLOW_ENCRYPTION_KEYS"):
        await MongoSecretStore(sealed_database).secret("bus")


@WITH_DOCUMENTS
async def test_a_secret_of_a_time_without_encryption_is_sealed_when_it_is_read(
    sealed_database: Database, cipher: FakeCipher
) -> None:
    clear = await MongoSecretStore(sealed_database).secret("bus")
    sealing = MongoSecretStore(sealed_database, DocumentCodec(cipher))
    assert await sealing.secret("bus") == clear
    (document,) = await sealed_database.collection("flow_secrets").find({}).to_list(None)
    assert b"<None|bus|value>" in document["value"]
    assert await sealing.secret("bus") == clear


@WITH_DOCUMENTS
async def test_secrets_of_webhooks_and_hashes_of_api_keys_are_stored_sealed_and_read_open(
    sealed_database: Database, cipher: FakeCipher
) -> None:
    codec = DocumentCodec(cipher)
    integrations = MongoIntegrationStore(sealed_database, codec)
    secrets = (IntegrationSecret("b", "whsec_bmV3", T0), IntegrationSecret("a", "whsec_b2xk", T0))
    one = Integration(alias="pay", url="https://x.example", registered_at=T0, updated_at=T0, secrets=secrets)
    clear = structs.replace(one, alias="user")
    await MongoIntegrationStore(sealed_database).put(clear, None)
    assert await integrations.put(one, None)
    assert await integrations.list_all() == [one, clear]
    assert await integrations.put(structs.replace(clear, revision=1), 0)
    assert await integrations.get("user") == structs.replace(clear, revision=1)
    stored = await sealed_database.collection("flow_integrations").find({}).to_list(None)
    for each in stored:
        assert f"<None|{each['_id']};https://x.example|secrets.a>".encode() in each["secrets"][1]["secret"]
    assert "whsec_" not in str(stored)

    keys = MongoApiKeyStore(sealed_database, codec)
    key = ApiKey(id="k1", alias="pay", hashed="ab" * 32, name="ci", created_at=T0, created_by="root")
    old = structs.replace(key, id="k0")
    await MongoApiKeyStore(sealed_database).add(old)
    await keys.add(key)
    assert await keys.get("k1") == key
    assert await keys.of_integration("pay") == [old, key]
    document = await sealed_database.collection("flow_api_keys").find_one({"_id": "k1"})
    assert document is not None
    assert b"<None|k1;pay|hashed>" in document["hashed"]
