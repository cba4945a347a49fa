"""Evaluations stay below a multiple of their estimates: what was found by search, and random ones."""

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from msgspec import convert

from app.contracts.command import Caller, StartCommand, program
from app.contracts.definition import FlowDefinition
from app.contracts.errors import GuardRefusedError
from app.contracts.flow import Flow
from app.flow import rules
from app.flow.guard_inputs import MAX_GUARD_COST, GuardBudget, GuardInputs
from app.flow.guards import Guard, check_guard, compiled, fault_of_guard
from app.flow.payload_schemas import MAX_STEPS, STEP_SECONDS, faults_of_schema, payload_faults
from tests.support.long_form import form
from tests.support.samples import T0, flow_dict, fresh

ADA = Caller("ada")
FACTOR, GRACE_SECONDS = 10, 0.02
"""Of a much slower machine: an evaluation takes at most this many times its estimate, and this more."""
SECONDS = FACTOR * MAX_STEPS * STEP_SECONDS
"""Of processor time, for one comparison of a payload with its schema: it is a tenth of it or less."""
NUMBERS = {"l": [0] * 29_000}
OBJECTS: dict[str, Any] = {"l": [{}] * 20_000}
TEXT = {"l": "ü." * 20_000}

GUARDS = form("random guards against their estimates", short=200, long=5_000)
SCHEMAS = form("random schemas against their bound", short=15, long=400)


def thread_seconds(work: Callable[[], Any]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def fastest(work: Callable[[], Any], allowed: float) -> float:
    """The processor time of some work, which is repeated where it was more than ``allowed``: another program
    may have slowed it down."""
    took = thread_seconds(work)
    return took if took < allowed else min(thread_seconds(work), thread_seconds(work))


def refusal_of(guard: Guard, payload: dict[str, Any]) -> str | None:
    return guard.refusal(GuardInputs(fresh(), payload, ADA, T0))


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"anyOf": [{"format": "idn-hostname"}] * 600}, TEXT),
        ({"propertyNames": {"anyOf": [{"format": "idn-hostname"}] * 300}}, {"l": {"ü." * 20_000: 1}}),
        ({"items": {"allOf": [True] * 3000}}, NUMBERS),
        ({"items": {"anyOf": [*[False] * 2500, True]}}, NUMBERS),
        ({"items": {"dependentRequired": {f"k{n}": ["a"] for n in range(900)}}}, OBJECTS),
        ({"items": {"dependentSchemas": {f"k{n}": True for n in range(900)}}}, OBJECTS),
        ({"anyOf": [{"type": "string"}] * 20}, NUMBERS),
        ({"anyOf": [{"items": {"type": "string"}}] * 3}, NUMBERS),
        ({"anyOf": [{"type": "object"}] * 700}, TEXT),
        ({"items": {"anyOf": [{"type": "object"}] * 20}}, {"l": ["ab"] * 12_000}),
        ({"propertyNames": {"maxLength": 1}}, {"l": {f"k{n}": n for n in range(5000)}}),
        ({"unevaluatedItems": False, "anyOf": [{"type": "string"}] * 20}, NUMBERS),
    ],
)
def test_a_comparison_is_bounded_whether_the_payload_fits_or_not(schema: Any, payload: Any) -> None:
    whole = {"properties": {"l": schema}}
    assert faults_of_schema(whole) == []
    assert thread_seconds(lambda: payload_faults(whole, payload)) < SECONDS


def test_many_required_members_that_are_missing_do_not_each_copy_the_payload() -> None:
    schema = {"required": [f"k{n}" for n in range(2000)]}
    assert thread_seconds(lambda: payload_faults(schema, NUMBERS)) < SECONDS
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
    assert "larger than can be compared" in fault.message


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
    assert fault.message.startswith('"x" is not valid under any of the ways')
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
    assert "too large to find out where" in fault.message


def test_a_broken_schema_with_thousands_of_faults_is_checked_in_time() -> None:
    schema = {"allOf": [1] * 8000}
    assert thread_seconds(lambda: faults_of_schema(schema)) < SECONDS
    assert len(faults_of_schema(schema)) == 100
    assert faults_of_schema({"properties": {"a": {"anyOf": [1]}}})[0].pointer == "/properties/a/anyOf/0"


def test_the_members_of_thousands_of_objects_are_found_once() -> None:
    guard = "||".join(f"payload.l[0].a{n}==1" for n in range(30))
    inputs = GuardInputs(fresh(), OBJECTS, ADA, T0)
    assert thread_seconds(lambda: compiled(guard).cost(inputs)) < 0.2, "it was more"


def test_counting_the_cost_of_the_guards_of_a_read_is_bounded_by_the_clock() -> None:
    raw = flow_dict()
    for n in range(30):
        guard = "||".join(f"state.payload.l[0].a{n}x{k}==1" for k in range(25))
        raw["steps"]["a"]["transitions"][f"t{n}"] = {"transition": f"t{n}", "step": "b", "guard": guard}
        compiled(guard)
    definition = FlowDefinition(convert(raw, Flow), 1, T0, "tests", "python")
    state = rules.start(definition, "ada", "e", StartCommand(payload=OBJECTS), T0)
    budget = GuardBudget(max_seconds=0.0)
    rules.with_transitions(definition, state, program("ada"), T0, budget)
    assert budget.skipped == 30
    assert budget.seconds == 0.0, "nothing is counted after the time"
    seconds = thread_seconds(lambda: rules.with_transitions(definition, state, program("ada"), T0))
    assert seconds < 0.5, "counting alone took one"


def test_a_name_that_is_not_found_costs_the_error_that_quotes_it() -> None:
    payload = {"l": [1] * 480, "m": {}, "k": "a" * 12_000}
    with pytest.raises(GuardRefusedError) as refused:
        check_guard("payload.l.exists(x, payload.m[payload.k])", "go", fresh(), payload, ADA, T0)
    assert "may take too long" in refused.value.details["reason"]


class Expressions:
    """Makes guards of all functions and macros, and payloads for them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._loops = 0

    def guard(self) -> str:
        """A guard, which need not be accepted."""
        self._loops = 0
        return f" {self._pick('&&', '||')} ".join(
            self._condition(0) for _ in range(self._random.randint(1, 12))
        )

    def payload(self) -> dict[str, Any]:
        """Members for the guard, each of its own kind, of up to 64 kB together."""
        share = int(20_000 ** self._random.random())
        member = self._pick(0, 1.5, "ab", "ü", [0], {}, {"a": 1}, [[1]], "1s", None, "2026-01-01T00:00:00Z")
        return {
            "l": [member] * max(1, share // max(4, len(str(member)))),
            "m": list(range(share // 6)),
            "s": self._pick("a", "ü", "1", "1h", "a b ", "%") * (share // 3),
            "t": self._pick("a", "b", "") * (share // 7) + "b",
            "o": {f"k{n}": member for n in range(share // 12)},
            "n": self._pick(1, 1.5, -3),
        }

    def _pick(self, *options: Any) -> Any:
        return self._random.choice(options)

    def _value(self, depth: int, item: str = "") -> str:
        value = self._pick(
            "payload.l", "payload.m", "payload.s", "payload.t", "payload.o", "payload.n", item or "1"
        )
        if depth > 2:
            return str(value)
        inner = self._value(depth + 1, item)
        options = [
            value, value, f"({inner} + {value})", f"[{inner}, {value}]", f"{{'a': {inner}}}", f"{value}[0]",
            f"{value}.k1", f"string({inner})", f"bytes({inner})", f"dyn({inner})", f"int({inner})",
            f"double({inner})", f"(has(payload.s) ? {inner} : {value})", f"payload.o[{inner}]",
            f"google.protobuf.ListValue{{values: {inner}}}", f"size({inner})", f"({inner} * 1.5)",
            f"-{inner}",
        ]  # fmt: skip
        if not item and self._loops < 2:
            self._loops += 1
            body, name = self._condition(depth + 1, "x"), self._pick("l", "m", "o")
            mapped = self._value(depth + 1, "x")
            options += [f"payload.{name}.filter(x, {body})", f"payload.{name}.map(x, {mapped})"] * 3
        return str(self._pick(*options))

    def _condition(self, depth: int, item: str = "") -> str:
        left, right = self._value(depth + 1, item), self._value(depth + 1, item)
        options = [f"{left} {self._pick('==', '!=', '<', '>=', 'in')} {right}"] * 3
        options += [
            f"{left}.{self._pick('startsWith', 'endsWith', 'contains')}({right})", "has(payload.o.k1)",
            f"type({left}) == type({right})", f"timestamp({left}) < now",
            f"duration({left}) > duration('1s')",
            f"!({left} == {right})", f"now.getHours({self._pick(right, repr('Europe/Paris'))}) > 3",
        ]  # fmt: skip
        if not item:
            pattern = self._pick("^a+b$", "(a|b){1,20}c", "[^x]*y", "(?i)ab.*ba$")
            options.append(f"payload.s.matches('{pattern}')")
        if not item and self._loops < 2:
            self._loops += 1
            macro = self._pick("all", "exists", "exists_one")
            options += [
                f"payload.{self._pick('l', 'm', 'o')}.{macro}(x, {self._condition(depth + 1, 'x')})"
            ] * 4
        return str(self._pick(*options))


@pytest.mark.timeout(600)
def test_random_guards_take_no_more_than_a_multiple_of_their_estimate() -> None:
    evaluated = 0
    for seed in range(GUARDS):
        expressions = Expressions(seed)
        guard, payload = expressions.guard(), expressions.payload()
        if fault_of_guard(guard) is not None:
            continue
        made = Guard(guard)
        estimate = made.cost(GuardInputs(fresh(), payload, ADA, T0))
        allowed = FACTOR * min(estimate, MAX_GUARD_COST) / 1e9 + GRACE_SECONDS
        took = fastest(partial(refusal_of, made, payload), allowed)
        assert took < allowed, f"seed {seed}: {guard}"
        evaluated += 1
    assert evaluated > GUARDS // 20


class Schemas:
    """Makes schemas of all keywords, and payloads for them."""

    FORMATS = (
        "date-time",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "uri",
        "iri",
        "uri-template",
        "regex",
    )

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def schema(self, depth: int = 0) -> Any:
        """A schema, which need not be accepted."""
        pick, some = self._random.choice, self._random.randint
        if depth > 4:
            return pick([True, False, {"type": "string"}, {"minimum": 0.5}, {"format": pick(self.FORMATS)}])
        inner = self.schema(depth + 1)
        many = pick([1, 2, 5, 20, 100])
        options: list[dict[str, Any]] = [
            {pick(["allOf", "anyOf", "oneOf"]): [inner] * many},
            {pick(["items", "contains", "not", "additionalProperties", "propertyNames"]): inner},
            {pick(["unevaluatedItems", "unevaluatedProperties"]): inner},
            {"prefixItems": [inner] * some(1, 3), "items": self.schema(depth + 1)},
            {
                "properties": {"a": inner, "k1": self.schema(depth + 1)},
                "required": [f"k{n}" for n in range(many)],
            },
            {"patternProperties": {pick(["^k", "a|b", ".{1,9}z"]): inner}},
            {"dependentSchemas": {f"k{n}": inner for n in range(many)}},
            {"dependentRequired": {f"k{n}": ["a", "b"] for n in range(many)}},
            {"if": inner, "then": self.schema(depth + 1), "else": self.schema(depth + 1)},
            {"enum": [pick([1, 1.5, "ab", [1, 2], {"a": 1}]) for _ in range(many)]},
            {"format": pick(self.FORMATS), "minLength": some(0, 9), "pattern": pick(["^a", "(a|b){1,20}c"])},
            {"uniqueItems": True, "maxItems": some(0, 9)},
            {"multipleOf": pick([1, 0.01, 5e-324]), "maximum": pick([1, 1.5, 1e300])},
        ]
        return pick(options) | pick([{}, pick(options)])

    def payload(self) -> dict[str, Any]:
        """Many values of one kind, of up to 64 kB."""
        pick = self._random.choice
        text = pick(["a", "ü.", "a@b.", "{a}", "(", "a b "])
        value = pick(
            [0, 1.5, 1.7e308, "ab", {}, {"a": 1}, {"k1": 1}, [1, 2], [[]], text * 50, [{"k1": [text] * 9}]]
        )
        times = max(1, int(60_000 ** self._random.random()) // max(2, len(str(value))))
        found = pick([[value] * times, {f"k{n}": value for n in range(times // 4)}, text * (times // 2)])
        return {"l": found}


@pytest.mark.timeout(600)
def test_random_schemas_take_no_more_than_a_multiple_of_their_bound() -> None:
    compared = 0
    for seed in range(SCHEMAS):
        schemas = Schemas(seed)
        schema, payload = {"properties": {"l": schemas.schema()}}, schemas.payload()
        if faults_of_schema(schema):
            continue
        payload_faults(schema, {})  # compiles it
        took = fastest(partial(payload_faults, schema, payload), SECONDS)
        assert took < SECONDS, f"seed {seed}"
        compared += 1
    assert compared > SCHEMAS // 4
