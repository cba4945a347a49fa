"""Where encryption is required, nothing that somebody wrote into the database in the clear is believed."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import Binary
from msgspec import UNSET

from app.contracts.callers import Caller
from app.contracts.commands import Origin, StartCommand, trusted_origin
from app.contracts.deliveries import DeadLetter
from app.contracts.errors import FlowStateCorruptionError, OperationalError
from app.contracts.integration import ApiKey, Integration, IntegrationSecret
from app.contracts.state import StateId
from app.main import Backend
from config.settings import Settings
from models.clear_data import LAYOUTS
from models.integrations.api_keys import MongoApiKeyStore
from models.integrations.letters import MongoDeadLetters
from models.integrations.registrations import MongoIntegrationStore
from models.secret_store import MongoSecretStore
from tests.support.samples import T0, flow_dict

ADA = Origin(Caller("ada"))
LETTER = DeadLetter(
    id="evt_1",
    alias="shop",
    state_id=StateId("loop", "ada"),
    epoch="e",
    revision=1,
    type="flow.step.entered",
    at=T0,
    died_at=T0,
    reason="receiver",
    detail="it answered 500",
    event={"data": {"payload": {"iban": "DE02"}}},
)


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[Backend]:
    """A worker that requires encryption, with a document in each collection with sealed fields."""
    made = Backend(settings.model_copy(update={"encryption_required": True}))
    async with made.running() as service:
        await service.create_flow(flow_dict())
        await service.start_flow("ada", "loop", StartCommand(payload={"iban": "DE02"}), origin=ADA)
        await service.execute_transition("ada", "loop", "again", {}, origin=ADA)
        assert await service.background.relay.drain(5)
        database, codec = made.database, made.codec
        key = ApiKey(id="k1", alias="shop", hashed="ab" * 32, name="ci", created_at=T0, created_by="root")
        await MongoApiKeyStore(database, codec).add(key)
        secret = IntegrationSecret(id="s1", secret="whsec_x", created_at=T0)
        await MongoIntegrationStore(database, codec).put(
            Integration(alias="shop", secrets=(secret,), registered_at=T0, updated_at=T0), None
        )
        await MongoDeadLetters(database, codec).add([LETTER])
        await MongoSecretStore(database, codec).secret("a secret")
        yield made


async def payload(backend: Backend) -> Any:
    state = await backend.service.as_trusted().get_flow_state("ada", "loop")
    return None if state is None else state.payload


async def open_all(backend: Backend) -> None:
    """Replace every sealed text by what it was made of, as somebody could who knows it."""
    for name, layout in LAYOUTS.items():
        collection = backend.database.collection(name)
        documents = await collection.find({}).to_list(None)
        for clear in await backend.codec.of(layout).decode_many(lambda document: document, documents):
            await collection.replace_one({"_id": clear["_id"]}, clear)


@pytest.mark.expected_logs(
    "clear text refused", "damaged document", "stored api key unreadable", "unreadable registration"
)
async def test_nothing_in_the_clear_is_believed(backend: Backend, settings: Settings) -> None:
    flows = backend.service.as_trusted()
    assert await payload(backend) == {"iban": "DE02"}
    await open_all(backend)
    for attempt in (
        lambda: flows.get_flow_state("ada", "loop"),
        lambda: flows.get_flow_history("ada", "loop"),
        lambda: flows.execute_transition("ada", "loop", "again"),
    ):
        with pytest.raises(FlowStateCorruptionError) as refused:
            await attempt()
        assert "is not encrypted" in refused.value.message
        assert "FLOW_ENCRYPTION_REQUIRED" in refused.value.message
    database, codec = backend.database, backend.codec
    assert await MongoApiKeyStore(database, codec).get("k1") is None
    assert await MongoIntegrationStore(database, codec).get("shop") is None
    dead = await MongoDeadLetters(database, codec).get("shop", LETTER.id)
    assert dead is not None
    assert (dead.event, dead.detail) == (UNSET, "")
    assert not (await flows.verify_flow_history("ada", "loop")).whole
    for _ in range(2):  # it is not encrypted by the first of them
        with pytest.raises(OperationalError, match="FLOW_ENCRYPTION_REQUIRED"):
            await MongoSecretStore(database, codec).secret("a secret")
    believing = Backend(settings)
    async with believing.running():
        found = await payload(believing)
    assert found == {"iban": "DE02"}, "without the setting, they are data of before the encryption"


@pytest.mark.expected_logs("damaged document", "clear text refused", optional=True)
@pytest.mark.parametrize("value", [b'{"iban":"EVIL"}', Binary(b'{"iban":"EVIL"}', 128), {"iban": "EVIL"}])
async def test_no_payload_of_another_type_is_believed(backend: Backend, value: Any) -> None:
    states, history = (backend.database.collection(name) for name in ("flow_states", "flow_history"))
    await states.update_many({}, {"$set": {"payload": value}})
    with pytest.raises(FlowStateCorruptionError):
        await payload(backend)
    await history.update_many({}, {"$set": {"payload": value, "after.payload": value}})
    with pytest.raises(FlowStateCorruptionError):
        await backend.service.as_trusted().get_flow_history("ada", "loop")


@pytest.mark.expected_logs("state recovered", "clear text refused")
async def test_a_forged_receipt_brings_no_payload_in(backend: Backend) -> None:
    """Whoever makes a record a receipt of an erasure, whose salt is in the clear, gets nothing else read."""
    forged = {"kind": "erased", "salt": "x", "after.payload": '{"iban":"EVIL"}', "payload": '{"iban":"EVIL"}'}
    states, history = (backend.database.collection(name) for name in ("flow_states", "flow_history"))
    await history.update_many({}, {"$set": forged})
    flows = backend.service.as_trusted()
    with pytest.raises(FlowStateCorruptionError):
        await flows.get_flow_history("ada", "loop")
    await states.delete_many({})
    recovered = await backend.service.administration.recover_flow(
        "ada", "loop", origin=trusted_origin("root")
    )
    assert "EVIL" not in repr(recovered)


async def test_no_program_encrypts_what_is_in_the_clear(backend: Backend) -> None:
    assert backend.service.clear_data is not None
    with pytest.raises(OperationalError, match="FLOW_ENCRYPTION_REQUIRED"):
        await backend.service.clear_data.seal()


@pytest.mark.expected_logs("stored api key unreadable", "unreadable registration")
async def test_secrets_are_bound_to_whom_they_are_for(backend: Backend) -> None:
    database, codec = backend.database, backend.codec
    key_store, registrations = MongoApiKeyStore(database, codec), MongoIntegrationStore(database, codec)
    found = await registrations.get("shop")
    assert found is not None
    assert found.secrets[0].secret == "whsec_x"
    await database.collection("flow_integrations").update_one({"_id": "shop"}, {"$set": {"alias": "bank"}})
    assert [each.alias for each in await registrations.list_all()] == ["shop"]
    await database.collection("flow_integrations").update_one(
        {"_id": "shop"}, {"$set": {"url": "https://evil"}}
    )
    assert await registrations.list_all() == []
    assert await key_store.get("k1") is not None
    await database.collection("flow_api_keys").update_one({"_id": "k1"}, {"$set": {"alias": "bank"}})
    assert await key_store.get("k1") is None
    letters = MongoDeadLetters(database, codec)
    assert (await letters.get("shop", "evt_1")).event == LETTER.event  # type: ignore[union-attr]
    await database.collection("flow_dead_letters").update_one({}, {"$set": {"alias": "bank"}})
    moved = await letters.get("shop", "evt_1")
    assert moved is not None
    assert moved.event is UNSET


async def test_without_keys_it_does_not_start(settings: Settings) -> None:
    with pytest.raises(ValueError, match="needs FLOW_ENCRYPTION_KEYS"):
        Backend(settings.model_copy(update={"encryption_required": True, "encryption_keys": None}))
