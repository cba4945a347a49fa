"""Machines in the real XState: what is exported does there what the rules do here, what is imported does here
what it does there."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from app.contracts.commands import StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import InvalidDefinitionError, InvalidTransitionError
from app.contracts.flow import Flow, FlowStep
from app.contracts.state import FlowState, StateId
from app.exchange.xstate_export import to_xstate
from app.exchange.xstate_import import from_xstate
from app.flow import rules
from app.flow.validation import parse_flow
from tests.support.javascript import modules, node, run
from tests.support.long_form import examples
from tests.support.machines import EVENTS, NAMES, flows, machines, plain_metas
from tests.support.samples import T0, expense_flow, flow_dict

pytestmark = pytest.mark.timeout(400)  # the packages may have to be installed first

Json = dict[str, Any]

MILLISECOND = timedelta(milliseconds=1)
LONGEST = 2**31 - 1
USABLE = tuple(name for name in NAMES if name != "__proto__")
"""The other one is listed when it is exported."""

few = settings(
    examples(20),
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # each example asks Node about many machines
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    modules()
    return tmp_path_factory.mktemp("xstate")


def in_xstate(folder: Path, *machines: Json) -> list[Json]:
    """Run machines in XState; those that never rest have a ``refusal``."""
    file = folder / "machines.json"
    file.write_text(json.dumps(machines))
    answers: list[Json] = json.loads(run(node("machines.mjs", str(file))))
    for machine, answer in zip(machines, answers, strict=True):
        assert "Infinite loop" in answer.get("refusal", "Infinite loop"), f"{answer}: {json.dumps(machine)}"
    return answers


def ways_of(flow: Flow, step: str, events: set[str]) -> Json:
    """Where the rules lead from a step, by the events that they know."""
    definition, state = _at(flow, step)
    found = {}
    for event in events:
        try:
            found[event] = rules.transition(definition, state, event, TransitionCommand(), T0).step
        except InvalidTransitionError:
            continue
    return found


def timeout_of(flow: Flow, step: str) -> Json | None:
    """When and where the rules lead by time alone."""
    definition, state = _at(flow, step)
    due = state.timeout_at
    if due is UNSET:
        return None
    done = rules.timeout(definition, state, due)
    assert done is not None
    assert rules.timeout(definition, state, due - MILLISECOND) is None
    return {"delay": (due - T0) // MILLISECOND, "to": done[1].step}


def _at(flow: Flow, step: str) -> tuple[FlowDefinition, FlowState]:
    definition = FlowDefinition(flow=flow, version=1, published_at=T0, published_by="tests", source="python")
    return definition, rules.start(
        definition, StateId(definition.flow.flow, "ada"), "e", StartCommand(step=step), T0
    )


def agree(flow: Flow, answer: Json) -> None:
    """The exported machine does what the flow does, at every state that it comes to."""
    assert answer["initial"] == flow.initial_step
    for name, state in answer["states"].items():
        step = flow.steps[name]
        timeout = timeout_of(flow, name)
        if timeout and timeout["delay"] > LONGEST:
            timeout = None
        assert state["timeout"] == timeout
        theirs = {of_the_timer(step)} if timeout else set()
        assert state["ways"] == ways_of(flow, name, set(step.transitions) - theirs)
        assert state["done"] == (not step.transitions)


def of_the_timer(step: FlowStep) -> str | None:
    """The transition that only the timeout runs."""
    named = step.timeout.transition if step.timeout else None
    return named if named is not None and step.transitions[named].roles == [] else None


def test_the_shipped_flows_do_the_same_in_xstate(shipped: Path, folder: Path) -> None:
    raws = [json.loads(file.read_text()) for file in sorted(shipped.glob("*.json"))]
    whole = [parse_flow(raw)[0] for raw in [*raws, flow_dict(), expense_flow()]]
    answers = in_xstate(folder, *(to_xstate(flow).machine for flow in whole))
    for flow, answer in zip(whole, answers, strict=True):
        agree(flow, answer)
        assert set(answer["states"]) == set(flow.steps)


@few
@given(st.lists(flows(names=USABLE, metas=plain_metas), min_size=1, max_size=10))
def test_any_flow_does_the_same_in_xstate_and_comes_back_from_what_it_writes(
    folder: Path, whole: list[Flow]
) -> None:
    answers = in_xstate(folder, *(to_xstate(flow).machine for flow in whole))
    for flow, answer in zip(whole, answers, strict=True):
        agree(flow, answer)
        if answer["written"] is None:
            continue
        back = from_xstate(answer["written"])
        assert back.not_carried == []
        comes, _ = parse_flow(back.flow)
        assert comes == flow
        assert list(comes.steps) == list(flow.steps)
        for name, step in flow.steps.items():
            assert list(comes.steps[name].transitions) == list(step.transitions)


@few
@given(st.lists(machines(wildcards=False), min_size=1, max_size=20))
def test_a_machine_with_states_in_states_does_the_same_as_a_flow(folder: Path, whole: list[Json]) -> None:
    for machine, answer in zip(whole, in_xstate(folder, *whole), strict=True):
        flow = imported(machine)
        if flow is None:
            continue
        assert "refusal" not in answer
        check_beginning(flow, answer)
        for name, state in answer["states"].items():
            step = renamed(name)
            there = {renamed(event): renamed(to) for event, to in state["ways"].items()}
            assert ways_of(flow, step, {renamed(event) for event in EVENTS}) == there
            timeout = state["timeout"]
            assert timeout_of(flow, step) == (timeout and {**timeout, "to": renamed(timeout["to"])})


@few
@given(st.lists(machines(wildcards=True), min_size=1, max_size=20))
def test_no_transition_of_an_imported_machine_leads_elsewhere_than_in_xstate(
    folder: Path, whole: list[Json]
) -> None:
    for machine, answer in zip(whole, in_xstate(folder, *whole), strict=True):
        flow = imported(machine)
        if flow is None or "refusal" in answer:
            continue
        check_beginning(flow, answer)
        for name, state in answer["states"].items():
            there = {renamed(event): renamed(to) for event, to in state["ways"].items()}
            here = ways_of(flow, renamed(name), {renamed(event) for event in EVENTS})
            assert here.items() <= there.items()


def imported(machine: Json) -> Flow | None:
    """None: it does not come to rest somewhere."""
    try:
        return parse_flow(from_xstate(machine).flow)[0]
    except InvalidDefinitionError as refusal:
        if "without end" in str(refusal):
            return None
        raise


def check_beginning(flow: Flow, answer: Json) -> None:
    assert flow.initial_step == renamed(answer["initial"])
    assert {renamed(name) for name in answer["states"]} <= set(flow.steps)
    for name, state in answer["states"].items():
        if state["done"]:
            assert flow.steps[renamed(name)].transitions == {}


def renamed(name: str) -> str:
    return name.replace(".", "-")
