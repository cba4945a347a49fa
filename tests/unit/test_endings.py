"""The end of a state, as told to callers that find none: it expired, was cleared or was erased."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

from app.contracts.callers import ADMIN, READ, SERVICE, Caller, trusted_caller
from app.contracts.commands import Origin, PauseCommand, trusted_origin
from app.contracts.errors import (
    FlowNotStartedError,
    FlowStateCorruptionError,
    RevisionConflictError,
    UserErasedError,
)
from app.contracts.ports.states import DamagedState
from app.contracts.positions import ExpectedPosition
from app.contracts.wire.times import iso
from app.services import FlowService
from app.services.administration import personal_data
from tests.support.rig import Rig
from tests.support.samples import flow_dict

ROOT = trusted_origin("root")
Ask = Callable[[FlowService], Awaitable[Any]]
ASKS: list[Ask] = [
    lambda service: service.as_trusted().execute_transition("ada", "loop", "go"),
    lambda service: service.execute_transition(
        "ada", "loop", "go", origin=Origin(trusted_caller("ada"), dry_run=True)
    ),
    lambda service: service.as_trusted().undo_transition("ada", "loop"),
    lambda service: service.administration.pause_flow(
        "ada", "loop", PauseCommand(reason="x"), origin=trusted_origin("ada")
    ),
    lambda service: service.administration.resume_flow("ada", "loop", origin=trusted_origin("ada")),
    lambda service: service.administration.recover_flow("ada", "loop", origin=trusted_origin("ada")),
    lambda service: service.as_trusted().require_flow_state("ada", "loop"),
]
OF_ASKS = ["transition", "dry run", "undo", "pause", "resume", "recover", "read"]


async def started() -> Rig:
    rig = Rig()
    await rig.service.create_flow(flow_dict(ttl="PT1H"))
    await rig.flows.start_flow("ada", "loop")
    return rig


async def refusal_of(rig: Rig, ask: Ask) -> FlowNotStartedError:
    with pytest.raises(FlowNotStartedError) as refusal:
        await ask(rig.service)
    assert refusal.value.details.pop("flowId") == "loop"
    return refusal.value


@pytest.mark.parametrize("ask", ASKS, ids=OF_ASKS)
async def test_an_expired_state_is_reported_from_one_that_never_was(ask: Ask) -> None:
    rig = Rig()
    await rig.service.create_flow(flow_dict(ttl="PT1H"))
    never = await refusal_of(rig, ask)
    assert (never.details, never.message) == ({}, "Flow loop is not started; start it first")
    await rig.flows.start_flow("ada", "loop")
    rig.clock.advance(hours=1)
    expired = iso(rig.clock.now())
    error = await refusal_of(rig, ask)
    assert error.details == {"expiredAt": expired}
    assert error.message == f"Flow loop is not started: its state expired at {expired}; start it again"
    await rig.service.purge_expired_flows()
    rig.clock.advance(hours=5)
    assert (await refusal_of(rig, ask)).details == {"expiredAt": expired}


@pytest.mark.parametrize("ask", ASKS, ids=OF_ASKS)
@pytest.mark.parametrize("delivered", [False, True])
async def test_a_cleared_state_is_reported_from_an_erased_one(ask: Ask, delivered: bool) -> None:
    rig = await started()

    async def ended(how: str, at: datetime) -> None:
        if delivered:
            await rig.service.background.relay.drain(5)
        rig.clock.advance(minutes=5)
        error = await refusal_of(rig, ask)
        assert error.details == {f"{how}At": iso(at)}
        assert f"its state was {how} at {iso(at)}" in error.message

    async with rig.service as service:
        flows = service.as_trusted()
        rig.clock.advance(minutes=5)
        await flows.clear_flow_state("ada", "loop")
        await ended("cleared", rig.clock.now())
        await service.personal_data.erase("ada", ROOT)
        await ended("erased", rig.clock.now())
        await flows.start_flow("ada", "loop")
        await flows.delete_flow("loop", force=True)
        await service.create_flow(flow_dict(ttl="PT1H"))
        await ended("cleared", rig.clock.now())


@pytest.mark.parametrize("ask", ASKS, ids=OF_ASKS)
@pytest.mark.parametrize("ended_by", ["nobody", "the sweep", "a caller"])
async def test_a_state_expired_when_its_time_was_up_whoever_noticed_it_later(ask: Ask, ended_by: str) -> None:
    rig = await started()
    async with rig.service as service:
        flows = service.as_trusted()
        await flows.execute_transition("ada", "loop", "go")
        expires = rig.states.stored["loop:ada"].state.expires_at
        assert isinstance(expires, datetime)
        rig.clock.advance(hours=7)
        if ended_by == "the sweep":
            await service.purge_expired_flows()
        elif ended_by == "a caller":
            await refusal_of(rig, ASKS[0])
        assert (await refusal_of(rig, ask)).details == {"expiredAt": iso(expires)}
        await service.background.relay.drain(5)
        assert (await refusal_of(rig, ask)).details == {"expiredAt": iso(expires)}


async def test_without_the_record_before_the_end_it_is_reported_when_the_end_was_noticed() -> None:
    rig = await started()
    async with rig.service as service:
        rig.clock.advance(hours=7)
        await service.purge_expired_flows()
        await service.background.relay.drain(5)
        rig.history.records.clear()
        assert (await refusal_of(rig, ASKS[0])).details == {"expiredAt": iso(rig.clock.now())}


async def test_an_expected_position_of_a_state_that_ended_is_a_conflict_that_says_so() -> None:
    rig = await started()
    await rig.flows.clear_flow_state("ada", "loop")
    origin = Origin(trusted_caller("ada"), expected=ExpectedPosition(0))
    with pytest.raises(RevisionConflictError) as refusal:
        await rig.service.execute_transition("ada", "loop", "go", origin=origin)
    assert refusal.value.details == {"state": None, "clearedAt": iso(rig.clock.now())}


async def test_an_end_that_cannot_be_read_is_not_reported() -> None:
    rig = await started()
    await rig.flows.clear_flow_state("ada", "loop")
    found = rig.states.stored["loop:ada"]
    rig.states.damaged["loop:ada"] = DamagedState(found.state.position, "gone bad")
    with pytest.raises(FlowStateCorruptionError):
        await rig.flows.execute_transition("ada", "loop", "go")
    del rig.states.damaged["loop:ada"], rig.states.stored["loop:ada"]
    assert (await refusal_of(rig, ASKS[0])).details == {}, "its history was kept for its time alone"


@pytest.mark.expected_logs("delivery incomplete, records stay in outboxes")
@pytest.mark.parametrize("scope", [ADMIN, SERVICE, READ])
async def test_readers_of_others_get_a_tombstone_of_an_erased_user(
    scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal_data, "MAX_DRAIN_SECONDS", 0.0)
    rig = await started()
    reader = Caller("support", scopes=frozenset({scope}))
    await rig.flows.clear_flow_state("ada", "loop")
    assert await rig.service.get_flow_state("ada", "loop", caller=reader) is None, "cleared, not erased"
    await rig.service.personal_data.erase("ada", ROOT)
    erased = iso(rig.clock.now())
    with pytest.raises(UserErasedError) as refusal:
        await rig.service.get_flow_state("ada", "loop", caller=reader)
    assert refusal.value.details == {"flowId": "loop", "erasedAt": erased, "erasedBy": "root"}
    assert (refusal.value.status, refusal.value.retryable) == (410, False)
    assert await rig.service.get_flow_state("ada", "loop", caller=Caller("ada")) is None
    found = await rig.service.personal_data.export("ada")
    assert found.erased is not None
    assert (iso(found.erased.at), found.erased.by) == (erased, "root")
    await rig.flows.start_flow("ada", "loop")
    again = await rig.service.get_flow_state("ada", "loop", caller=reader)
    assert again is not None
