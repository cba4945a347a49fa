"""Every shape that ever shipped must still load. ``tests/stored_shapes`` has documents as versions of this
service wrote them; a new shape gets files of its own, and none is ever changed."""

from pathlib import Path
from typing import Any

import pytest
from bson.json_util import loads
from msgspec import UNSET

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin, trusted_origin
from app.contracts.people import is_pseudonym
from app.contracts.state import StateId
from app.main import Backend
from models.documents import DOCUMENTS
from models.states.store import MongoStateStore
from tests.support.samples import PROGRAM, peopled

SHAPES = Path(__file__).parents[1] / "stored_shapes"
VERSIONS = sorted({path.name.split("-")[0] for path in SHAPES.glob("*.json")})
SELDOM = {
    "flow_states": {"keyCheck"},
    "flow_history": {"expiresAt"},
    "flow_delivery_lanes": {"expiresAt"},
    "flow_audit": {"address", "requestId", "error"},
}
"""Members that a document has only by a setting, by a request over HTTP, or after a failure."""
COLLECTIONS = {document.Settings.name: document for document in DOCUMENTS}


@pytest.fixture(params=VERSIONS)
async def version(request: pytest.FixtureRequest, parts: Backend) -> str:
    """A version of which the database has the documents."""
    for path in SHAPES.glob(f"{request.param}-*.json"):
        documents = loads(path.read_text())
        collection = parts.database.collection(path.stem.split("-", 1)[1])
        if collection.name == "flow_audit":  # entries of the start have the same sequences
            await collection.delete_many({})
        for document in documents:  # the lease is there already
            await collection.replace_one({"_id": document["_id"]}, document, upsert=True)
    return str(request.param)


async def test_states_and_their_history_load(parts: Backend, version: str) -> None:
    service = parts.service
    flows = service.as_trusted()
    ada = await flows.get_flow_state("ada", "loop")
    assert ada is not None
    assert (ada.step, ada.status, ada.previous, ada.revision) == ("c", "completed", "a", 1)
    assert (ada.service, ada.entity_id, ada.message, ada.ok) == ("shop", "org-1", "hello", False)
    assert ada.payload == {
        "n": 1,
        "f": 1.5,
        "t": "żółć",
        "deep": [None, {"$ref": "x", "$id": 1}],
        "more": True,
    }
    bob = await flows.get_flow_state("bob", "loop")
    assert bob is not None
    assert (bob.status, bob.pause_reason, bob.entity_id) == ("paused", "checks", None)
    assert await flows.get_flow_state("eve", "loop") is None
    kinds = {
        user: [r.kind for r in await flows.get_flow_history(user, "loop")] for user in ("ada", "bob", "eve")
    }
    assert kinds == {
        "ada": ["started", "transitioned"],
        "bob": ["started", "paused", "refused"],
        "eve": ["started", "cleared"],
    }
    assert (
        await service.administration.recover_flow("ada", "loop", origin=trusted_origin("ada"))
    ).action == "kept"
    assert (await service.definitions.current("loop", PROGRAM)).flow.title == "Loop"


async def test_a_migrated_state_and_its_rich_definition_load(parts: Backend, version: str) -> None:
    if version < "0.4.0":
        assert await parts.service.as_trusted().get_user_flows("mia") == [], "there was no migration yet"
        return
    mia = await parts.service.as_trusted().get_flow_state("mia", "expense")
    assert mia is not None
    assert (mia.version, mia.revision, mia.step) == (2, 1, "draft")
    records = await parts.service.as_trusted().get_flow_history("mia", "expense")
    assert [r.kind for r in records] == ["started", "migrated"]
    assert (await parts.service.as_trusted().verify_flow_history("mia", "expense")).whole
    submitted = await parts.service.as_trusted().execute_transition(
        "mia", "expense", "submit", {"amount": 1, "reason": "lunch"}
    )
    assert submitted.timeout_at is not UNSET
    flow = (await parts.service.definitions.version("expense", 1, PROGRAM)).flow
    assert (flow.roles, flow.meta) == (["employee"], {"team": "finance"})
    assert flow.steps["review"].transitions["approve"].guard == "user.id != state.userId"


async def test_states_of_many_and_their_people_load(parts: Backend, version: str) -> None:
    flows = parts.service.as_trusted()
    if version < "0.5.0":
        for state in await flows.get_user_flows("ada"):
            assert (state.instance_id, state.participants, state.people) == (UNSET, UNSET, UNSET)
        return
    states = MongoStateStore(parts.database, parts.codec)
    first = await states.load(StateId("request", "zoe", "R-1"))
    second = await states.load(StateId("request", "zoe", "R-2"))
    assert first is not None
    assert second is not None
    assert first.state.participants is not UNSET
    erased, kim, clerks = first.state.participants
    assert is_pseudonym(str(erased.user_id))
    assert (kim.user_id, clerks.group) == ("kim", "finance")
    assert second.state == peopled(second.state, "kim")
    for entity in ("R-1", "R-2"):
        assert (await flows.verify_flow_history("zoe", "request", entity_id=entity)).whole
    done = await parts.service.personal_data.erase("kim", trusted_origin("root"))
    assert (done.pseudonymised_states, done.pseudonymised_records) == (2, 3)
    for entity in ("R-1", "R-2"):
        assert (await flows.verify_flow_history("zoe", "request", entity_id=entity)).whole


async def test_life_goes_on(parts: Backend, version: str) -> None:
    service = parts.service
    flows = service.as_trusted()
    again = Origin(trusted_caller("ada"), request_id="r-2", client="http")
    repeated = await service.execute_transition(
        "ada", "loop", "jump", {"more": True}, message="hello", ok=False, origin=again
    )
    assert repeated.revision == 1, "a request of before the upgrade is still known"
    await flows.reset_flow("ada", "loop")
    await service.administration.resume_flow("bob", "loop", origin=trusted_origin("bob"))
    await flows.execute_transition("bob", "loop", "go")
    state, started = await flows.start_flow("eve", "loop")
    assert started
    assert state.revision == 0
    await service.background.relay.drain(5)
    for user in ("ada", "bob", "eve"):
        found = await flows.verify_flow_history(user, "loop")
        assert (found.whole, found.broken) == (True, None), user
    await service.personal_data.erase("ada", trusted_origin("root"))
    assert (await flows.verify_flow_history("ada", "loop")).whole


def stored(version: str) -> dict[str, list[dict[str, Any]]]:
    """The documents of a version, by collection."""
    files = SHAPES.glob(f"{version}-*.json")
    return {path.stem.split("-", 1)[1]: loads(path.read_text()) for path in files}


@pytest.mark.parametrize("number", VERSIONS)
async def test_the_documents_declare_every_shape(parts: Backend, number: str) -> None:
    for name, documents in stored(number).items():
        for one in documents:
            COLLECTIONS[name].model_validate(one)


async def test_the_newest_shape_is_among_them(parts: Backend) -> None:
    """A field that this version declares, and that no stored shape of it has, needs a new file
    (``python -m tests.stored_shapes.write``)."""
    newest = stored(VERSIONS[-1])
    for name, document in COLLECTIONS.items():
        fields = {one for documents in newest[name] for one in documents}
        declared = {field.alias or key for key, field in document.model_fields.items()} - {"revisionId"}
        assert declared - fields - {"id"} <= SELDOM.get(name, set()), name
