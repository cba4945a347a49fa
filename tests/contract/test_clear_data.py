"""The contract of ClearData: what was stored before the encryption is sealed, and stays what it was."""

from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.integration import ApiKey, Integration, IntegrationSecret
from app.contracts.ports.keys import ClearData
from app.contracts.record import MergedField, position_of
from app.contracts.state import StateId
from app.flow.history_chain import seal
from models.clear_data import MongoClearData
from models.database import Database
from models.document_codec import DocumentCodec
from models.history_store import MongoHistoryStore
from models.integrations.api_keys import MongoApiKeyStore
from models.integrations.registrations import MongoIntegrationStore
from models.secret_store import MongoSecretStore
from models.states.store import MongoStateStore
from tests.support.databases import InterceptedDatabase
from tests.support.fakes import FakeCipher
from tests.support.samples import T0, fresh, moved, record

PORTS = (ClearData,)
HASHED = "0123456789abcdef" * 4
SECRET = {"iban": "DE02 1203"}
STATE = fresh(payload=SECRET)
RECORDS = [
    seal(structs.replace(record(STATE), payload=SECRET, merged=(MergedField("/iban", 1, 2),)), "", "5a17"),
    seal(record(moved(STATE)), "", "5a18"),
]
pytestmark = pytest.mark.parametrize(
    "database", ["mongomock", pytest.param("mongodb", marks=pytest.mark.server)], indirect=True
)


@pytest.fixture
def stored(database: Database | None) -> Database:
    """The database."""
    assert database is not None
    return database


@pytest.fixture
def codec() -> DocumentCodec:
    return DocumentCodec(FakeCipher())


@pytest.fixture
def data(stored: Database, codec: DocumentCodec) -> ClearData:
    return MongoClearData(stored, codec)


async def store_in_the_clear(database: Database) -> bytes:
    """Store documents of all collections without encryption; return a secret."""
    await MongoStateStore(database).commit(None, RECORDS[0])
    await MongoHistoryStore(database).append(RECORDS)
    secrets = (IntegrationSecret("a", "whsec_bmV3", T0),)
    one = Integration(alias="pay", registered_at=T0, updated_at=T0, secrets=secrets)
    await MongoIntegrationStore(database).put(one, None)
    key = ApiKey(id="k1", alias="pay", hashed=HASHED, name="ci", created_at=T0, created_by="root")
    await MongoApiKeyStore(database).add(key)
    return await MongoSecretStore(database).secret("bus")


async def seal_all(data: ClearData, limit: int = 1) -> int:
    sealed = 0
    for collection in data.collections:
        after: str | None = ""
        while after is not None:
            page = await data.seal_page(collection, after, limit)
            sealed, after = sealed + page.sealed, page.next
    return sealed


async def everything(database: Database, data: ClearData) -> str:
    found: list[Any] = [await database.collection(name).find({}).to_list(None) for name in data.collections]
    return str(found)


@pytest.mark.parametrize("limit", [1, 100])
async def test_all_that_is_in_the_clear_is_sealed_and_read_as_before(
    data: ClearData, stored: Database, codec: DocumentCodec, limit: int
) -> None:
    secret = await store_in_the_clear(stored)
    entered = ("DE02", "whsec_", HASHED, "5a17", "5a18", "r-1")
    text = await everything(stored, data)
    assert all(each in text for each in entered if each != "r-1")
    assert await seal_all(data, limit) == 6
    text = await everything(stored, data)
    assert [each for each in entered if each in text] == []
    assert await seal_all(data, limit) == 0, "repeated, it has nothing to do"
    loaded = await MongoStateStore(stored, codec).load(StateId("loop", "ada"))
    assert loaded is not None
    assert loaded.state == STATE
    assert loaded.pending == (RECORDS[0],)
    history = MongoHistoryStore(stored, codec=codec)
    assert (await history.read(StateId("loop", "ada"), None, 10)).items == RECORDS
    found = await MongoIntegrationStore(stored, codec).get("pay")
    assert found is not None
    assert found.secrets[0].secret == "whsec_bmV3"
    key = await MongoApiKeyStore(stored, codec).get("k1")
    assert key is not None
    assert key.hashed == HASHED
    assert await MongoSecretStore(stored, codec).secret("bus") == secret


async def test_nothing_comes_back_that_is_removed_meanwhile(stored: Database, codec: DocumentCodec) -> None:
    await store_in_the_clear(stored)
    history = MongoHistoryStore(stored)
    erased = structs.replace(RECORDS[1], id="loop:ada:e:9", revision=9, kind="erased", payload=UNSET)

    async def erase_first(call: Any) -> Any:
        await history.erase(StateId("loop", "ada"), position_of(erased))
        return await call()

    data = MongoClearData(InterceptedDatabase(stored, "flow_history", update_one=erase_first), codec)
    await seal_all(data)
    documents = await stored.collection("flow_history").find({}).to_list(None)
    assert not any("payload" in each or "salt" in each or "payload" in each["after"] for each in documents)
