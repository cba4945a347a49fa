"""Transitions that XState takes by itself, and that a program must run here."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.contracts.errors import InvalidDefinitionError
from app.contracts.flow import Flow
from app.exchange.xstate_import import from_xstate
from app.flow.validation import parse_flow
from tests.support.long_form import examples
from tests.support.machines import machines
from tests.support.xstate_examples import EXAMPLES

Json = dict[str, Any]
CEL = {"type": "cel", "params": {"expression": "payload.n > 1"}}
END: Json = {"type": "final"}


def machine(**states: Json) -> Json:
    return {"id": "m", "initial": next(iter(states)), "states": states}


def imported(raw: Json) -> tuple[Flow, dict[str, str]]:
    """Return the flow, and the reasons reported at each pointer."""
    done = from_xstate(raw)
    reported: dict[str, str] = {}
    for each in done.not_carried:
        reported[each.pointer] = f"{reported.get(each.pointer, '')}{each.reason};"
    return parse_flow(done.flow)[0], reported


def ways(flow: Flow, step: str = "a") -> dict[str, str]:
    return {name: way.step for name, way in flow.steps[step].transitions.items()}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"invoke": {"src": "s", "onDone": "b"}}, {"done": "b"}),
        ({"invoke": {"src": "s", "onError": "c"}}, {"error": "c"}),
        ({"invoke": [{"src": "s", "onDone": {"target": "b"}, "onError": [{"target": "c"}]}]},
         {"done": "b", "error": "c"}),
        ({"invoke": {"src": {"type": "s"}, "onSnapshot": "b"}}, {"snapshot": "b"}),
        ({"invoke": "s", "on": {"xstate.done.actor.0.m.a": "b"}}, {"done": "b"}),
        ({"invoke": [{"src": "s", "onDone": "b"}, {"src": "t", "onDone": "c"}]},
         {"done": "b", "done-2": "c"}),
        ({"invoke": {"src": "s", "onDone": [{"guard": "g", "target": "b"}, "c"]}},
         {"done": "b", "done-2": "c"}),
        ({"invoke": {"src": "s", "onDone": {"actions": "keep"}}}, {"done": "a"}),
        ({"always": "b"}, {"always": "b"}),
        ({"always": {"guard": "g", "target": "b"}}, {"always": "b"}),
        ({"always": [{"guard": "g", "target": "b"}, {"target": "c"}, "b"]}, {"always": "b", "always-2": "c"}),
        ({"always": [{"guard": "g", "actions": "n"}, "b"]}, {"always": "b"}),
        ({"onDone": "b"}, {"done": "b"}),
        ({"after": {"WAIT": "b"}}, {"after-WAIT": "b"}),
        ({"after": {"10": "b"}}, {"after-10": "b"}),
        ({"after": {"2000": "b", "3000": "c"}}, {"after-3000": "c", "timeout": "b"}),
        ({"after": {"2000": [{"guard": "g", "target": "b"}, "c"]}}, {"after-2000": "b", "after-2000-2": "c"}),
        ({"on": {"*": "b"}}, {"any": "b"}),
        ({"on": {"mouse.*": "b"}}, {"any-mouse": "b"}),
        ({"on": {"GO": "c", "*": "b"}}, {"GO": "c"}),
        ({"initial": "x", "states": {"x": END}, "onDone": {"guard": "g", "target": "b"}}, {"done": "b"}),
        ({"initial": "x", "states": {"x": {}}, "invoke": {"src": "s", "onDone": "b"}}, {"done": "b"}),
        ({"initial": "x", "states": {"x": {}}, "always": {"guard": "g", "target": "b"}}, {"always": "b"}),
        ({"initial": "x", "states": {"x": {}}, "after": {"5000": "b"}}, {"after-5000": "b"}),
    ],
)  # fmt: skip
def test_what_a_state_is_left_by_is_a_transition(state: Json, expected: dict[str, str]) -> None:
    flow, _ = imported(machine(a=state, b=END, c=END))
    assert ways(flow, "a-x" if "states" in state else "a") == {
        name: "a-x" if "states" in state and to == "a" else to for name, to in expected.items()
    }


def test_names_that_an_event_has_already_are_left_to_it() -> None:
    state = {"on": {"done": "b", "always": "c"}, "always": "c", "invoke": {"src": "s", "onDone": "c"}}
    flow, _ = imported(machine(a=state, b={"invoke": {"src": "s", "onDone": "c"}}, c=END))
    assert ways(flow) == {"done": "b", "always": "c", "done-2": "c", "always-2": "c"}
    assert ways(flow, "b") == {"done-2": "c"}


def test_guards_that_a_flow_can_have_stay() -> None:
    state = {
        "always": {"guard": CEL, "target": "b"},
        "invoke": {"src": "s", "onDone": {"guard": CEL, "target": "b"}},
    }
    flow, _ = imported(machine(a=state, b=END))
    assert [way.guard for way in flow.steps["a"].transitions.values()] == ["payload.n > 1"] * 2


def test_the_notes_say_what_to_connect() -> None:
    state = {
        "entry": ["log", {"type": "track"}],
        "invoke": {"src": "fetchUser", "onDone": "b", "onError": {"target": "b", "guard": "isFatal"}},
        "always": {"guard": "isReady", "target": "b"},
        "after": {"WAIT": "b"},
    }
    _, reported = imported(machine(a=state, b=END))
    assert "a flow has none: log, track" in reported["/states/a/entry"]
    assert "the actor fetchUser is code of your program" in reported["/states/a/invoke"]
    assert reported["/states/a/invoke/onDone"] == (
        "your program runs the transition done when the actor fetchUser has ended;"
    )
    assert "the transition error when the actor fetchUser has failed" in reported["/states/a/invoke/onError"]
    assert "the guard isFatal is code" in reported["/states/a/invoke/onError/guard"]
    assert "the transition always as soon as its guard holds" in reported["/states/a/always"]
    assert "the transition after-WAIT when the delay WAIT ends" in reported["/states/a/after/WAIT"]


@pytest.mark.parametrize(
    ("state", "pointer"),
    [
        ({"invoke": 5}, "/states/a/invoke"),
        ({"invoke": [None]}, "/states/a/invoke/0"),
        ({"invoke": {"src": "s", "id": 5}}, "/states/a/invoke/id"),
        ({"invoke": {"src": "s", "onDone": "nowhere"}}, "/states/a/invoke/onDone"),
        ({"invoke": {"src": "s", "onError": {"target": "b", "cond": "c"}}}, "/states/a/invoke/onError/cond"),
        ({"always": "nowhere"}, "/states/a/always"),
        ({"always": [7]}, "/states/a/always/0"),
        ({"after": {"WAIT": "nowhere"}}, "/states/a/after/WAIT"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(state: Json, pointer: str) -> None:
    with pytest.raises(InvalidDefinitionError) as refusal:
        from_xstate(machine(a=state, b=END))
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]


def test_what_json_stringify_leaves_out_makes_no_end() -> None:
    """XState writes a machine without ``always``: a state with nothing else cannot be told from an end."""
    whole = machine(a={"type": "atomic", "on": {"GO": "b"}}, b={"type": "atomic", "on": {}}, c=END)
    assert ways(imported(whole)[0], "b") == {}
    whole["transitions"] = []
    with pytest.raises(InvalidDefinitionError) as refusal:
        from_xstate(whole)
    assert [fault.pointer for fault in refusal.value.faults] == ["/states/b"]
    assert "import machine.config" in refusal.value.faults[0].message
    whole["states"]["b"]["on"] = {"GO": "c"}
    assert "omits always" in imported(whole)[1][""]


# No false end


Lineage = tuple[Json, ...]


def leaves(node: Json, around: Lineage, path: tuple[str, ...]) -> Iterator[tuple[str, Lineage]]:
    """Each state without states, by its name, with itself and what it is in."""
    if not node.get("states"):
        yield ".".join(path), (node, *around)
    for key, child in node.get("states", {}).items():
        yield from leaves(child, (node, *around), (*path, key))


def has_a_target(way: Any) -> bool:
    if isinstance(way, list):
        return any(map(has_a_target, way))
    return isinstance(way, str) or bool(isinstance(way, dict) and way.get("target"))


def is_left(lineage: Lineage) -> bool:
    """Return whether anything leads out of a state as written, also if an inner state forbids it."""
    for node in lineage:
        invoked = node.get("invoke", [])
        found = [*node.get("on", {}).values(), *node.get("after", {}).values(), node.get("always")]
        for actor in invoked if isinstance(invoked, list) else [invoked]:
            found += [actor.get("onDone"), actor.get("onError"), actor.get("onSnapshot")]
        if any(map(has_a_target, found)):
            return True
    own, *around = lineage
    return own.get("type") == "final" and has_a_target(around[0].get("onDone"))


def false_ends(raw: Json) -> list[str]:
    flow = parse_flow(from_xstate(raw).flow)[0]
    found = []
    for name, lineage in leaves(raw, (), ()):
        is_end = len(lineage) == 2 and lineage[0].get("type") == "final"
        step = flow.steps.get(name.replace(".", "-"))
        if step is not None and not step.transitions and not is_end and is_left(lineage):
            found.append(name)
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_state_of_a_machine_as_people_write_them_becomes_an_end(name: str) -> None:
    assert false_ends(EXAMPLES[name]) == []


@st.composite
def unasked(draw: st.DrawFn) -> Json:
    """A machine with what XState does by itself at any of its states."""
    raw = draw(machines(wildcards=False))
    nodes = [node for _, lineage in leaves(raw, (), ()) for node in lineage]
    targets = [f"#m.{name}" for name, _ in leaves(raw, (), ())]
    way = st.sampled_from(targets).flatmap(
        lambda to: st.sampled_from([to, {"target": to, "guard": "g"}, [{"guard": "g", "target": to}, to], {}])
    )
    for node in draw(st.lists(st.sampled_from(nodes), max_size=5)):
        delay = draw(st.sampled_from(["1", "5000", "slow"]))
        found = [
            {"always": draw(way)},
            {"invoke": {"src": "s", "onDone": draw(way), "onError": draw(way)}},
            {"after": {delay: draw(way)}},
            {"onDone": draw(way)},
        ]
        node.update(draw(st.sampled_from(found)))
    for node in nodes:
        for event, value in node.get("on", {}).items():
            if value == {}:  # it would forbid what is around it
                node["on"][event] = draw(st.sampled_from(targets))
    return raw


@settings(examples(80), suppress_health_check=list(HealthCheck))
@given(unasked())
def test_no_state_that_xstate_leaves_becomes_an_end(raw: Json) -> None:
    try:
        found = false_ends(raw)
    except InvalidDefinitionError as refusal:
        found = [] if "without end" in str(refusal) else [str(refusal)]
    assert found == []
