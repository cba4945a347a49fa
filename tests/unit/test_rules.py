"""The semantics of the base system."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import PauseCommand, ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.errors import (
    FlowStateCorruptionError,
    InvalidRequestError,
    InvalidTransitionError,
    StatePausedError,
)
from app.contracts.flow import Flow
from app.contracts.state import FlowState
from app.flow import rules
from app.flow.values.references import resolve_references
from tests.support.samples import T0, definition, flow_dict, fresh

LATER = T0 + timedelta(minutes=1)
FLOW = definition()


def go(state: FlowState, name: str, **command: Any) -> FlowState:
    return rules.transition(FLOW, state, name, TransitionCommand(**command), LATER)


def test_a_fresh_state() -> None:
    state = fresh(service="web", entity_id="org", payload={"x": 1})
    assert (state.step, state.revision, state.status, state.ok) == ("a", 0, "active", True)
    assert (state.service, state.entity_id, state.payload) == ("web", "org", {"x": 1})
    assert state.previous is state.message is state.expires_at is UNSET
    assert fresh().service == ""


def test_a_state_may_start_at_any_step_that_exists() -> None:
    assert fresh(step="b").step == "b"
    assert fresh(step="c").status == "completed"
    with pytest.raises(InvalidRequestError) as refusal:
        fresh(step="nowhere")
    assert refusal.value.faults[0].pointer == "/step"


def test_payload_merges_and_is_never_replaced() -> None:
    state = go(fresh(payload={"x": 1, "y": {"z": 1}}), "go", payload={"y": 2, "w": None})
    assert state.payload == {"x": 1, "y": 2, "w": None}
    assert go(fresh(), "go").payload is UNSET
    assert go(fresh(), "go", payload={"a": 1}).payload == {"a": 1}
    assert go(fresh(payload={"a": 1}), "go").payload == {"a": 1}


def test_previous_only_after_a_reversible_transition() -> None:
    there = go(fresh(), "jump")
    assert (there.step, there.previous) == ("c", "a")
    again = go(structs.replace(fresh(), previous="b"), "again")
    assert again.previous is UNSET


def test_service_and_entity_are_the_targets_and_stay() -> None:
    state = go(fresh(service="web", entity_id=None), "go")
    assert (state.service, state.entity_id) == ("web", None)


def test_message_is_cleared_when_absent_and_ok_is_the_callers() -> None:
    after = go(fresh(), "again", message="no", ok=False)
    assert (after.message, after.ok) == ("no", False)
    assert go(after, "again").message is UNSET
    assert go(after, "again").ok is True


def test_explicit_transitions_run_like_others_but_next_skips_them() -> None:
    state = rules.with_transitions(FLOW, fresh(), trusted_caller("ada"), T0)
    assert [t.transition for t in state.transitions] == ["jump", "again", "go"]
    assert (state.next_transition or state.transitions[0]).transition == "again"
    assert state.transitions[0].explicit
    assert state.transitions[0].reversible
    ended = rules.with_transitions(FLOW, go(fresh(), "jump"), trusted_caller("ada"), T0)
    assert ended.next_transition is None


def test_a_flow_is_complete_at_a_step_without_transitions() -> None:
    assert go(fresh(), "go").status == "active"
    assert go(go(fresh(), "go"), "done").status == "completed"


def test_an_unknown_transition_names_those_allowed_and_changes_nothing() -> None:
    state = fresh()
    with pytest.raises(InvalidTransitionError) as refusal:
        go(state, "fly")
    assert refusal.value.details == {
        "fromStep": "a",
        "transition": "fly",
        "allowed": ["jump", "again", "go"],
    }
    assert str(refusal.value) == "Invalid transition fly from step a"
    assert state == fresh()


def test_every_change_counts_and_is_timed() -> None:
    state = go(fresh(), "again")
    assert (state.revision, state.updated_at, state.created_at) == (1, LATER, T0)


def test_reset_drops_progress_and_retains_service_and_entity() -> None:
    state = go(fresh(service="web", entity_id="org", payload={"x": 1}), "jump", message="m", ok=False)
    reset = rules.reset(definition(version=3), state, ResetCommand(), LATER)
    assert (reset.step, reset.status, reset.version) == ("a", "active", 3)
    assert reset.payload is reset.message is reset.previous is UNSET
    assert (reset.service, reset.entity_id, reset.ok) == ("web", "org", True)
    assert (reset.epoch, reset.revision, reset.created_at) == (state.epoch, 2, T0)
    assert rules.reset(FLOW, state, ResetCommand(step="b"), LATER).step == "b"
    with pytest.raises(InvalidRequestError):
        rules.reset(FLOW, state, ResetCommand(step="nowhere"), LATER)


def test_replace_accepts_the_minimum_of_the_reference_and_drops_the_rest() -> None:
    state = go(fresh(service="web", payload={"x": 1}), "jump", message="m")
    command = msgspec.convert({"flow": "loop", "step": "b", "service": "default", "ok": True}, SetCommand)
    replaced = rules.replace(FLOW, state, command, LATER)
    assert (replaced.step, replaced.service, replaced.status) == ("b", "default", "active")
    assert replaced.payload is replaced.message is replaced.previous is replaced.entity_id is UNSET
    assert replaced.revision == state.revision + 1
    with pytest.raises(InvalidRequestError) as refusal:
        rules.replace(FLOW, state, SetCommand(step="b", previous="nowhere"), LATER)
    assert refusal.value.faults[0].pointer == "/previous"


def test_a_state_at_a_step_that_does_not_exist_is_corrupt() -> None:
    lost = structs.replace(fresh(), step="lost")
    with pytest.raises(FlowStateCorruptionError):
        go(lost, "go")


def test_absent_when_ended_or_past_its_time() -> None:
    assert not fresh().is_gone_at(LATER)
    assert rules.end(fresh(), "cleared", LATER).is_gone_at(T0)
    expiring = structs.replace(fresh(), expires_at=LATER)
    assert not expiring.is_gone_at(T0)
    assert expiring.is_gone_at(LATER)


def test_references_are_looked_up_and_misses_stay() -> None:
    raw = flow_dict(config={"services": {"auth": "auth-service"}, "pathes": {"p": "/p"}})
    raw["steps"]["a"].update(service="$auth", module="$missing", path="$p")
    raw["steps"]["b"].update(service="-")
    steps = resolve_references(msgspec.convert(raw, Flow)).steps
    assert (steps["a"].service, steps["a"].module, steps["a"].path) == ("auth-service", "$missing", "/p")
    assert steps["b"].service == "-"
    assert steps["c"].service == "svc"


def test_start_command_defaults() -> None:
    assert msgspec.json.decode(b"{}", type=StartCommand) == StartCommand()


def test_back_goes_to_previous_and_retains_the_payload() -> None:
    there = go(fresh(payload={"x": 1}), "jump", payload={"y": 2}, message="m", ok=False)
    undone = rules.back(FLOW, there, LATER, trusted_caller("ada"))
    assert (undone.step, undone.status, undone.revision) == ("a", "active", 2)
    assert (undone.payload, undone.ok) == ({"x": 1, "y": 2}, True)
    assert undone.previous is undone.message is UNSET
    for state in (undone, fresh(), go(fresh(), "go")):
        with pytest.raises(InvalidTransitionError) as refusal:
            rules.back(FLOW, state, LATER, trusted_caller("ada"))
        assert refusal.value.details["transition"] == "back"


def test_a_paused_state_moves_only_when_it_is_resumed() -> None:
    reversible = go(fresh(step="b"), "back")
    paused = rules.pause(FLOW, reversible, PauseCommand(reason="audit"), LATER)
    assert (paused.status, paused.pause_reason, paused.revision) == ("paused", "audit", 2)
    assert rules.with_transitions(FLOW, paused, trusted_caller("ada"), T0).transitions == ()
    moves: list[Callable[[], object]] = [
        lambda: go(paused, "go"),
        lambda: rules.back(FLOW, paused, LATER, trusted_caller("ada")),
        lambda: rules.reset(FLOW, paused, ResetCommand(), LATER),
    ]
    for move in moves:
        with pytest.raises(StatePausedError) as refusal:
            move()
        assert refusal.value.details == {"flowId": "loop", "reason": "audit"}
    repaired = rules.replace(FLOW, paused, SetCommand(step="b"), LATER)
    assert (repaired.step, repaired.status, repaired.pause_reason) == ("b", "paused", "audit")
    resumed = rules.resume(FLOW, paused, LATER)
    assert (resumed.status, resumed.step, resumed.previous) == ("active", "a", "b")
    assert resumed.pause_reason is UNSET
    assert resumed.revision == 3
    with pytest.raises(InvalidTransitionError):
        rules.pause(FLOW, fresh(step="c"), PauseCommand(reason="late"), LATER)
