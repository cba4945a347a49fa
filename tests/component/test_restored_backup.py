"""An erased user cannot be read in a restored backup of everything but the keys.

A backup is every collection but that of the data keys, as a database tool copies it. The same backup is
readable if the user was not erased, so that the test can fail.
"""

import json
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs
from pydantic import SecretStr

from app.contracts.callers import ADMIN, READ, SERVICE, Caller, trusted_caller
from app.contracts.commands import (
    Origin,
    PauseCommand,
    StartCommand,
    trusted_origin,
)
from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    DeliveryAttempt,
    Lane,
    LaneId,
    LanePosition,
)
from app.contracts.errors import FlowError, UserErasedError
from app.contracts.positions import ExpectedPosition
from app.contracts.state import StateId
from app.contracts.wire.administration import personal_data_view
from app.contracts.wire.encoding import encode
from app.main import Backend
from app.services import FlowService
from config.settings import Settings
from models.integrations.lanes import MongoDeliveryLanes
from models.integrations.letters import MongoDeadLetters
from tests.support.marked import Markers
from tests.support.recording import stored_values
from tests.support.samples import T0, flow_dict

ROOT = trusted_origin("root", client="tests")
LOOP = StateId("loop", "ada")
READERS = [Caller("support", scopes=frozenset({scope})) for scope in (ADMIN, SERVICE, READ)]


@pytest.fixture
def sealing(settings: Settings) -> Settings:
    """Settings with a wrapping key."""
    key = b64encode(secrets.token_bytes(32)).decode()
    return settings.model_copy(update={"encryption_keys": SecretStr(key)})


@asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[Backend]:
    """A running service without anything in its caches."""
    backend = Backend(settings)
    async with backend.running():
        yield backend


async def live(backend: Backend, marked: Markers) -> None:
    """Run a user through flows, with a marker in each field that has what users enter."""
    service = backend.service
    conflict = {"step": "a", "conflict": {"merge": ["/note"]}}
    flow = flow_dict()
    flow["steps"]["a"]["transitions"]["again"] |= conflict
    await service.create_flow(flow)
    await service.create_flow(flow_dict("ended"))
    flows = service.as_trusted()
    origin = Origin(trusted_caller("ada"), request_id=marked("Request"), client="tests")
    begin = StartCommand(entity_id=marked("Label"), payload={"iban": marked("Payload")})
    await service.start_flow("ada", "ended", begin, origin=origin)
    await flows.clear_flow_state("ada", "ended")
    await service.start_flow("ada", "loop", begin, origin=origin)
    for n, name in enumerate(("Theirs", "Merged")):
        await service.execute_transition(
            "ada",
            "loop",
            "again",
            {"note": marked(name)},
            message=marked("Message"),
            origin=Origin(trusted_caller("ada"), expected=ExpectedPosition(n - 1) if n else None),
        )
    pausing = PauseCommand(reason=marked("Pause"))
    await service.administration.pause_flow("ada", "loop", pausing, origin=ROOT)
    with pytest.raises(FlowError):
        await flows.execute_transition("ada", "loop", "go", {"note": marked("Refused")})
    await service.background.relay.drain(5)
    attempt = DeliveryAttempt(at=T0, duration_ms=1.0, reason="receiver", status=500, body=marked("Answer"))
    lane = Lane(id=LaneId("pay", LOOP, "j"), since=T0, newest=LanePosition("e", 1), due_at=T0)
    lanes = MongoDeliveryLanes(backend.database, backend.codec)
    await lanes.add_jobs([structs.replace(lane, failures=1, attempts=(attempt,))])
    letter = DeadLetter(
        id="evt_1",
        alias="pay",
        state_id=LOOP,
        epoch="e",
        revision=1,
        type="flow.started",
        at=T0,
        died_at=T0,
        reason="receiver",
        detail="it answered 500",
        event={"data": marked("Letter")},
        attempts=(attempt,),
    )
    await MongoDeadLetters(backend.database, backend.codec).add([letter])


async def dump(backend: Backend) -> dict[str, list[dict[str, Any]]]:
    """Return all documents but those of the data keys."""
    names = await backend.database.collection("x").database.list_collection_names()
    return {
        name: await backend.database.collection(name).find({}).to_list(None)
        for name in names
        if name not in ("flow_data_keys", "flow_leases")
    }


async def restore(backend: Backend, backup: dict[str, list[dict[str, Any]]]) -> None:
    """Replace all documents but those of the data keys."""
    for name, documents in backup.items():
        await backend.database.collection(name).delete_many({})
        if documents:
            await backend.database.collection(name).insert_many(documents)


async def read_everything(service: FlowService, backend: Backend) -> bytes:
    """Return what every way to read a user's data shows."""
    flows = service.as_trusted()
    found: list[Any] = [personal_data_view(await service.personal_data.export("ada"))]
    for flow_id in ("loop", "ended"):
        found.append(repr(await flows.get_flow_state("ada", flow_id)))
        found.append(repr(await flows.get_flow_history("ada", flow_id)))
        found.append(repr(await flows.verify_flow_history("ada", flow_id)))
    found.append(repr(await flows.get_user_flows("ada")))
    letters = MongoDeadLetters(backend.database, backend.codec)
    found.append(repr((await letters.find(DeadLetterFilter(), None, 10)).items))
    lanes = MongoDeliveryLanes(backend.database, backend.codec)
    found.append(repr((await lanes.list_failing("pay", None, 10)).items))
    return encode(found)


@pytest.mark.parametrize("erased", [True, False], ids=["erased", "not erased"])
async def test_a_restored_backup_has_of_an_erased_user_nothing_readable(
    sealing: Settings, *, erased: bool
) -> None:
    marked = Markers()
    async with worker(sealing) as backend:
        await live(backend, marked)
        before = marked.found(await read_everything(backend.service, backend))
        assert before >= {
            *("Payload", "Label", "Merged", "Theirs", "Message", "Pause", "Request", "Answer", "Letter")
        }
        backup = await dump(backend)
        if erased:
            done = await backend.service.personal_data.erase("ada", ROOT)
            assert len(done.destroyed_keys) == 1
    async with worker(sealing) as backend:
        await restore(backend, backup)
    async with worker(sealing) as backend:
        service = backend.service
        after = marked.found(await read_everything(service, backend))
        assert sealing.mongo_url is not None
        url = sealing.mongo_url.get_secret_value()
        raw = set().union(*(marked.found(value) for _, value in stored_values(url, sealing.mongo_database)))
        assert raw == set(), "nothing is stored in the clear"
        if not erased:
            assert after == before
            return
        assert after == set()
        await require_gone(service)
        await service.background.check.run()
        assert await service.background.check.list_reasons(10) == {}, "no check repairs it"
        again = await service.personal_data.erase("ada", ROOT)
        assert {record.flow_id for record in again.receipts} == {"loop", "ended"}
        flows = service.as_trusted()
        for flow_id in ("loop", "ended"):
            verified = await flows.verify_flow_history("ada", flow_id)
            assert (verified.whole, verified.broken) == (True, None)
        assert marked.found(await read_everything(service, backend)) == set()


async def require_gone(service: FlowService) -> None:
    """Require that readers find an erased state, and no error of the service."""
    assert await service.get_flow_state("ada", "loop", caller=Caller("ada")) is None
    for reader in READERS:
        with pytest.raises(UserErasedError) as refusal:
            await service.get_flow_state("ada", "loop", caller=reader)
        assert refusal.value.status == 410
        assert refusal.value.details["erasedBy"] == "root"
    export = json.loads(encode(personal_data_view(await service.personal_data.export("ada"))))
    assert export["states"] == []
    assert export["erased"]["by"] == "root"
    assert all(record["erased"] for record in export["history"])


async def test_a_state_from_a_backup_of_before_an_erasure_can_be_started_anew(sealing: Settings) -> None:
    async with worker(sealing) as backend:
        await live(backend, Markers())
        backup = await dump(backend)
        await backend.service.personal_data.erase("ada", ROOT)
        await backend.service.background.relay.drain(5)  # it would add to the restored history
        await restore(backend, backup)
    async with worker(sealing) as backend:
        flows = backend.service.as_trusted()
        state, started = await flows.start_flow("ada", "loop", StartCommand(payload={"n": 1}))
        assert started
        assert state.payload == {"n": 1}
        verified = await flows.verify_flow_history("ada", "loop")
        assert (verified.whole, verified.broken) == (True, None)
        kinds = [record.kind for record in await flows.get_flow_history("ada", "loop")]
        assert kinds[-2:] == ["erased", "started"]
