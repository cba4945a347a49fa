"""A record does not repeat a payload that its change left as it was; whoever needs it finds it."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, json, structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin, PauseCommand, SetCommand, StartCommand, trusted_origin
from app.contracts.positions import HeldPosition
from app.contracts.record import HistoryRecord, state_after
from app.contracts.state import FlowState, StateId
from app.contracts.wire.administration import personal_data_view
from tests.support.rig import Rig, rig

PAYLOAD = {"text": "x" * 1000}
ROOT = trusted_origin("root")


async def started(**limits: Any) -> Rig:
    """A state with a payload, three changes that leave it, one of its payload, and one that leaves that."""
    r = await rig(**limits)
    await r.flows.start_flow("ada", "loop", StartCommand(payload=PAYLOAD))
    r.clock.advance(seconds=1)
    await r.flows.execute_transition("ada", "loop", "again")
    await r.service.administration.pause_flow("ada", "loop", PauseCommand("audit"), origin=ROOT)
    await r.service.administration.resume_flow("ada", "loop", origin=ROOT)
    await r.flows.execute_transition("ada", "loop", "again", {"n": 1})
    await r.service.execute_transition(
        "ada", "loop", "again", origin=Origin(trusted_caller("ada"), request_id="r-1", client="http")
    )
    return r


async def deliver(r: Rig, count: int | None = None) -> list[HistoryRecord]:
    """Bring the first records that wait to the history, out of the outbox."""
    stored = await r.states.load(StateId("loop", "ada"))
    assert stored is not None
    records = list(stored.pending[:count])
    await r.history.append(records)
    await r.states.release(records)
    return records


def payloads(records: list[HistoryRecord]) -> list[Any]:
    """The payloads of the states that records have."""
    return [state_after(record).payload for record in records]


WHOLE = [PAYLOAD, PAYLOAD, PAYLOAD, PAYLOAD, {**PAYLOAD, "n": 1}, {**PAYLOAD, "n": 1}]


async def test_a_record_names_the_revision_that_has_the_payload() -> None:
    r = await started()
    records = await deliver(r)
    assert [record.payload_revision for record in records] == [UNSET, 0, 0, 0, UNSET, 4]
    assert [payload is UNSET for payload in payloads(records)] == [False, True, True, True, False, True]
    assert json.encode(records).count(b"xxx" * 300) == 3  # given, then in two states
    assert payloads(await r.flows.get_flow_history("ada", "loop")) == WHOLE


@pytest.mark.parametrize("delivered", range(7))
async def test_everybody_finds_it(delivered: int) -> None:
    r = await started()
    await deliver(r, delivered)
    assert payloads(await r.flows.get_flow_history("ada", "loop")) == WHOLE
    assert (await r.flows.verify_flow_history("ada", "loop")).whole
    state = await r.flows.get_flow_state("ada", "loop")
    assert state is not None
    found = await r.flows.get_flow_events("ada", "loop", HeldPosition(state.epoch, 0))
    assert found.complete
    assert [json.decode(event.body)["payload"] for event in found.events] == WHOLE[1:]
    again = await r.service.execute_transition(
        "ada", "loop", "again", origin=Origin(trusted_caller("ada"), request_id="r-1", client="http")
    )
    assert (again.revision, again.payload) == (5, WHOLE[5])
    exported = personal_data_view(await r.service.personal_data.export("ada"))
    named = [view.metadata.payload_revision for view in exported.history]
    assert named == [UNSET, 0, 0, 0, UNSET, 4]
    async with r.service as service:  # what a dead worker left is delivered whole
        r.clock.advance(minutes=1)
        await service.background.sweep.run()
        await service.background.relay.drain(5)
    late = [json.decode(event.body)["payload"] for event in r.published][-(6 - delivered) or 6 :]
    assert late == WHOLE[delivered:]


@pytest.mark.expected_logs("state recovered")
@pytest.mark.parametrize("delivered", [0, 3, 6])
async def test_a_damaged_state_is_rebuilt_with_it(delivered: int) -> None:
    r = await started()
    await deliver(r, delivered)
    await r.flows.execute_transition("ada", "loop", "again")
    before = await r.flows.get_flow_state("ada", "loop")
    assert before is not None
    for damage in ({"step": "nowhere"}, {"payload": {"other": 1}}):
        stored = r.states.stored["loop:ada"]
        damaged = structs.replace(stored.state, **damage)
        r.states.stored["loop:ada"] = structs.replace(stored, state=damaged)
        done = await r.service.administration.recover_flow("ada", "loop", origin=trusted_origin("ada"))
        assert done.state is not None
        assert (done.action, done.state.payload, done.state.step) == ("rebuilt", WHOLE[5], before.step)
        await deliver(r)


async def test_a_sound_state_is_retained_when_the_record_of_its_payload_was_changed() -> None:
    r = await started()
    await deliver(r)
    state = await r.flows.get_flow_state("ada", "loop")
    assert state is not None
    source = f"loop:ada:{state.epoch}:4"
    record = r.history.records[source]
    forged = structs.replace(state_after(record), payload={"forged": True})
    for changed in (structs.replace(record, after=forged), None):
        if changed is None:
            del r.history.records[source]
        else:
            r.history.records[source] = changed
        done = await r.service.administration.recover_flow("ada", "loop", origin=trusted_origin("ada"))
        assert (done.action, done.state) == ("kept", state)
        assert not (await r.flows.verify_flow_history("ada", "loop")).whole
        held = HeldPosition(state.epoch, 4)
        found = await r.flows.get_flow_events("ada", "loop", held)
        assert found.state == state


async def test_what_is_equal_to_python_and_not_to_json_is_not_the_same() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop", StartCommand(payload={"a": 1, "b": [0]}))
    for given in ({"a": True}, {"a": 1.0}, {"a": 1.0}, {"b": [False]}):
        await r.flows.execute_transition("ada", "loop", "again", given)
    records = await r.flows.get_flow_history("ada", "loop")
    assert [record.payload_revision for record in records] == [UNSET, UNSET, UNSET, 2, UNSET]
    assert [repr(payload["a"]) for payload in payloads(records)] == ["1", "True", "1.0", "1.0", "1.0"]


async def test_another_life_names_nothing_of_the_one_before() -> None:
    r = await started()
    await r.flows.reset_flow("ada", "loop")
    await r.service.set_flow_state("ada", SetCommand("a", flow="loop", payload=PAYLOAD), origin=ROOT)
    await r.flows.clear_flow_state("ada", "loop")
    await r.flows.start_flow("ada", "loop", StartCommand(payload=PAYLOAD))
    records = await r.flows.get_flow_history("ada", "loop")
    assert [record.payload_revision for record in records[6:]] == [UNSET] * 4
    assert (await r.flows.verify_flow_history("ada", "loop")).whole


async def test_a_state_of_an_older_version_repeats_its_payload_once() -> None:
    r = await started()
    stored = r.states.stored["loop:ada"]
    r.states.stored["loop:ada"] = structs.replace(stored, payload_at=None)
    await r.flows.execute_transition("ada", "loop", "again")
    await r.flows.execute_transition("ada", "loop", "again")
    records = await r.flows.get_flow_history("ada", "loop")
    assert [record.payload_revision for record in records[6:]] == [UNSET, 6]


async def test_where_history_is_pruned_a_payload_is_repeated_now_and_then() -> None:
    r = await rig(history_retention=timedelta(days=5))
    await r.flows.start_flow("ada", "loop", StartCommand(payload=PAYLOAD))
    for _ in range(5):
        r.clock.advance(hours=5)
        await r.flows.execute_transition("ada", "loop", "again")
    records = await deliver(r)
    assert [record.payload_revision for record in records] == [UNSET, 0, 0, UNSET, 3, 3]
    for gone in records[:4]:
        del r.history.records[gone.id]
    assert (await r.flows.verify_flow_history("ada", "loop")).whole
    state = await r.flows.get_flow_state("ada", "loop")
    assert isinstance(state, FlowState)
    assert (
        await r.service.administration.recover_flow("ada", "loop", origin=trusted_origin("ada"))
    ).action == "kept"
    found = await r.flows.get_flow_events("ada", "loop", HeldPosition(state.epoch, 3))
    assert found.complete, "the state itself has the payload"


async def test_an_erasure_takes_what_was_named() -> None:
    r = await started()
    async with r.service as service:
        flows = service.as_trusted()
        await service.personal_data.erase("ada", ROOT)
        await service.background.relay.drain(5)
        found = await flows.verify_flow_history("ada", "loop")
    assert (found.whole, found.erased) == (True, 6)
    assert "xxx" not in repr(r.history.records)
