"""Evaluations that took long in spite of their estimates: those that a search found, and random ones.

``python -m bench evaluations`` compares the estimates with the time that evaluations take.
"""

from typing import Any

import pytest
from msgspec import convert

from app.contracts.callers import Caller, trusted_caller
from app.contracts.commands import StartCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import GuardRefusedError
from app.contracts.flow import Flow
from app.contracts.state import StateId
from app.flow import rules
from app.flow.conditions.guard_inputs import GuardBudget, GuardInputs
from app.flow.conditions.guards import Guard, check_guard, compiled, fault_of_guard
from app.flow.conditions.payload_schemas import faults_of_schema, payload_faults
from tests.support.long_form import form
from tests.support.processor_time import bounded
from tests.support.random_evaluations import Expressions, Schemas
from tests.support.samples import T0, flow_dict, fresh

ADA = Caller("ada")
NUMBERS = {"l": [0] * 29_000}
OBJECTS: dict[str, Any] = {"l": [{}] * 20_000}
TEXT = {"l": "ü." * 20_000}
LARGE, ANY = "too large to be validated", "under any branch"

pytestmark = pytest.mark.expected_logs("evaluation took too long, refused for a while", optional=True)
"""On a slow machine, or where coverage is measured."""

GUARDS = form("random guards", short=100, long=5_000)
SCHEMAS = form("random schemas", short=8, long=400)


@pytest.mark.parametrize(
    ("schema", "payload", "outcome"),
    [
        ({"anyOf": [{"format": "idn-hostname"}] * 600}, TEXT, LARGE),
        ({"propertyNames": {"anyOf": [{"format": "idn-hostname"}] * 300}}, {"l": {"ü." * 20_000: 1}}, LARGE),
        ({"items": {"allOf": [True] * 3000}}, NUMBERS, LARGE),
        ({"items": {"anyOf": [*[False] * 2500, True]}}, NUMBERS, LARGE),
        ({"items": {"dependentRequired": {f"k{n}": ["a"] for n in range(900)}}}, OBJECTS, LARGE),
        ({"items": {"dependentSchemas": {f"k{n}": True for n in range(900)}}}, OBJECTS, LARGE),
        ({"anyOf": [{"type": "string"}] * 20}, NUMBERS, ANY),
        ({"anyOf": [{"items": {"type": "string"}}] * 3}, NUMBERS, ANY),
        ({"anyOf": [{"type": "object"}] * 700}, TEXT, ANY),
        ({"items": {"anyOf": [{"type": "object"}] * 20}}, {"l": ["ab"] * 12_000}, ANY),
        ({"propertyNames": {"maxLength": 1}}, {"l": {f"k{n}": n for n in range(5000)}}, "longer than 1"),
        ({"unevaluatedItems": False, "anyOf": [{"type": "string"}] * 20}, NUMBERS, "locate the fault"),
    ],
)
def test_a_comparison_is_bounded_whether_the_payload_fits_or_not(
    schema: Any, payload: Any, outcome: str
) -> None:
    whole = {"properties": {"l": schema}}
    assert faults_of_schema(whole) == []
    with bounded():
        (fault,) = payload_faults(whole, payload)
    assert outcome in fault.message


def test_many_required_members_that_are_missing_do_not_each_copy_the_payload() -> None:
    schema = {"required": [f"k{n}" for n in range(2000)]}
    with bounded():
        payload_faults(schema, NUMBERS)
    assert [fault.message for fault in payload_faults(schema, NUMBERS)] == ['"k0" is a required property']
    assert len(payload_faults(schema, {})) == 100


@pytest.mark.parametrize(
    "leaf", [{"minimum": 0, "maximum": 9, "type": "integer"}, {"pattern": "^(a[a-z]{2,10}.*z|.*)$"}]
)
def test_a_schema_counts_as_often_as_references_name_it(leaf: dict[str, Any]) -> None:
    schema = {
        "$defs": {
            "a": {"allOf": [{"$ref": "#/$defs/b"}] * 9},
            "b": {"allOf": [{"$ref": "#/$defs/c"}] * 9},
            "c": leaf,
        },
        "properties": {"l": {"items": {"$ref": "#/$defs/a"}}},
    }
    assert faults_of_schema(schema) == []
    payload = NUMBERS if "type" in leaf else {"l": ["a" * 500] * 120}
    (fault,) = payload_faults(schema, payload)
    assert "too large to be validated" in fault.message


def test_the_first_fault_is_found_without_errors_of_each_way() -> None:
    inner = {
        "type": "object",
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "allOf": [{"not": {"const": {}}}],
    }
    schema = {"properties": {"l": {"items": {"oneOf": [{"type": "null"}, {"type": "integer"}]}}, "o": inner}}
    assert faults_of_schema(schema) == []
    (fault,) = payload_faults(schema, {"l": [*[1] * 9000, "x"]})
    assert fault.pointer == "/l/9000"
    assert fault.message.startswith('"x" is not valid under any branch')
    (fault,) = payload_faults(schema, {"o": {"c": [0] * 9000}})
    assert fault.pointer == "/o"
    (fault,) = payload_faults(schema, {"l": [1] * 9000, "o": 1})
    assert (fault.pointer, fault.message) == ("/o", '1 is not of type "object"')
    referring = {
        "properties": {
            "l": {"anyOf": [{"type": "string"}, {"$ref": "#/properties/m/anyOf/0"}]},
            "m": {"anyOf": [{"type": "object"}]},
        }
    }
    (fault,) = payload_faults(referring, NUMBERS)
    assert "too large to locate the fault" in fault.message


def test_a_broken_schema_with_thousands_of_faults_is_checked_in_time() -> None:
    schema = {"allOf": [1] * 8000}
    with bounded():
        faults_of_schema(schema)
    assert len(faults_of_schema(schema)) == 100
    assert faults_of_schema({"properties": {"a": {"anyOf": [1]}}})[0].pointer == "/properties/a/anyOf/0"


def test_the_members_of_thousands_of_objects_are_found_once() -> None:
    guard = "||".join(f"payload.l[0].a{n}==1" for n in range(30))
    inputs = GuardInputs(fresh(), OBJECTS, ADA, T0)
    with bounded():
        compiled(guard).cost(inputs)


def test_counting_the_cost_of_the_guards_of_a_read_is_bounded_by_the_clock() -> None:
    raw = flow_dict()
    for n in range(30):
        guard = "||".join(f"state.payload.l[0].a{n}x{k}==1" for k in range(25))
        raw["steps"]["a"]["transitions"][f"t{n}"] = {"transition": f"t{n}", "step": "b", "guard": guard}
        compiled(guard)
    definition = FlowDefinition(convert(raw, Flow), 1, T0, "tests", "python")
    state = rules.start(
        definition, StateId(definition.flow.flow, "ada"), "e", StartCommand(payload=OBJECTS), T0
    )
    budget = GuardBudget(max_seconds=0.0)
    rules.with_transitions(definition, state, trusted_caller("ada"), T0, budget)
    assert budget.skipped == 30
    assert budget.seconds == 0.0, "nothing is counted after the time"
    with bounded():
        rules.with_transitions(definition, state, trusted_caller("ada"), T0)


def test_a_name_that_is_not_found_costs_the_error_that_quotes_it() -> None:
    payload = {"l": [1] * 480, "m": {}, "k": "a" * 12_000}
    with pytest.raises(GuardRefusedError) as refused:
        check_guard("payload.l.exists(x, payload.m[payload.k])", "go", fresh(), payload, ADA, T0)
    assert "may take too long" in refused.value.details["reason"]


@pytest.mark.timeout(600)
def test_random_guards_are_evaluated_within_a_bound() -> None:
    evaluated = 0
    for seed in range(GUARDS):
        expressions = Expressions(seed)
        guard, payload = expressions.guard(), expressions.payload()
        if fault_of_guard(guard) is not None:
            continue
        with bounded():
            Guard(guard).refusal(GuardInputs(fresh(), payload, ADA, T0))
        evaluated += 1
    assert evaluated > GUARDS // 20


@pytest.mark.timeout(600)
def test_random_schemas_are_compared_within_a_bound() -> None:
    compared = 0
    for seed in range(SCHEMAS):
        schemas = Schemas(seed)
        schema, payload = {"properties": {"l": schemas.schema()}}, schemas.payload()
        if faults_of_schema(schema):
            continue
        with bounded():
            payload_faults(schema, payload)
        compared += 1
    assert compared > SCHEMAS // 4
