"""Bounds of guards and schemas: what may take long with the actual payload is refused, not evaluated."""

import threading
from typing import Any

import pytest
from msgspec import convert, structs

from app.contracts.callers import Caller, trusted_caller
from app.contracts.commands import StartCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import GuardRefusedError
from app.contracts.flow import Flow
from app.contracts.state import StateId
from app.flow import rules
from app.flow.conditions import guards as guards_module
from app.flow.conditions.cel_environment import CelEnvironment
from app.flow.conditions.cel_tree import Tree
from app.flow.conditions.guard_inputs import MAX_GUARD_COST, GuardBudget, GuardInputs
from app.flow.conditions.guard_reads import reads_of
from app.flow.conditions.guards import FIELDS, check_guard, compiled, constant_value, fault_of_guard
from app.flow.conditions.pattern_cost import pattern_size
from app.flow.conditions.payload_schemas import faults_of_schema, payload_faults
from tests.support.processor_time import bounded
from tests.support.rig import rig
from tests.support.samples import T0, flow_dict, fresh

ADA = Caller("ada")

GROWING = "payload.l.all(a, size(payload.l" + " + payload.l" * 25 + ") != a)"
NUMBERS = list(range(490))
MANY = [0] * 29_000


def repeated(condition: str, times: int) -> str:
    return " || ".join([condition] * times)


@pytest.mark.parametrize(
    ("guard", "payload"),
    [
        (GROWING, {"l": NUMBERS}),
        ("size(payload.l" + " + payload.l" * 24 + ") < 0", {"l": MANY}),
        ("size(payload.s" + " + payload.s" * 24 + ") < 0", {"s": "a" * 60_000}),
        (repeated("payload.n in payload.l", 30), {"l": MANY, "n": 1}),
        (repeated("[1] in payload.l", 30), {"l": [[0]] * 12_000}),
        (repeated("payload.l != payload.m", 30), {"l": [{"a": {}}] * 3000, "m": [{"a": {}}] * 3000}),
        (repeated("payload.l == [payload.m]", 30), {"l": [MANY], "m": MANY}),
        (repeated("payload.s.contains(payload.t)", 30), {"s": "a" * 30_000, "t": "a" * 15_000 + "b"}),
        (repeated("duration(payload.s) == duration('1s')", 25), {"s": "1s" * 30_000}),
        (
            "payload.l.all(x, !payload.s.contains(payload.t))",
            {"l": [1] * 490, "s": "a" * 9_000, "t": "a" * 4_000 + "b"},
        ),
        ("payload.l.all(x, duration(payload.s) > duration('0s'))", {"l": [1] * 490, "s": "1s" * 7000}),
        (
            " == ".join(["payload.l.map(x, payload.l + payload.l + payload.l)"] * 2),
            {"l": NUMBERS},
        ),
        (
            "payload.l.map(x, payload.s + payload.s) == payload.l.map(x, payload.s)",
            {"l": NUMBERS, "s": "a" * 14_000},
        ),
        ("payload.s.matches('(.{1,50}){1,18}c')", {"s": "ab" * 7000}),
        ("payload.s.matches('([^x]{2,50}){2,18}c|(a|b){2,50}')", {"s": "ab" * 7000}),
        ("payload.s.matches(r'(\\pL{1,40})c')", {"s": ""}),
        ("now.getHours(payload.zone) >= 0", {"zone": "Zone/" + "x" * 50_000}),
        ("payload.l.all(x, now.getHours(x) >= 0)", {"l": [f"Etc/Zone{n}" for n in range(490)]}),
    ],
)
def test_a_guard_that_may_take_long_is_refused_before_it_is_evaluated(
    guard: str, payload: dict[str, Any]
) -> None:
    with bounded(2), pytest.raises(GuardRefusedError) as refused:
        check_guard(guard, "go", fresh(), payload, ADA, T0)
    assert "may take too long" in refused.value.details["reason"]


@pytest.mark.parametrize(
    ("guard", "payload"),
    [
        ("payload.l.all(i, i.quantity > 0 && i.price < 100.0)", {"l": [{"quantity": 1, "price": 2}] * 160}),
        ("payload.l.all(x, x > -1) && payload.l.exists(x, x == 489)", {"l": NUMBERS}),
        ("payload.l.map(i, i.quantity).exists(x, x > 0)", {"l": [{"quantity": 1}] * 240}),
        ("payload.l.filter(x, x in payload.m).size() == 0", {"l": [1] * 245, "m": [2] * 245}),
        ("now.getHours(payload.zone) >= 0", {"zone": "America/Argentina/ComodRivadavia"}),
        ("payload.l.filter(x, x > 3).size() > 100", {"l": NUMBERS}),
        ("payload.l.all(x, x != '')", {"l": ["a" * 20] * 400}),
        ("payload.s.matches('^[a-z]+$') && size(payload.s) > 3", {"s": "ab" * 7000}),
        ("payload.mail.matches(r'^[^@ ]+@[^@ ]+\\.[a-z]{2,10}$')", {"mail": "ada@example.org"}),
        ("size(payload.l) > 3 && 5 in payload.l && payload.l[0] == 0", {"l": list(range(10_000))}),
        ("payload.l + payload.l != payload.l", {"l": MANY[:10_000]}),
        (
            "payload.s.startsWith('a') && payload.s.contains('b') && payload.s + 'x' != ''",
            {"s": "ab" * 30_000},
        ),
        ("payload.o == {'a': 1} || has(payload.o.k7)", {"o": {f"k{n}": n for n in range(4000)}}),
    ],
)
def test_an_ordinary_guard_over_much_is_evaluated(guard: str, payload: dict[str, Any]) -> None:
    assert fault_of_guard(guard) is None
    check_guard(guard, "go", fresh(), payload, ADA, T0)


def test_a_guard_that_is_slow_whatever_it_reads_is_refused_when_it_is_published() -> None:
    for guard in ("payload.s.matches(r'\\pL{1,50}a')", "payload.s.matches(r'(\\pL\\pL){1,20}')"):
        assert "too expensive, whatever it reads" in (fault_of_guard(guard) or "")


def test_a_constant_is_evaluated_as_before() -> None:
    assert constant_value("[1, 2].all(x, x > 0)") is True
    assert constant_value("'a'.matches('b')") is False


def flow_with(guards: dict[str, str], **payload: Any) -> tuple[FlowDefinition, Any]:
    raw = flow_dict()
    for name, guard in guards.items():
        raw["steps"]["a"]["transitions"][name] = {"transition": name, "step": "b", "guard": guard}
    definition = FlowDefinition(convert(raw, Flow), 1, T0, "tests", "python")
    return definition, rules.start(
        definition, StateId(definition.flow.flow, "ada"), "e", StartCommand(payload=payload), T0
    )


@pytest.mark.parametrize(
    ("condition", "payload"),
    [
        ("size(state.payload.l + state.payload.l) == {n}", {"l": MANY}),
        ("{n} in state.payload.l && state.payload.l[{n}] < 0", {"l": MANY}),
        ("state.payload.l == state.payload.m && {n} == 0", {"l": MANY[:14_000], "m": MANY[:14_000]}),
        ("state.payload.s.contains(state.payload.t + '{n}')", {"s": "a" * 40_000, "t": "a" * 20_000}),
        ("state.payload.m == {n}", {"l": 1, "m": [[]] * 15_000}),
    ],
)
def test_all_guards_of_a_read_have_a_bound_together(condition: str, payload: dict[str, Any]) -> None:
    guards = {f"t{n}": condition.replace("{n}", str(n)) for n in range(90)}
    for guard in guards.values():
        compiled(guard)
    definition, state = flow_with({**guards, "last": "state.flow == 'loop'"}, **payload)
    budget = GuardBudget()
    with bounded(2):
        shown = rules.with_transitions(definition, state, trusted_caller("ada"), T0, budget)
    assert {"again", "go"} <= {each.transition for each in shown.transitions}, "those without a guard"


def test_a_cheap_guard_is_evaluated_behind_one_that_costs_too_much() -> None:
    definition, state = flow_with(
        {"long": GROWING.replace("payload.l", "state.payload.l"), "cheap": "state.flow == 'loop'"}, l=NUMBERS
    )
    budget = GuardBudget()
    shown = rules.with_transitions(definition, state, ADA, T0, budget)
    assert "cheap" in {each.transition for each in shown.transitions}
    assert "long" not in {each.transition for each in shown.transitions}
    assert budget.skipped == 1


def test_the_clock_ends_a_read_whose_guards_take_longer_than_they_should() -> None:
    budget = GuardBudget(max_seconds=0.0)
    assert compiled("state.flow == 'loop'").refusal(GuardInputs(fresh(), {}, ADA, T0), budget)
    assert budget.skipped == 1


def test_what_is_read_is_found_in_the_syntax_tree() -> None:
    def reads(guard: str) -> dict[str, Any]:
        environment = CelEnvironment({})
        return reads_of(Tree(guard, environment).root, FIELDS)

    assert reads("state.payload.a.b == payload['c'] && has(payload.d)") == {
        "state.payload": {"a"},
        "payload": {"c", "d"},
    }
    assert reads("size(payload) > 0 && payload.a == 1") == {"payload": None}
    assert reads("payload[user.id] == 1") == {"payload": None, "user.id": None}
    assert reads("payload.all(k, payload[k] == state.step)") == {"payload": None, "state.step": None}


@pytest.mark.expected_logs("guards skipped, evaluation budget exceeded")
async def test_an_event_is_published_without_guards_that_may_take_long() -> None:
    raw = flow_dict()
    raw["steps"]["a"]["transitions"]["long"] = {
        "transition": "long",
        "step": "b",
        "guard": GROWING.replace("payload.l", "state.payload.l"),
    }
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await service.update_flow("loop", {"steps": raw["steps"]})
        with bounded(2):
            await flows.start_flow("ada", "loop", StartCommand(payload={"l": NUMBERS}))
            state = await flows.get_flow_state("ada", "loop")
            assert state is not None
            assert "long" not in {each.transition for each in state.transitions}
            await r.kinds()


async def test_many_guards_are_compiled_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = flow_dict()
    for n in range(20):
        guard = f"state.payload.n == {n} && state.step != 'compiled in a thread'"
        raw["steps"]["a"]["transitions"][f"t{n}"] = {"transition": f"t{n}", "step": "b", "guard": guard}
    compiling: set[str] = set()

    def compile_all(guards: set[str]) -> None:
        compiling.add(threading.current_thread().name)
        guards_module.compile_all(guards)

    monkeypatch.setattr("app.services.definitions.visibility.compile_all", compile_all)
    r = await rig()
    await r.service.update_flow("loop", {"steps": raw["steps"]})
    await r.flows.start_flow("ada", "loop", StartCommand(payload={"n": 7}))
    state = await r.flows.get_flow_state("ada", "loop")
    assert state is not None
    assert "t7" in {each.transition for each in state.transitions}
    assert compiling
    assert threading.current_thread().name not in compiling


BIG = {"l": [1.7e308] * 7000}


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"items": {"allOf": [{"multipleOf": 5e-324}] * 100}}, BIG),
        ({"items": {"multipleOf": 5e-324}}, {"l": [1] * 7000}),
        ({"items": {"multipleOf": 1e-9}}, {"l": [1e300] * 7000}),
        ({"items": {"allOf": [{"minimum": 5e-324}] * 100}}, BIG),
        ({"items": {"not": {"const": 5e-324}}}, BIG),
        ({"items": {"not": {"enum": [n + 0.5 for n in range(100)]}}}, {"l": [1.75] * 9000}),
        ({"items": {"not": {"const": [5e-324] * 50}}}, {"l": [[5e-324] * 49 + [1]] * 100}),
        ({"items": {"anyOf": [{"allOf": [{"if": True, "then": {"multipleOf": 1e-300}}]}]}}, BIG),
        ({"pattern": "^(.{1,50}){1,18}$"}, {"l": "ab" * 30_000}),
        ({"patternProperties": {"((a|b){1,50}){1,18}c": True}}, {"l": {"ab" * 30_000: 1}}),
    ],
)
def test_a_payload_with_too_many_steps_of_arithmetic_is_refused(schema: dict[str, Any], payload: Any) -> None:
    whole = {"properties": {"l": schema}}
    assert faults_of_schema(whole) == []
    with bounded(2):
        (fault,) = payload_faults(whole, payload)
    assert "too large to be validated" in fault.message


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"items": {"multipleOf": 0.01, "minimum": 0}}, {"l": [19.99] * 7000}),
        ({"items": {"multipleOf": 5, "maximum": 1_000_000}}, {"l": [15] * 15_000}),
        (
            {"items": {"properties": {f"p{n}": {"multipleOf": 0.01} for n in range(30)}}},
            {"l": [{f"p{n}": 0.25 for n in range(30)}] * 150},
        ),
        ({"items": {"enum": [0.5, 1.5, 2.5]}}, {"l": [2.5] * 4000}),
        ({"uniqueItems": True}, {"l": [n + 0.5 for n in range(8000)]}),
        ({"pattern": r"^[\w ,.]+$"}, {"l": "ab, " * 14_000}),
    ],
)
def test_an_ordinary_schema_over_much_is_compared(schema: dict[str, Any], payload: Any) -> None:
    whole = {"properties": {"l": schema}}
    assert faults_of_schema(whole) == []
    assert payload_faults(whole, payload) == []


def nested(keyword: str, levels: int) -> dict[str, Any]:
    if not levels:
        return {"properties": {f"a{n}": True for n in range(50)}}
    inner = nested(keyword, levels - 1)
    return {"unevaluatedProperties": False, keyword: [inner] if keyword.endswith("Of") else inner}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf", "if"])
def test_unevaluated_members_in_each_other_are_refused_or_counted(keyword: str) -> None:
    (fault,) = faults_of_schema(nested(keyword, 14))
    assert "unevaluatedProperties" in fault.message
    stored = nested(keyword, 14)  # by a version that took it
    (fault,) = payload_faults(stored, {f"a{n}": 1 for n in range(50)})
    assert "too large to be validated" in fault.message
    assert faults_of_schema(nested(keyword, 3)) == []
    assert payload_faults(nested(keyword, 3), {"a1": 1}) == []


def test_unevaluated_members_by_references_count() -> None:
    names: dict[str, Any] = {
        f"d{n}": {"unevaluatedProperties": False, "allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(14)
    }
    schema = {"$defs": {**names, "d14": {"properties": {"a": True}}}, "$ref": "#/$defs/d0"}
    (fault,) = faults_of_schema(schema)
    assert "unevaluatedProperties" in fault.message


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("abc", 3, 3),
        ("^a+b*c?$", 5, 10),
        ("a{50}", 50, 60),
        ("(a{1,50}){1,18}", 900, 1200),
        ("(.{1,50}){1,18}c", 3600, 4000),
        (r"\pL{40}", 20_000, 30_000),
        (r"[\pL]", 650, 700),
        (r"\Q{1,50}\E", 5, 20),
        (r"\{1,50\}", 5, 10),
        ("[a-z{50}]{2}", 4, 30),
        ("(a|b|(c{10}){10})", 100, 140),
        ("((((a{99}){99}){99}){99}){99}", 9_000_000, 10_000_000),
        (")))(", 1, 10),
        ("{5}", 1, 20),
    ],
)
def test_the_size_of_a_pattern(pattern: str, least: int, most: int) -> None:
    assert least <= pattern_size(pattern) <= most


def test_a_guard_may_cost_no_more_than_a_read() -> None:
    inputs = GuardInputs(structs.replace(fresh(), payload={"l": MANY}), {}, ADA, T0)
    assert compiled("size(state.payload.l) > 1").cost(inputs) < MAX_GUARD_COST
