"""Guards: what they see, when they hold, what they cost, and what is told of one that is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from app.contracts.command import Caller
from app.contracts.errors import GuardRefusedError
from app.flow import guards
from app.flow.guards import FIELDS, check_guard, fault_of_guard, is_constant, may_hold
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
        ("payload.flag", {"flag": 1}, "it gives int, not true or false"),
        ("payload.flag", {"flag": "true"}, "it gives string, not true or false"),
        ("payload.n / 0 == 1", {"n": 1}, "divi"),
        ("payload.s.matches('(')", {"s": "a"}, "regular expression"),
    ],
)
def test_what_cannot_be_told_is_refused_and_says_why(
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
def test_a_refusal_tells_the_expression_and_what_it_saw(guard: str, seen: dict[str, Any]) -> None:
    payload = {"age": 3, "items": [{"payload": {"x": 2}}]}
    with pytest.raises(GuardRefusedError) as refused:
        check_guard(guard, "go", STATE, payload, BOB, T0)
    assert refused.value.details["values"] == seen
    assert (refused.value.details["guard"], refused.value.details["transition"]) == (guard, "go")
    assert guard in refused.value.message


def test_long_values_are_cut_in_what_is_told() -> None:
    with pytest.raises(GuardRefusedError) as refused:
        check_guard("payload.note == ''", "go", STATE, {"note": "ż" * 10_000}, BOB, T0)
    assert len(refused.value.details["values"]["payload.note"].encode()) <= guards.SHOWN_BYTES + 3


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
        ("state.step", "is string, not true or false"),
        ("1 + 1", "is int, not true or false"),
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
        ("payload.l.exists(x, matches(payload.t, x))", "has matches in a loop"),
        ("payload.t.matches('a' + payload.p)", "write the pattern into the guard"),
        ("payload.t.matches('a{51}')", "counts beyond 50"),
        ("payload.t.matches('a{2,1000}')", "counts beyond 50"),
        ("payload.t.matches('" + "a" * 250 + "')", "more than 200 characters"),
        ("payload.l.all(x, x.matches('a'))", "has matches in a loop"),
        (" || ".join(["payload.t.matches('a')"] * 4), "more than 3 times matches"),
        ("payload.t. matches /* no comment of CEL */ ('a')", "does not compile"),
    ],
)
def test_what_is_wrong_with_a_guard(guard: str, fault: str) -> None:
    found = fault_of_guard(guard)
    assert found is not None
    assert fault in found
    assert "INVALID_ARGUMENT" not in found


def test_every_field_can_be_read() -> None:
    for field in FIELDS:
        assert fault_of_guard(f"{field} == {field}") is None


def test_constants() -> None:
    assert is_constant("1 == 1") is True
    assert is_constant("!true") is False
    assert is_constant("state.ok || true") is None
    assert is_constant("nonsense") is None


def test_a_transition_may_run_unless_its_guard_fails_whatever_comes_with_it() -> None:
    assert may_hold("payload.age > 18", STATE, BOB, T0), "it depends on what comes"
    assert may_hold("'approver' in user.roles", STATE, BOB, T0)
    assert not may_hold("'admin' in user.roles", STATE, BOB, T0)
    assert not may_hold("state.payload.total > 1000", STATE, BOB, T0)
    assert not may_hold("state.payload.missing == 1", STATE, BOB, T0)


@pytest.mark.parametrize(
    "payload",
    [{"list": [1] * (guards.LOOPED_MEMBERS + 1)}, {"list": ["x" * 100] * 200}],
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
    half = guards.LOOPED_BYTES // 2
    payload = {"l": [1] * (guards.LOOPED_MEMBERS - 5), "s": "ab" * (half // 2), "p": "(a|b)*" * 20 + "c"}
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
