"""Writes the documents of this version beside those of older ones: ``python -m tests.stored_shapes.write``.

Run it once when a stored shape has changed, after the version in pyproject.toml was raised.
"""

import asyncio
import tempfile
from importlib.metadata import version
from pathlib import Path

from bson.json_util import CANONICAL_JSON_OPTIONS, dumps
from msgspec import structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin, PauseCommand, StartCommand, trusted_origin
from app.contracts.errors import StatePausedError
from app.contracts.migration import MigrateCommand
from app.contracts.ports.keys import WrappedKey
from app.contracts.record import MergedField
from app.contracts.state import StateId
from app.flow.history_chain import seal
from app.main import Backend
from app.process.embedded import EmbeddedServers
from config.settings import Settings
from models.data_keys import MongoDataKeyStore
from models.database import Database
from models.documents import DOCUMENTS
from models.history_store import MongoHistoryStore
from models.states.store import MongoStateStore
from tests.stored_shapes.integrations import write_deliveries, write_registrations
from tests.support.fakes import FakeClock
from tests.support.samples import T0, expense_flow, flow_dict, moved, peopled, record

HERE = Path(__file__).parent
ROOT = trusted_origin("root", client="http")


def _asked(request_id: str) -> Origin:
    return Origin(trusted_caller("ada"), request_id=request_id, client="http")


async def live(parts: Backend, clock: FakeClock) -> None:
    """The lives of some users, so that every member of every document is there."""
    service = parts.service
    flows = service.as_trusted()
    flow = flow_dict(title="Loop", ttl="P36500D", searchable=["/n"])
    flow["steps"]["b"]["timeout"] = {"after": "PT1H", "transition": "done", "resume": "remaining"}
    flow["steps"]["b"]["payloadMap"] = {"x": 0}
    flow["steps"]["b"]["transitions"]["back"]["roles"] = ["staff"]
    await service.create_flow(flow)
    async with service:
        await flows.start_flow("bob", "loop", StartCommand(entity_id=None))
        clock.advance(seconds=1)
        await service.administration.pause_flow("bob", "loop", PauseCommand(reason="checks"), origin=ROOT)
        try:
            await flows.execute_transition("bob", "loop", "go")
        except StatePausedError:
            clock.advance(seconds=1)
        await flows.start_flow("tim", "loop", StartCommand(step="b"))
        await flows.start_flow("tom", "loop", StartCommand(step="b"))
        await flows.start_flow("ted", "loop", StartCommand(step="b"))
        await service.execute_transition("ted", "loop", "back", origin=ROOT)
        clock.advance(minutes=10)
        await service.administration.pause_flow("tim", "loop", PauseCommand(reason="checks"), origin=ROOT)
        await service.start_flow("eve", "loop", StartCommand(payload={"secret": 1}), origin=_asked("r-3"))
        await flows.clear_flow_state("eve", "loop")
        await flows.start_flow("ian", "loop", StartCommand(payload={"secret": 1}))
        await service.personal_data.erase("ian", ROOT)
        await flows.start_flow("pat", "loop", StartCommand(payload={"n": 1}))
        clock.advance(seconds=1)
        await flows.execute_transition("pat", "loop", "again")
        await flows.start_flow("dan", "loop")
        states = parts.database.collection("flow_states")
        await states.update_one({"_id": "loop:dan"}, {"$set": {"status": "odd"}})
        await service.administration.recover_flow("dan", "loop", origin=ROOT)
        await flows.start_flow("sam", "loop")
        await states.update_one({"_id": "loop:sam"}, {"$set": {"step": "nowhere"}})
        await service.background.check.run()
        await service.background.relay.drain(5)
        await _migrated(parts)
        await _of_many(parts)
        await _merged(parts)
    # What follows waits in the outbox.
    payload = {"n": 1, "f": 1.5, "t": "żółć", "deep": [None, {"$ref": "x", "$id": 1}]}
    begun = StartCommand(service="shop", entity_id="org-1", payload=payload)
    await service.start_flow("ada", "loop", begun, origin=_asked("r-1"))
    clock.advance(seconds=1)
    more = {"more": True}
    await service.execute_transition(
        "ada", "loop", "jump", more, message="hello", ok=False, origin=_asked("r-2")
    )


async def _migrated(parts: Backend) -> None:
    """A state of a flow with every optional member, moved to its second version."""
    flow = expense_flow(
        title="Expenses", description="Paid back", meta={"team": "finance"}, roles=["employee"]
    )
    await parts.service.create_flow(flow)
    await parts.service.as_trusted().start_flow("mia", "expense")
    await parts.service.update_flow("expense", {"title": "Expenses, again"})
    await parts.service.migration.migrate("expense", MigrateCommand(1, 2), origin=ROOT)
    await parts.service.background.relay.drain(5)


async def _of_many(parts: Backend) -> None:
    """Two of many states, with people in every member that can name them; one person was erased from one."""
    participants = {"approver": {"claim": "PT15M"}, "clerk": {"group": "finance"}}
    flow = flow_dict(slug="request", instances="many", participants=participants)
    flow["steps"]["a"]["transitions"]["go"]["roles"] = ["approver", "clerk"]
    await parts.service.create_flow(flow)
    minted = Origin(trusted_caller("zoe"), request_id="r-4", client="http")
    await parts.service.start_flow("zoe", "request", StartCommand(), origin=minted)
    states = MongoStateStore(parts.database, parts.codec)
    for entity in ("R-1", "R-2"):
        await parts.service.as_trusted().start_flow("zoe", "request", StartCommand(entity_id=entity))
        people = ("bea", "kim") if entity == "R-1" else ("kim",)
        stored = await states.load(StateId("request", "zoe", entity))
        assert stored is not None
        after = moved(peopled(structs.replace(stored.state, transitions=()), *people))
        one = structs.replace(record(after, kind="assigned"), actor="kim", actor_salt="salt-of-kim")
        assert await states.commit(stored.state.position, seal(one, stored.head, "salt"))
    await parts.service.personal_data.erase("bea", ROOT)
    await parts.service.background.relay.drain(5)


async def _merged(parts: Backend) -> None:
    """A state whose last change replaced a value of another one that its caller did not know."""
    await parts.service.as_trusted().start_flow("max", "loop", StartCommand(payload={"amount": 1}))
    states = MongoStateStore(parts.database, parts.codec)
    stored = await states.load(StateId("loop", "max"))
    assert stored is not None
    after = moved(structs.replace(stored.state, transitions=(), payload={"amount": 2}))
    merged = (MergedField("/amount", theirs={"$ref": 1}, ours=2),)
    one = structs.replace(record(after), actor="max", payload={"amount": 2}, merged=merged)
    sealed = seal(one, stored.head, "salt")
    assert await states.commit(stored.state.position, sealed)
    await MongoHistoryStore(parts.database, codec=parts.codec).append([sealed])


async def write_data_keys(database: Database) -> None:
    """Store the data keys of a user without states: a destroyed, a retired and a current one."""
    store = MongoDataKeyStore(database)
    for n in range(3):
        key = WrappedKey(f"{n:016x}", b"wrapped", "local:0123456789abcdef", b"commitment", T0)
        await store.create_many({"user:of-keys-alone": key})
        if n == 0:
            await store.retire("user:of-keys-alone")
            await store.destroy_retired("user:of-keys-alone", T0, "root")
        elif n == 1:
            await store.retire("user:of-keys-alone")


async def main() -> None:
    """Write them."""
    servers = EmbeddedServers(Path(tempfile.mkdtemp()))
    clock = FakeClock(T0)
    settings = servers.start(Settings(_env_file=None, jwt_secret="x" * 40, log_level="error"))
    # Without encryption: no other database could open what is sealed here.
    parts = Backend(settings.model_copy(update={"encryption_keys": None}), clock)
    await parts.database.prepare()
    await parts.bus.start(await parts.secrets.secret("bus"))
    await live(parts, clock)
    await write_registrations(parts.database)
    await write_deliveries(parts.database)
    await write_data_keys(parts.database)
    for document in DOCUMENTS:
        name = document.get_collection_name()
        stored = await parts.database.collection(name).find().sort("_id", 1).to_list(None)
        text = dumps(stored, json_options=CANONICAL_JSON_OPTIONS, indent=1, ensure_ascii=False)
        path = HERE / f"{version('server-flow')}-{name}.json"
        path.write_text(text + "\n")
        print(f"{path}: {len(stored)} documents")
    await parts.bus.stop()
    await parts.database.close()
    servers.stop()


if __name__ == "__main__":
    asyncio.run(main())
