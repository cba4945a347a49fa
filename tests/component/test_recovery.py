"""Damaged states on the real database: found, told with what a recovery would do, and recovered."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.commands import PauseCommand, SetCommand, StartCommand, trusted_origin
from app.contracts.errors import FlowNotStartedError, FlowStateCorruptionError
from app.contracts.ports.states import StateFilter
from app.contracts.state import StateId
from app.flow.history_chain import seal
from app.kit.clock import SystemClock
from app.main import Backend, publish_definitions
from app.services import FlowService
from config.settings import Settings
from models.codec import record_from_document, record_to_document
from models.history_store import MongoHistoryStore
from models.states.store import MongoStateStore
from tests.support.samples import PROGRAM, flow_dict

ROOT = trusted_origin("root", client="tests")
FLOW = "user-onboarding"
KEY = f"{FLOW}:ada"
NOW = SystemClock().now()

DAMAGES: dict[str, dict[str, Any]] = {
    "a field is gone": {"$unset": {"step": ""}},
    "the revision is text": {"$set": {"revision": "two"}},
    "the revision is gone": {"$unset": {"revision": ""}},
    "the epoch is gone": {"$unset": {"epoch": ""}},
    "the epoch is odd": {"$set": {"epoch": {"$gt": ""}}},
    "the status is odd": {"$set": {"status": "odd"}},
    "the step is unknown": {"$set": {"step": "nowhere"}},
    "the version is unknown": {"$set": {"version": 99}},
    "the payload is no JSON": {"$set": {"payload": "{"}},
    "the payload is another": {"$set": {"payload": '{"name":"Eve"}'}},
    "it is further than it was": {"$set": {"step": "completed", "status": "completed"}},
    "the status does not fit": {"$set": {"status": "completed"}},
    "the outbox is text": {"$set": {"outbox": "x"}},
    "the requests are torn": {"$set": {"recent": [{"k": 1}]}},
    "the head is another": {"$set": {"head": "0" * 64}},
    "it says that it is another's": {"$set": {"userId": "bob"}},
    "it says that it is of another flow": {"$set": {"flowId": "sign-in"}},
    "the revision is below all": {"$set": {"revision": -5}},
    "the revision is beyond all": {"$set": {"revision": 2**62}},
    "it was changed at the end of time": {"$set": {"updatedAt": datetime(9999, 1, 1, tzinfo=UTC)}},
    "a request has no time": {"$set": {"recent": [{"k": "k", "d": "d", "e": "e", "r": 1, "t": "x"}]}},
}
LOADS = {
    "the payload is another",
    "it is further than it was",
    "the head is another",
    "the revision is beyond all",
}
"""Damages that only the history shows."""


async def walked(service: FlowService) -> None:
    flows = service.as_trusted()
    await flows.start_flow("ada", FLOW, StartCommand(payload={"name": "Ada"}, entity_id="org"))
    await flows.execute_transition("ada", FLOW, "start", {"mail": "a@b"}, message="hi")


async def damage(parts: Backend, update: dict[str, Any], *, delivered: bool = True) -> None:
    if delivered:
        await parts.service.background.relay.drain(5)
    answer = await parts.database.collection("flow_states").update_one({"_id": KEY}, update)
    assert answer.modified_count == 1


@pytest.mark.expected_logs("state recovered")
@pytest.mark.expected_logs("damaged document", optional=True)
@pytest.mark.parametrize("delivered", [True, False], ids=["delivered", "waiting"])
@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_state_is_rebuilt(parts: Backend, name: str, delivered: bool) -> None:
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    before = await flows.get_flow_state("ada", FLOW)
    assert before is not None
    delivered = delivered or name == "the outbox is text"
    if not delivered:
        await service.background.stop()  # what was committed waits in the outbox
        await flows.execute_transition("ada", FLOW, "continue", {"more": 1})
        before = await flows.get_flow_state("ada", FLOW)
        assert before is not None
    await damage(parts, DAMAGES[name], delivered=delivered)
    if name not in LOADS:
        with pytest.raises(FlowStateCorruptionError) as refusal:
            await flows.get_flow_state("ada", FLOW)
        plan = refusal.value.details["recover"]
        assert (plan["action"], plan["step"]) == ("rebuilt", before.step)
        assert "recover would rebuild it" in refusal.value.message

    done = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    state = done.state
    assert state is not None
    assert (done.action, done.record) == ("rebuilt", f"{KEY}:{before.epoch}:{before.revision}")
    assert (state.epoch, state.revision) == (before.epoch, before.revision + 1)
    for member in ("step", "status", "payload", "message", "entity_id", "version", "transitions"):
        assert getattr(state, member) == getattr(before, member), member
    assert await flows.get_flow_state("ada", FLOW) == state

    again = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert (again.action, again.state, again.reason) == ("kept", state, None)
    history = await flows.get_flow_history("ada", FLOW)
    assert [r.revision for r in history] == list(range(state.revision + 1)), "nothing that waited is lost"
    last = history[-1]
    assert (last.kind, last.actor, last.to_step) == ("recovered", "root", before.step)
    assert last.payload is not UNSET
    assert last.payload["action"] == "rebuilt"
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None
    aside = await parts.database.collection("flow_states_damaged").find({"state": KEY}).to_list(None)
    assert len(aside) == 1, "what was found is kept"


async def test_a_sound_state_is_retained(parts: Backend) -> None:
    await walked(parts.service)
    before = await parts.service.as_trusted().get_flow_state("ada", FLOW)
    done = await parts.service.administration.recover_flow("ada", FLOW, origin=trusted_origin("ada"))
    assert (done.action, done.state) == ("kept", before)


@pytest.mark.expected_logs("state recovered")
async def test_a_document_that_is_lost_is_rebuilt(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    before = await flows.get_flow_state("ada", FLOW)
    assert before is not None
    await service.background.relay.drain(5)
    await parts.database.collection("flow_states").delete_one({"_id": KEY})
    done = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert done.action == "rebuilt"
    assert done.state is not None
    assert (done.state.step, done.state.revision) == (before.step, 0)
    assert done.state.epoch > before.epoch, "how far the lost one was nobody knows"
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None


@pytest.mark.expected_logs("state recovered")
async def test_without_a_valid_record_it_begins_again(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    await damage(parts, {"$set": {"version": 99}})
    await parts.database.collection("flow_history").update_many({}, {"$set": {"version": 99, "actor": "eve"}})
    with pytest.raises(FlowStateCorruptionError) as refusal:
        await flows.execute_transition("ada", FLOW, "continue")
    assert refusal.value.details["recover"]["action"] == "restarted"
    done = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert (done.action, done.record) == ("restarted", None)
    assert done.state is not None
    assert (done.state.step, done.state.revision) == ("welcome", 0)
    await flows.execute_transition("ada", FLOW, "start")


@pytest.mark.expected_logs("damaged document", "state recovered")
async def test_a_record_that_was_changed_is_not_believed(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    await damage(parts, {"$unset": {"step": ""}})
    history = parts.database.collection("flow_history")
    forged = {"$set": {"toStep": "completed", "after.step": "completed", "after.status": "completed"}}
    await history.update_one({"revision": 1}, forged)
    done = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert done.state is not None
    assert (done.state.step, done.state.revision) == ("welcome", 2), (
        "from revision 0, after all that are known"
    )
    found = await flows.verify_flow_history("ada", FLOW)
    assert found.broken is not None
    assert found.broken.id.endswith(":1")


@pytest.mark.expected_logs("damaged document", "state recovered")
async def test_a_state_that_had_ended_stays_ended(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    await flows.clear_flow_state("ada", FLOW)
    await damage(parts, {"$unset": {"step": ""}})
    done = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert (done.action, done.state) == ("rebuilt", None)
    assert await flows.get_flow_state("ada", FLOW) is None
    _, started = await flows.start_flow("ada", FLOW)
    assert started
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None


async def test_there_is_nothing_to_recover(parts: Backend) -> None:
    with pytest.raises(FlowNotStartedError):
        await parts.service.administration.recover_flow("nobody", FLOW, origin=trusted_origin("nobody"))
    await walked(parts.service)
    await parts.service.as_trusted().clear_flow_state("ada", FLOW)
    with pytest.raises(FlowNotStartedError):
        await parts.service.administration.recover_flow("ada", FLOW, origin=trusted_origin("ada"))


@pytest.mark.expected_logs("damaged document", "state recovered")
@pytest.mark.parametrize("way", ["reset", "set", "clear"])
async def test_what_replaces_a_damaged_state_recovers_it_first(parts: Backend, way: str) -> None:
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    await damage(parts, {"$unset": {"step": ""}})
    if way == "reset":
        assert (await flows.reset_flow("ada", FLOW)).revision == 3
    elif way == "set":
        assert (await flows.set_flow_state("ada", SetCommand(step="welcome", flow=FLOW))).revision == 3
    else:
        assert await flows.clear_flow_state("ada", FLOW)
    history = await flows.get_flow_history("ada", FLOW)
    assert [r.kind for r in history][2] == "recovered"
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None


@pytest.mark.expected_logs("state recovered")
async def test_a_hold_is_recovered_too(parts: Backend) -> None:
    service = parts.service
    await walked(service)
    await service.administration.pause_flow(
        "ada", FLOW, PauseCommand(reason="fraud"), origin=trusted_origin("ada")
    )
    await damage(parts, {"$set": {"status": "active"}})
    done = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert done.state is not None
    assert (done.state.status, done.state.pause_reason) == ("paused", "fraud")


@pytest.mark.expected_logs("state recovered", "inconsistent state")
async def test_the_check_finds_what_does_not_agree(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    for user in ("bob", "eve", "joe"):
        await flows.start_flow(user, FLOW)
    await walked(service)
    await damage(parts, {"$set": {"payload": "{}"}})
    check = service.background.check
    await check.run()
    assert (await service.get_flow_statistics()).corrupted_states == 1
    await check.run()
    assert (await service.get_flow_statistics()).corrupted_states == 1
    await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert (await service.get_flow_statistics()).corrupted_states == 0
    await service.background.relay.drain(5)
    history = parts.database.collection("flow_history")
    lost = await history.find_one_and_delete({"userId": "bob"})
    assert lost is not None
    await check.run()
    assert (await service.get_flow_statistics()).corrupted_states == 1, "its history has a hole"
    done = await service.administration.recover_flow("bob", FLOW, origin=trusted_origin("bob"))
    assert done.action == "kept"
    assert done.reason is not None
    await history.insert_one(lost)
    await check.run()
    assert (await service.get_flow_statistics()).corrupted_states == 0


async def test_what_is_healed_is_withdrawn_though_it_is_not_sampled(parts: Backend) -> None:
    service = parts.service
    await walked(service)
    await parts.service.background.relay.drain(5)
    reports = parts.database.collection("flow_corruptions")
    await reports.insert_one({"_id": KEY, "reason": "was odd", "foundAt": NOW})
    await reports.insert_one({"_id": f"{FLOW}:gone", "reason": "x", "foundAt": NOW})
    await service.background.check.run()
    assert await reports.count_documents({}) == 0


@pytest.mark.expected_logs("state recovered")
async def test_an_older_copy_of_the_document_is_not_believed(parts: Backend) -> None:
    """As after a backup was restored: what is in the history was acknowledged."""
    service = parts.service
    flows = service.as_trusted()
    states = parts.database.collection("flow_states")
    await flows.start_flow("ada", FLOW)
    await service.background.relay.drain(5)
    old = await states.find_one({"_id": KEY})
    assert old is not None
    await flows.execute_transition("ada", FLOW, "start", {"n": 1})
    await service.background.relay.drain(5)
    await states.replace_one({"_id": KEY}, old)
    found = await flows.verify_flow_history("ada", FLOW)
    assert found.broken is not None
    assert found.broken.id.endswith(":1")
    done = await service.administration.recover_flow("ada", FLOW, origin=trusted_origin("ada"))
    assert done.state is not None
    assert (done.action, done.state.step, done.state.revision) == ("rebuilt", "profile-setup", 2)
    assert (await flows.verify_flow_history("ada", FLOW)).broken is None


@pytest.mark.expected_logs("state recovered")
async def test_the_state_of_another_is_not_written_from_a_forged_record(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    await service.background.relay.drain(5)
    await parts.database.collection("flow_history").update_one(
        {"revision": 1}, {"$set": {"after.userId": "bob"}}
    )
    await parts.database.collection("flow_states").delete_one({"_id": KEY})
    done = await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert done.state is not None
    assert (done.state.user_id, done.state.step) == ("ada", "welcome")
    assert await flows.get_flow_state("bob", FLOW) is None


@pytest.mark.expected_logs("damaged document", "state recovered")
async def test_an_expired_state_is_not_brought_back(clear_parts: Backend) -> None:
    parts, service = clear_parts, clear_parts.service
    flows = service.as_trusted()
    flow = flow_dict(ttl="PT1S")
    await service.create_flow(flow)
    await flows.start_flow("ada", "loop")
    await service.background.relay.drain(5)
    states, history = (parts.database.collection(name) for name in ("flow_states", "flow_history"))
    past = NOW - timedelta(minutes=1)
    await states.update_one({"_id": "loop:ada"}, {"$set": {"status": "odd", "expiresAt": past}})
    stored = await history.find_one({"_id": {"$regex": "^loop:ada"}})
    assert stored is not None
    sealed = record_from_document({**stored, "after": {**stored["after"], "expiresAt": past}})
    again = record_to_document(seal(sealed, "", "salt"))
    await history.replace_one({"_id": stored["_id"]}, again)
    done = await service.administration.recover_flow("ada", "loop", origin=trusted_origin("ada"))
    assert done.state is None
    assert await flows.get_flow_state("ada", "loop") is None
    kinds = [(r.kind, r.after.status) for r in await flows.get_flow_history("ada", "loop")]  # type: ignore[union-attr]
    assert kinds == [("started", "active"), ("recovered", "expired")]


@pytest.mark.expected_logs("state recovered")
async def test_a_sound_state_without_history_is_retained_as_it_is(parts: Backend) -> None:
    service = parts.service
    await walked(service)
    await damage(parts, {"$set": {"recent": "x"}})
    await parts.database.collection("flow_history").delete_many({})
    done = await service.administration.recover_flow("ada", FLOW, origin=trusted_origin("ada"))
    assert done.state is not None
    assert (done.action, done.state.step, done.state.revision) == ("rebuilt", "profile-setup", 2)
    assert done.state.payload == {"name": "Ada", "mail": "a@b"}


@pytest.mark.expected_logs("damaged document")
async def test_a_damaged_state_does_not_end_the_paging(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    for n in range(6):
        await flows.start_flow(f"u-{n}", FLOW)
    await parts.database.collection("flow_states").update_one({"_id": f"{FLOW}:u-1"}, {"$unset": {"ok": ""}})
    first = await service.administration.find_states(StateFilter(flow_id=FLOW), limit=3, caller=PROGRAM)
    assert ([s.user_id for s in first.states], first.next) == (["u-0", "u-2"], f"{FLOW}:u-2")
    rest = await service.administration.find_states(
        StateFilter(flow_id=FLOW), after=first.next, limit=4, caller=PROGRAM
    )
    assert ([s.user_id for s in rest.states], rest.next) == (["u-3", "u-4", "u-5"], None)


async def test_the_lease_is_asked_for_again_after_its_document_was_damaged(parts: Backend) -> None:
    leases = parts.database.collection("flow_leases")
    await leases.update_one({"_id": "background"}, {"$set": {"fence": "x", "until": "y", "holder": "z"}})
    async with asyncio.timeout(10):
        while (await leases.find_one({"_id": "background"}) or {}).get("fence") != 1:
            await asyncio.sleep(0.1)


@pytest.mark.expected_logs("history has another record")
async def test_a_record_in_the_place_of_another_is_not_taken_for_delivered(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await service.background.stop()
    await flows.start_flow("ada", FLOW)
    stored = await MongoStateStore(parts.database, parts.codec).load(StateId(FLOW, "ada"))
    assert stored is not None
    rival = structs.replace(stored.pending[0], commit_id="rival")
    await MongoHistoryStore(parts.database, codec=parts.codec).append([rival])
    await service.background.relay.deliver(stored.pending)
    again = await MongoStateStore(parts.database, parts.codec).load(StateId(FLOW, "ada"))
    assert again is not None
    assert again.pending == stored.pending, "it stays where it is"


async def test_pruned_history_is_no_damage(settings: Settings) -> None:
    """With FLOW_HISTORY_RETENTION the last records of a state that rests may be gone."""
    parts = Backend(settings.model_copy(update={"history_retention": timedelta(days=1)}))
    async with parts.running() as service:
        flows = service.as_trusted()
        await publish_definitions(service, settings)
        await walked(service)
        await service.background.relay.drain(5)
        history = parts.database.collection("flow_history")
        for revision in (1, 0):
            await history.delete_many({"revision": revision})
            await service.background.check.run()
            assert (await service.get_flow_statistics()).corrupted_states == 0
            done = await service.administration.recover_flow("ada", FLOW, origin=trusted_origin("ada"))
            assert (done.action, done.reason) == ("kept", None)
        assert (await flows.verify_flow_history("ada", FLOW)).whole
