"""Export and erasure of one user, on the real database."""

import asyncio

import pytest
from bson.json_util import dumps

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin, PauseCommand, SetCommand, StartCommand, trusted_origin
from app.contracts.state import StateId
from app.main import Backend
from app.services import FlowService
from app.services.administration import personal_data
from models.history_store import MongoHistoryStore
from models.states.store import MongoStateStore

FLOW = "user-onboarding"
ROOT = trusted_origin("root", client="tests")
SECRETS = ("DE0212", "private note", "org-of-ada", "suspicion", "request-of-ada")


async def lived(service: FlowService, user: str = "ada") -> None:
    """Two flows; in one of them two lives, a hold, and a refusal."""
    flows = service.as_trusted()
    origin = Origin(trusted_caller(user), request_id="request-of-ada", client="http")
    await service.start_flow(user, FLOW, StartCommand(payload={"iban": "DE0212"}), origin=origin)
    await flows.clear_flow_state(user, FLOW)
    begun = StartCommand(payload={"iban": "DE0212"}, entity_id="org-of-ada")
    await flows.start_flow(user, FLOW, begun)
    await flows.execute_transition(user, FLOW, "start", {"x": "DE0212"}, message="private note")
    await service.administration.pause_flow(
        user, FLOW, PauseCommand(reason="suspicion"), origin=trusted_origin(user)
    )
    await asyncio.gather(flows.execute_transition(user, FLOW, "skip"), return_exceptions=True)
    await flows.set_flow_state(user, SetCommand(flow="sign-in", step="credentials", payload={"n": "DE0212"}))


async def everything(parts: Backend) -> str:
    names = ("flow_states", "flow_history", "flow_states_damaged", "flow_corruptions", "flow_leases")
    found = [
        await parts.database.collection(name).find({"userId": {"$ne": "bob"}}).to_list(None) for name in names
    ]
    return dumps(found)


async def test_the_export_has_all_there_is(parts: Backend) -> None:
    await lived(parts.service)
    await lived(parts.service, "bob")
    found = await parts.service.personal_data.export("ada")
    assert [state.flow for state in found.states] == ["sign-in", FLOW]
    flow_topic = ["started", "cleared", "started", "transitioned", "paused"]
    kinds = [(r.flow_id, r.kind) for r in found.history if r.success]
    assert kinds == [("sign-in", "set"), *((FLOW, kind) for kind in flow_topic)]
    assert {r.user_id for r in found.history} == {"ada"}


async def test_nothing_that_was_entered_is_left_and_the_chain_is_whole(clear_parts: Backend) -> None:
    parts, service = clear_parts, clear_parts.service
    flows = service.as_trusted()
    await lived(service)
    await lived(service, "bob")
    text = await everything(parts)
    assert all(secret in text for secret in SECRETS), "the test would see them"
    done = await service.personal_data.erase("ada", ROOT)
    assert [(r.flow_id, r.kind, r.actor) for r in done.receipts] == [
        ("sign-in", "erased", "root"),
        (FLOW, "erased", "root"),
    ]
    await service.background.relay.drain(5)
    text = await everything(parts)
    assert [secret for secret in SECRETS if secret in text] == []
    assert await flows.get_user_flows("ada") == []
    for flow in (FLOW, "sign-in"):
        found = await flows.verify_flow_history("ada", flow)
        assert (found.whole, found.broken) == (True, None)
        assert found.erased == found.records - 1
    history = await flows.get_flow_history("ada", FLOW)
    assert [r.to_step for r in history if r.success][:4] == ["welcome", "welcome", "welcome", "profile-setup"]
    assert (await flows.get_flow_history("bob", FLOW))[0].payload == {"iban": "DE0212"}


async def test_an_erasure_can_be_repeated_and_life_goes_on(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await lived(service)
    await service.personal_data.erase("ada", ROOT)
    again = await service.personal_data.erase("ada", ROOT)
    assert len(again.receipts) == 2
    state, started = await flows.start_flow("ada", FLOW, StartCommand(payload={"new": 1}))
    assert started
    assert (state.revision, state.payload) == (0, {"new": 1})
    await flows.execute_transition("ada", FLOW, "start")
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None


@pytest.mark.expected_logs("delivery incomplete, records stay in outboxes")
async def test_a_life_after_an_erasure_is_erased_though_its_end_is_not_retained_yet(
    parts: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = parts.service
    flows = service.as_trusted()
    await lived(service)
    await service.personal_data.erase("ada", ROOT)
    await service.background.relay.drain(5)
    await service.background.stop()  # what follows waits in the outbox
    monkeypatch.setattr(personal_data, "MAX_DRAIN_SECONDS", 0.05)
    await flows.start_flow("ada", FLOW, StartCommand(payload={"iban": "DE0212"}))
    await flows.clear_flow_state("ada", FLOW)
    done = await service.personal_data.erase("ada", ROOT)
    assert [r.revision for r in done.receipts if r.flow_id == FLOW] == [2], "a receipt of its own"
    text = await everything(parts)
    assert [secret for secret in SECRETS if secret in text] == []
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None


async def test_who_was_never_there_leaves_no_trace(parts: Backend) -> None:
    done = await parts.service.personal_data.erase("nobody", ROOT)
    assert (done.receipts, done.erased) == ([], 0)
    assert await parts.database.collection("flow_states").count_documents({}) == 0


async def test_what_only_the_history_has_is_erased_too(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await lived(service)
    await service.background.relay.drain(5)
    await parts.database.collection("flow_states").delete_many({})
    done = await service.personal_data.erase("ada", ROOT)
    assert len(done.receipts) == 2
    text = await everything(parts)
    assert [secret for secret in SECRETS if secret in text] == []
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None


@pytest.mark.expected_logs("damaged document", "state recovered")
async def test_a_damaged_state_is_erased_with_what_was_set_aside(parts: Backend) -> None:
    service = parts.service
    await lived(service)
    states = parts.database.collection("flow_states")
    for damage in ({"$unset": {"step": ""}}, {"$set": {"revision": "x"}}):
        await states.update_one({"_id": f"{FLOW}:ada"}, damage)
        if "$unset" in damage:
            await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    await service.personal_data.erase("ada", ROOT)
    await service.background.relay.drain(5)
    text = await everything(parts)
    assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.expected_logs("delivery incomplete, records stay in outboxes")
async def test_a_worker_that_delivers_late_brings_nothing_back(
    parts: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = parts.service
    await service.background.stop()
    monkeypatch.setattr(personal_data, "MAX_DRAIN_SECONDS", 0.05)
    await lived(service)
    stored = await MongoStateStore(parts.database, parts.codec).load(StateId(FLOW, "ada"))
    assert stored is not None
    assert stored.pending, "held by a worker that is slow"
    await service.personal_data.erase("ada", ROOT)
    await MongoHistoryStore(parts.database, codec=parts.codec).append(stored.pending)
    await MongoStateStore(parts.database, parts.codec).release(stored.pending)
    text = await everything(parts)
    assert [secret for secret in SECRETS if secret in text] == []
