"""Guards: their inputs, results and costs, and the report about a refused one."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from app.contracts.callers import Caller
from app.contracts.errors import GuardRefusedError
from app.flow.conditions import guard_inputs, guard_report, guards
from app.flow.conditions.guards import FIELDS, check_guard, constant_value, fault_of_guard, may_hold
from app.kit.numbers import with_doubles
from tests.support.samples import T0, fresh

BOB = Caller("bob", frozenset({"approver", "clerk"}))
STATE = structs.replace(
    fresh(payload={"total": 120, "a b": {"c": [1]}}, service="web"), message="hello", previous="b"
)


def holds(guard: str, payload: dict[str, Any] | None = None) -> bool:
    try:
        check_guard(guard, "go", STATE, payload or {}, BOB, T0)
    except GuardRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    "guard",
    [
        "payload.age >= 18",
        "payload.age >= 18.0 && payload.name.startsWith('A')",
        "state.payload.total > 100 && payload.age < 100",
        "state.payload['a b'].c[0] == 1",
        "'approver' in user.roles && user.id != state.userId",
        "now == timestamp('2126-01-02T03:04:05.678Z')",
        "now - state.createdAt < duration('1h')",
        "state.step == 'a' && state.status == 'active' && state.revision == 0 && state.version == 1",
        "state.flow == 'loop' && state.service == 'web' && state.ok && state.message == 'hello'",
        "state.previous == 'b' && state.entityId == '' && state.updatedAt == state.createdAt",
        "payload.items.all(i, i.quantity > 0) && payload.items.exists(i, i.quantity == 2)",
        "has(payload.age) && !has(payload.missing)",
        "payload.name.matches('^A[a-z]+$')",
        "payload.nothing == null",
        "payload.missing == 1 || true",
        "size(payload.items) == 2 ? payload.flag : false",
    ],
)
def test_what_holds(guard: str) -> None:
    payload = {
        "age": 20,
        "name": "Ada",
        "items": [{"quantity": 1}, {"quantity": 2}],
        "nothing": None,
        "flag": True,
    }
    assert fault_of_guard(guard) is None
    assert holds(guard, payload)
    assert not holds(f"!({guard})", payload)


@pytest.mark.parametrize(
    ("guard", "payload", "reason"),
    [
        ("payload.age >= 18", {}, "age"),
        ("payload.age >= 18", {"age": "old"}, "No matching overloads"),
        ("payload.flag", {"flag": 1}, "of type int, not true or false"),
        ("payload.flag", {"flag": "true"}, "of type string, not true or false"),
        ("payload.n / 0 == 1", {"n": 1}, "divi"),
        ("payload.s.matches('(')", {"s": "a"}, "regular expression"),
    ],
)
def test_a_guard_without_a_result_is_refused_with_the_reason(
    guard: str, payload: dict[str, Any], reason: str
) -> None:
    with pytest.raises(GuardRefusedError) as refused:
        check_guard(guard, "go", STATE, payload, BOB, T0)
    assert reason in refused.value.details["reason"]
    assert reason in refused.value.message


@pytest.mark.parametrize(
    ("guard", "seen"),
    [
        ("payload.age >= 18", {"payload.age": 3}),
        ("payload.age >= 18 && state.payload.total < 1", {"payload.age": 3, "state.payload.total": 120}),
        ("state.payload['a b'].c == payload['age']", {"state.payload.a b.c": [1], "payload.age": 3}),
        ("payload.missing.deeper == 1", {"payload.missing": None}),
        ("'payload.age' == state.step // state.service", {"state.step": "a"}),
        ('user.roles == [] || "x" == user.id', {"user.roles": ["approver", "clerk"], "user.id": "bob"}),
        ("payload.items.all(i, i.payload.x == 1)", {"payload.items": [{"payload": {"x": 2}}]}),
        ("size(payload) == 0", {"payload": {"age": 3, "items": [{"payload": {"x": 2}}]}}),
        ("payload.exists(key, key == 'z')", {"payload": {"age": 3, "items": [{"payload": {"x": 2}}]}}),
        ("false", {}),
    ],
)
def test_a_refusal_reports_the_expression_and_the_values_that_it_read(
    guard: str, seen: dict[str, Any]
) -> None:
    payload = {"age": 3, "items": [{"payload": {"x": 2}}]}
    with pytest.raises(GuardRefusedError) as refused:
        check_guard(guard, "go", STATE, payload, BOB, T0)
    assert refused.value.details["values"] == seen
    assert (refused.value.details["guard"], refused.value.details["transition"]) == (guard, "go")
    assert guard in refused.value.message


def test_long_values_are_cut_in_what_is_reported() -> None:
    with pytest.raises(GuardRefusedError) as refused:
        check_guard("payload.note == ''", "go", STATE, {"note": "ż" * 10_000}, BOB, T0)
    assert len(refused.value.details["values"]["payload.note"].encode()) <= guard_report.MAX_SHOWN_BYTES + 3


@pytest.mark.parametrize(
    ("guard", "fault"),
    [
        ("", "does not compile: Syntax error"),
        ("payload.age >=", "(column 15)"),
        ("state.foo == 1", "undeclared reference to 'state.foo' (column 6)"),
        ("true &&\n  state.foo == 1", "(line 2, column 8)"),
        ("state == 1", "undeclared reference to 'state'"),
        ("user.name == 'x'", "undeclared reference to 'user.name'"),
        ("age > 1", "undeclared reference to 'age'"),
        ("state.step > 1", "no matching overload"),
        ("launch(payload)", "undeclared reference to 'launch'"),
        ("state.step", "is of type string, not true or false"),
        ("1 + 1", "is of type int, not true or false"),
        ("payload", "not true or false"),
        ("__import__('os').system('id') == 0", "undeclared reference"),
        ("true" + " " * guards.MAX_LENGTH, "longer than"),
        ("(" * 200 + "true" + ")" * 200, "recursion"),
        ("payload.a.all(x, payload.b.exists(y, x == y))", "has a loop inside a loop"),
        ("payload.a.all(x, x) || payload.b.all(x, x) || payload.c.all(x, x)", "more than 2 loops"),
        ("\x00", "does not compile"),
        (
            "payload.a.// every one\nall(x, payload.b.exists // of them\n (y, x == y))",
            "has a loop inside a loop",
        ),
        ("payload.t.matches(payload.p)", "write the pattern into the guard"),
        ("matches(payload.t, payload.p)", "write the pattern into the guard"),
        ("matches (payload.t, '(')", "write the pattern into the guard"),
        ("payload.l.exists(x, matches(payload.t, x))", "calls matches in a loop"),
        ("payload.t.matches('a' + payload.p)", "write the pattern into the guard"),
        ("payload.t.matches('a{51}')", "more than 50 repetitions"),
        ("payload.t.matches('a{2,1000}')", "more than 50 repetitions"),
        ("payload.t.matches('" + "a" * 250 + "')", "more than 200 characters"),
        ("payload.l.all(x, x.matches('a'))", "calls matches in a loop"),
        (" || ".join(["payload.t.matches('a')"] * 4), "calls matches more than 3 times"),
        ("payload.t. matches /* no comment of CEL */ ('a')", "does not compile"),
        (r"payload.t.matches('a\x7b51}')", "more than 50 repetitions"),
        ("payload.t.matches('" + r"\\d" * 66 + "')", "more than 200 characters"),
        ("payload.t.matches('''a''')", "write the pattern into the guard"),
        ("payload.t.matches(('a'))", "write the pattern into the guard"),
        ("matches(payload.t, 'a')", "write the pattern into the guard"),
        ("payload.t == '''it's''' || payload.a.all(x, payload.b.all(y, x == y))", "has a loop inside a loop"),
    ],
)
def test_what_is_wrong_with_a_guard(guard: str, fault: str) -> None:
    found = fault_of_guard(guard)
    assert found is not None
    assert fault in found
    assert "INVALID_ARGUMENT" not in found


@pytest.mark.parametrize(
    "guard",
    [
        "payload.t.matches( // the pattern: ('b'\n 'a' )",
        "payload.t.matches('a{50}') && payload.u.matches(r'^\\d{2,50}$')",
        "payload.a.filter(x, x > 1).all(y, y < 3)",
        "[payload.t.matches('a')].all(x, x)",
        "payload.t == '.all( .all( .all( matches(' // .all( .all( .all(",
        "'ü' == payload.t || payload.t.matches('ü')",
    ],
)
def test_what_only_looks_like_a_loop_or_a_pattern_is_accepted(guard: str) -> None:
    assert fault_of_guard(guard) is None


def test_every_field_can_be_read() -> None:
    for field in FIELDS:
        assert fault_of_guard(f"{field} == {field}") is None


def test_constants() -> None:
    assert constant_value("1 == 1") is True
    assert constant_value("!true") is False
    assert constant_value("state.ok || true") is None
    assert constant_value("nonsense") is None


def test_a_transition_may_run_unless_its_guard_fails_whatever_comes_with_it() -> None:
    assert may_hold("payload.age > 18", STATE, BOB, T0), "it depends on what comes"
    assert may_hold("'approver' in user.roles", STATE, BOB, T0)
    assert not may_hold("'admin' in user.roles", STATE, BOB, T0)
    assert not may_hold("state.payload.total > 1000", STATE, BOB, T0)
    assert not may_hold("state.payload.missing == 1", STATE, BOB, T0)


@pytest.mark.parametrize(
    "payload",
    [{"list": [1] * (guard_inputs.MAX_LOOPED_MEMBERS + 1)}, {"list": ["x" * 100] * 200}],
    ids=["members", "bytes"],
)
def test_a_loop_over_much_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(GuardRefusedError) as refused:
        check_guard("payload.list.// each\nall(x, true)", "go", STATE, payload, BOB, T0)
    assert "it loops" in refused.value.details["reason"]
    with pytest.raises(GuardRefusedError, match="loops or matches"):
        check_guard("payload.text.matches('a') || true", "go", STATE, payload, BOB, T0)
    assert holds("size(payload.list) > 1", payload), "without a loop it is not"


@pytest.mark.parametrize(
    "guard",
    [
        "payload.l.map(x, payload.l).size() > 0",
        "payload.l.filter(x, x in payload.l).size() > 0",
        "payload.l.all(x, payload.l == payload.l && payload.l == payload.l)",
        "payload.l.map(x, payload.s + payload.s).size() > 0",
        "payload.s.matches('(a|b)*a(a|b){50}c') || payload.s.matches('(a|b){2,50}(a|b){2,50}c')",
    ],
)
def test_the_dearest_guards_come_to_an_end(guard: str) -> None:
    half = guard_inputs.MAX_LOOPED_BYTES // 2
    payload = {
        "l": [1] * (guard_inputs.MAX_LOOPED_MEMBERS - 5),
        "s": "ab" * (half // 2),
        "p": "(a|b)*" * 20 + "c",
    }
    assert fault_of_guard(guard) is None
    holds(guard, payload)


@given(st.text(max_size=60))
def test_any_text_is_a_guard_or_has_a_fault(text: str) -> None:
    if fault_of_guard(text) is None:
        holds(text, {})


TERMS = st.sampled_from(
    [*FIELDS, "payload.x", "payload['y'].z", "1", "'a'", "true", "null", "[1, 2]", "x", ".", "(", ")"]
)
OPERATORS = st.sampled_from(
    [" == ", " && ", " || ", " in ", " + ", " < ", ".all(x, ", ".size()", " ? ", " : "]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(TERMS, OPERATORS), min_size=1, max_size=5), TERMS, VALUES, VALUES)
def test_what_compiles_ends_in_true_or_in_a_refusal(
    parts: list[tuple[str, str]], last: str, x: object, y: object
) -> None:
    guard = "".join(term + operator for term, operator in parts) + last
    if fault_of_guard(guard) is None:
        holds(guard, {"x": x, "y": y})


NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.parametrize(
    ("guard", "passing", "refused"),
    [
        ("payload.n * 1.2 <= 100.0", [50, 50.0, 50.5, -3], [84, 83.5]),
        ("payload.n * 2 <= 100.0", [50, 50.0, 49.5], [51, 50.5]),
        ("payload.n * 1.2 <= 100", [50, 50.0, 83.25], [84, 84.0]),
        ("payload.n + 0.5 > 1", [1, 1.0, 0.75], [0, 0.5, 0.0]),
        ("payload.n - 0.5 == 1.5", [2, 2.0], [1.5, 1]),
        ("1.5 - payload.n >= 0", [1, 1.0, 1.5], [2, 1.75]),
        ("payload.n / 2.0 == 2.5", [5, 5.0], [4, 4.5]),
        ("10 / payload.n == 4.0", [2.5], [2, 2.0, 5]),
        ("payload.n % 2 == 0", [4, 4.0, -2.0, 0.0], [3, 3.0, 4.5]),
        ("payload.n % 1.5 == 1", [4, 4.0, 1], [2, 3.0]),
        ("-payload.n % 2.0 == -1", [3, 3.0], [2, -3]),
        ("size(payload.l) * payload.n == 3.0", [1, 1.0], [1.5]),
        ("size(payload.l) * 1.5 == payload.n", [4.5], [4, 5]),
        ("size(payload.l) == 3.0 && payload.n == 1", [1, 1.0], [2]),
        ("payload.l.all(x, x * payload.n < 10)", [1, 3.25, 3.0], [4, 3.5]),
        ("payload.l.map(x, x * 0.5).exists(half, half == payload.n)", [1, 1.0, 1.5], [2, 3.0]),
        ("payload.l[payload.n] == 2", [1, 1.0], [0, 0.0, 1.5, 7]),
        ("payload.n in [1, 2]", [1, 1.0, 2], [1.5, 3]),
        ("payload.n > 1 && payload.n < 2.5", [2, 2.0, 1.5], [1, 1.0, 3]),
        (
            "1 < 1.5 && 2 >= 1.5 && 1 != 1.5 && 2.0 == 2 && 1 + 0.5 == 1.5 && payload.n > 0",
            [1, 0.5],
            [0, 0.0],
        ),
        ("type(payload.n) == int", [1], [1.0]),
        ("(payload.n + 1) * (payload.n - 0.5) / 2 > 1", [2, 2.0], [1, 1.0]),
    ],
)
def test_an_integer_that_meets_a_double_counts_as_one(
    guard: str, passing: list[float], refused: list[float]
) -> None:
    assert fault_of_guard(guard) is None
    for number in passing:
        assert holds(guard, {"n": number, "l": [1, 2, 3]}), number
    for number in refused:
        assert not holds(guard, {"n": number, "l": [1, 2, 3]}), number


@given(NUMBERS, st.integers(-(2**31), 2**31) | st.floats(-1e9, 1e9))
@example(float(2**63), 0)
def test_a_number_passes_however_it_is_spelt(number: float, other: float) -> None:
    spellings = [number] if number != int(number) else [with_doubles(int(number)), float(number)]
    for operator in ("+", "-", "*", "/"):
        for comparison in ("<", ">=", "=="):
            guard = f"payload.n {operator} 1.5 {comparison} payload.m"
            assert len({holds(guard, {"n": spelling, "m": other}) for spelling in spellings}) == 1


def test_integers_among_themselves_stay_integers() -> None:
    assert holds("payload.a / payload.b == 3 && payload.a % payload.b == 1", {"a": 7, "b": 2})
    assert holds("payload.a + 1 == 9007199254740993", {"a": 2**53})
    with pytest.raises(GuardRefusedError, match="overflow"):
        check_guard("payload.a * 2 > 0", "go", STATE, {"a": 2**62}, BOB, T0)


@pytest.mark.parametrize(
    "guard",
    [
        "payload.n / payload.zero > 1.0",
        "-(payload.n / payload.zero) < -1.0",
        "payload.n % payload.zero != 0.0",
    ],
)
def test_a_double_divided_by_zero_is_what_it_is_in_javascript(guard: str) -> None:
    for zero in (0.0, 0):
        assert holds(guard, {"n": 1.5, "zero": zero})
    assert holds(guard, {"n": 1, "zero": 0.0})
    assert not holds("payload.n / payload.zero == payload.n", {"n": 0.0, "zero": 0})


@pytest.mark.parametrize(
    "guard",
    ["payload.n + true > 0", "payload.n < 'a'", "state.step * 2 == 1", "state.step == 1", "1.5 + 'a' == ''"],
)
def test_nothing_else_mixes(guard: str) -> None:
    if fault_of_guard(guard) is None:
        assert not holds(guard, {"n": 1.5})
    else:
        assert "no matching overload" in str(fault_of_guard(guard))


@pytest.mark.parametrize(
    ("guard", "fault"),
    [
        ("payload.x / 0 == 1", "divides by zero (column 11)"),
        ("payload.x % 0 == 1", "divides by zero (column 11)"),
        ("payload.x / 0u == 1u", "divides by zero"),
        ("payload.x / (2 - 2) == 1", "divides by zero"),
        ("true &&\n payload.x / 0 == 1", "divides by zero (line 2, column 12)"),
        ("payload.l.all(x, x / 0 == 1)", "divides by zero"),
        ("payload.ok || payload.x / 0 == 1", "divides by zero"),
        ("1 / 0 == payload.x", "can never be evaluated: divide by zero (column 3)"),
        ("payload.x > 1 ? 1 / 0 == 1 : true", "can never be evaluated: divide by zero"),
        ("9223372036854775807 + 1 > payload.x", "can never be evaluated: integer overflow"),
        ("int(1e30) > payload.x", "can never be evaluated: double out of int64 range"),
        ("uint(-1) == payload.x", "can never be evaluated"),
        ("[1, 2][5] == payload.x", "can never be evaluated: Index error"),
        ("{'a': 1}['b'] == payload.x", "can never be evaluated: Key not found"),
        ("{'a': 1}.b == payload.x", "can never be evaluated: Key not found"),
        ("payload.l[-1] == 1", "reads a member at -1"),
        ("payload.l[0.5] == 1", "reads a member at 0.5"),
        ("payload.l[0.0 / 0.0] == 1", "reads a member at nan"),
        ("int('abc') == payload.x", "'abc' is not a valid argument of int"),
        ("payload.x == double('1,5')", "'1,5' is not a valid argument of double"),
        ("payload.x == uint('-1')", "'-1' is not a valid argument of uint"),
        ("bool('maybe')", "'maybe' is not a valid argument of bool"),
        (
            "timestamp('2026-13-01T00:00:00Z') < now",
            "'2026-13-01T00:00:00Z' is not a valid argument of timestamp",
        ),
        ("now - state.createdAt < duration('P1D')", "'P1D' is not a valid argument of duration"),
        ("duration(payload.d + '') < duration('1 day')", "'1 day' is not a valid argument of duration"),
        ("now.getHours('Europe/Pariss') >= 9", "'Europe/Pariss' is not a valid argument of getHours"),
        (
            "timestamp(payload.t).getDayOfWeek('Berlin') == 1",
            "'Berlin' is not a valid argument of getDayOfWeek",
        ),
        ("now.getFullYear('GMT+27:00') == 2026", "'GMT+27:00' is not a valid argument of getFullYear"),
        ("payload.s.matches('(')", "'(' is not a valid argument of matches"),
        ("string(b'\\xff') == payload.s", "can never be evaluated"),
    ],
)
def test_what_can_never_be_evaluated_is_found_when_the_guard_is_checked(guard: str, fault: str) -> None:
    found = fault_of_guard(guard)
    assert found is not None
    assert fault in found
    assert "INVALID_ARGUMENT" not in found


@pytest.mark.parametrize(
    "guard",
    [
        "payload.x / 0.0 > 1.0",
        "payload.x / payload.y == 1",
        "payload.x != 0 && 10 / payload.x > 1",
        "0 / 5 == payload.x",
        "int('12') == payload.x",
        "now.getHours('Europe/Paris') >= 9 && now.getMinutes('+02:00') < 30 && now.getSeconds() < 60",
        "payload.l[1.0] == 1 && payload.l[0] == 1 && payload['a b'] == 1",
        "timestamp('2026-12-31T23:59:59Z') > now && duration('90m') > now - state.createdAt",
        "[1, 2][1] == payload.x && {'a': 1}.a == 1",
        "payload.s.matches('^[A-Z]+$')",
    ],
)
def test_what_may_be_evaluated_is_not_refused(guard: str) -> None:
    assert fault_of_guard(guard) is None
