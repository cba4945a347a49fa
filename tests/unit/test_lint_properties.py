"""Properties of the check of definitions, for any input."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.callers import Caller
from app.contracts.commands import StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowError, InvalidDefinitionError
from app.contracts.flow import Flow
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.flow.lint.findings import MAX_FINDINGS, MAX_POINTER
from app.flow.lint.graph import components, reached, reversed_edges
from app.flow.lint.pointers import path_to
from app.flow.position import definition_mismatch
from app.flow.validation import MAX_BYTES, MAX_GUARDS, check_flow, parse_flow
from tests.support.long_form import examples, form
from tests.support.processor_time import bounded
from tests.support.samples import T0
from tests.support.spoilt_definitions import DEFINITIONS, SOUND_ONES, json_values, spoilt


def assert_well_reported(raw: Any) -> None:
    """Check the guarantees of findings, and that publishing depends on them."""
    found = check_flow(raw)
    assert len(found) <= MAX_FINDINGS
    assert len({(finding.pointer, finding.message) for finding in found}) == len(found)
    for finding in found:
        assert finding.message
        assert finding.advice
        assert finding.pointer == "" or finding.pointer.startswith("/")
        assert len(finding.pointer) <= MAX_POINTER
        assert sum(1 for _ in path_to(raw, finding.pointer)) == finding.pointer.count("/")
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        with pytest.raises(InvalidDefinitionError):
            parse_flow(raw)
    else:
        assert parse_flow(raw)[0] == msgspec.convert(raw, Flow)


@given(json_values)
def test_any_json_can_be_checked(raw: Any) -> None:
    assert_well_reported(raw)


named_values = st.dictionaries(st.text(max_size=3), json_values)
optional = dict.fromkeys(
    ("config", "prefabs", "title", "meta", "ttl", "roles", "instances", "participants"), json_values
)


@given(
    st.fixed_dictionaries(
        {"flow": json_values, "initialStep": json_values, "steps": named_values}, optional=optional
    )
)
def test_what_has_the_members_of_a_flow_can_be_checked(raw: Any) -> None:
    assert_well_reported(raw)


@examples(400)
@given(spoilt(DEFINITIONS))
def test_a_spoilt_definition_can_be_checked(raw: Any) -> None:
    assert_well_reported(raw)


@examples(400)
@given(spoilt(SOUND_ONES, most=2), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)))
def test_what_has_no_errors_can_be_run(raw: Any, payload: dict[str, Any]) -> None:
    if any(finding.severity == "error" for finding in check_flow(raw)):
        return
    flow = msgspec.convert(raw, Flow)
    for step in flow.steps.values():
        for name in (*step.transitions, "none"):
            run(flow, step.step, name, payload)


CALLERS = [
    Caller("ada"),
    Caller("bob", frozenset({"clerk", "manager"})),
    Caller("root", scopes=frozenset({"flow:admin"})),
]
REFUSALS = {"INVALID_TRANSITION", "GUARD_REFUSED", "INVALID_PAYLOAD", "INSUFFICIENT_PERMISSIONS"}


def run(flow: Flow, step: str, name: str, payload: dict[str, Any]) -> None:
    """Run a transition by all kinds of callers, and by the timer: refusals are the interface's."""
    definition = FlowDefinition(flow, version=1, published_at=T0, published_by="tests", source="python")
    state = rules.start(
        definition, StateId(definition.flow.flow, "ada"), "e1", StartCommand(step=step, payload={"a": 1}), T0
    )
    command = TransitionCommand(payload=payload)
    for caller in CALLERS:
        offered = rules.with_transitions(definition, state, caller, T0)
        assert isinstance(offered.transitions, tuple)
        after = outcome(definition, state, name, command, caller)
        if isinstance(after, FlowState):
            chosen = flow.steps[step].transitions[name]
            needs_more = chosen.approvals is not None and chosen.approvals.count > 1
            assert after.step == (step if needs_more else chosen.step)
            assert definition_mismatch(definition, after) is None
        else:
            assert after in REFUSALS
    timeout = flow.steps[step].timeout
    if timeout is not None:
        due = rules.timeout(definition, state, T0 + timeout.after)
        assert due is not None
        assert due[0] == timeout.transition


def outcome(
    definition: FlowDefinition, state: FlowState, name: str, command: TransitionCommand, caller: Caller
) -> FlowState | str:
    """The state after a transition, or the code of its refusal."""
    try:
        return rules.transition(definition, state, name, command, T0, caller)
    except FlowError as refusal:
        return refusal.code


def test_sound_definitions_can_be_run() -> None:
    for raw in SOUND_ONES:
        flow = msgspec.convert(raw, Flow)
        for step in flow.steps.values():
            for name in step.transitions:
                run(flow, step.step, name, {"amount": 1})


def test_findings_come_in_the_order_of_the_document() -> None:
    raw: dict[str, Any] = {
        "ttl": "x",
        "steps": {
            "z": {
                "transitions": {"go": {"step": "nowhere", "transition": "come"}},
                "step": "y",
                "service": "s",
            },
            "a": {"step": "a", "service": "s", "transitions": {}, "index": -1},
        },
        "flow": "a:b",
    }
    assert [finding.pointer for finding in check_flow(raw)] == [
        "",
        "/ttl",
        "/steps/z",
        "/steps/z/transitions/go/step",
        "/steps/z/transitions/go/transition",
        "/steps/z/step",
        "/steps/a/index",
        "/flow",
    ]


STEPS = form("a large definition: steps", short=150, long=500)


def large(steps: int, ways: int, **members: Callable[[int, int], Any]) -> dict[str, Any]:
    """A flow of many steps, each with ways to others; ``members`` of its transitions by their numbers."""

    def way(number: int, at: int) -> dict[str, Any]:
        made = {name: make(number, at) for name, make in members.items()}
        return {"transition": f"t{at}", "step": f"s{(number * 7 + at * 13 + 1) % steps}"} | made

    def step(number: int) -> dict[str, Any]:
        last = number == steps - 1
        return {
            "index": number,
            "step": f"s{number}",
            "service": "svc",
            "transitions": {} if last else {f"t{at}": way(number, at) for at in range(ways)},
        }

    return {"flow": "large", "initialStep": "s0", "steps": {f"s{n}": step(n) for n in range(steps)}}


def test_more_findings_than_can_be_reported_are_counted_and_errors_come_first() -> None:
    raw = large(60, 4, roles=lambda number, at: [] if number < 50 else ["a", "a"])
    raw |= {"resettable": True, "clearable": True}
    assert {finding.severity for finding in check_flow(raw)} == {"warning"}
    raw["steps"]["s58"]["transitions"]["t3"]["step"] = "nowhere"
    found = check_flow(raw)
    assert len(found) == MAX_FINDINGS
    assert [finding.pointer for finding in found[:-1] if finding.severity == "error"] == [
        "/steps/s58/transitions/t3/step"
    ]
    assert found[-1].severity == "warning"
    assert found[-1].message == "There are 138 more findings"
    errors = check_flow(large(60, 4, step=lambda number, at: "nowhere"))
    assert errors[-1].severity == "error"
    assert errors[-1].message == "There are 137 more findings"


@pytest.mark.parametrize(
    "make",
    [
        lambda: large(STEPS, 10),
        lambda: large(STEPS, 10, roles=lambda number, at: ["a", "b"], title=lambda number, at: f"{number}"),
        lambda: large(STEPS, 10, guard=lambda number, at: f"payload.amount > {number}"),
        lambda: large(STEPS, 10, payloadSchema=lambda number, at: {"required": ["a"], "minProperties": at}),
        lambda: large(STEPS, 10, step=lambda number, at: f"nowhere-{number}-{at}"),
        lambda: large(
            STEPS, 10, transition=lambda number, at: f"other-{number}-{at}", roles=lambda number, at: []
        ),
        lambda: large(STEPS, 10, guard=lambda number, at: f"payload.amount > {number}-{at}"),
        lambda: large(STEPS, 10, notBy=lambda number, at: [f"t{n}" for n in range(10)]),
        lambda: large(STEPS, 10, notBy=lambda number, at: [f"nothing-{number}-{at}"]),
        lambda: large(STEPS, 10, roles=lambda *_: ["r"], notBy=lambda number, at: [f"t{at - 1}", "t0"])
        | {"participants": {"r": {}}},
        lambda: large(STEPS, 8, assign=lambda number, at: [{"role": f"r{at}", "from": f"payload.a{number}"}],
              approvals=lambda number, at: {"of": f"r{at}", "count": 2},
              roles=lambda number, at: [f"r{n}" for n in range(8)])
        | {"participants": {f"r{n}": {"claim": "PT1H"} for n in range(8)}},
        lambda: large(STEPS, 10, roles=lambda number, at: [f"rol{number}-{at}"])
        | {"participants": {f"role{n}": {"assignable": [f"role{n + 1}"]} for n in range(100)}},
        lambda: (
            large(10, 2) | {"participants": {f"role{n}": {"assignable": [f"rol{n}"]} for n in range(20_000)}}
        ),
        lambda: {"flow": "a", "initialStep": "a", "steps": {"x" * 400_000: {"a": 1, "b": 2}}},
        lambda: {f"{'x' * 40}{n}": n for n in range(10_000)},
    ],
    ids=range(15),
)  # fmt: skip
def test_a_large_definition_is_checked_in_a_moment(make: Callable[[], Any]) -> None:
    """In the long form, each runs for 0.04 to 0.4 seconds on a machine with nothing else to do."""
    raw = make()
    with bounded(8):  # the measurement of coverage takes five times as long
        found = check_flow(raw)
    assert (
        sum(len(finding.pointer) + len(finding.message) + len(finding.advice) for finding in found) < 100_000
    )


def test_what_is_too_large_is_not_looked_at() -> None:
    (finding,) = check_flow(large(10, 2) | {"description": "x" * MAX_BYTES})
    assert (finding.pointer, finding.severity) == ("", "error")
    assert "larger than" in finding.message
    many = large(200, 6, guard=lambda number, at: f"payload.a == {number * 6 + at}")
    (finding,) = check_flow(many)
    assert f"more than {MAX_GUARDS} different guards" in finding.message
    assert check_flow(large(501, 1))[0].message == "A flow can have at most 500 steps"


def test_a_pointer_is_cut_to_what_is_around() -> None:
    long = "x" * (MAX_POINTER + 1)
    raw = large(2, 1)
    raw["steps"][long] = {"index": 9, "step": long, "service": "s", "transitions": {}}
    assert [(f.pointer, f.severity) for f in check_flow(raw)] == [("/steps", "error"), ("/steps", "warning")]


def test_what_two_cut_pointers_have_in_common_is_reported_once() -> None:
    raw = large(2, 1)
    for name in ("x" * (MAX_POINTER + 1), "y" * (MAX_POINTER + 1)):
        raw["steps"][name] = {"index": 0.5, "step": name, "service": "s", "transitions": {}}
    assert [finding.message for finding in check_flow(raw) if "integer" in finding.message] == [
        '0.5 is not of type "integer"'
    ]


def test_a_pointer_leads_somewhere_though_a_name_is_empty() -> None:
    raw = large(2, 1)
    raw["steps"][""] = {"index": "9", "step": "", "service": "s", "transitions": {}}
    for finding in check_flow(raw):
        assert sum(1 for _ in path_to(raw, finding.pointer)) == finding.pointer.count("/")


edges = st.integers(1, 12).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([str(n) for n in range(size)]), max_size=4), min_size=size, max_size=size
    ).map(lambda targets: {str(n): each for n, each in enumerate(targets)})
)


@given(edges)
def test_components_are_what_can_be_reached_from_each_other(graph: dict[str, list[str]]) -> None:
    found = components(graph)
    assert sorted(step for component in found for step in component) == sorted(graph)
    of = {step: number for number, component in enumerate(found) for step in component}
    for one in graph:
        for other in graph:
            mutual = other in reached(graph, [one]) and one in reached(graph, [other])
            assert mutual == (of[one] == of[other])
            assert (other in reached(graph, [one])) == (one in reached(reversed_edges(graph), [other]))
