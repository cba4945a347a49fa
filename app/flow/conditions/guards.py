"""Guards: conditions of transitions in CEL, the Common Expression Language.

An expression reads ``payload`` (the payload of the transition), ``state`` (the state before it), ``user``
(the caller: ``user.id`` and ``user.roles``) and ``now``. It is checked and compiled once. Its cost is bounded
by:

* its length, and its depth (by the library);
* the form of its loops and patterns (``guard_form``), and 10,000 steps of its loops (by the library);
* the size of the payloads that it may loop over (``MAX_LOOPED_BYTES``, ``MAX_LOOPED_MEMBERS``);
* its estimated cost with the values that it reads (``MAX_GUARD_COST``; ``MAX_READ_COST`` for all guards of
  one read).

A guard that takes much longer than its estimate is not evaluated again for a while (``evaluation_breaker``).
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache, lru_cache
from math import inf
from typing import Any

from cel_expr_python import cel
from msgspec import UNSET, Struct, structs

from app.contracts.callers import Caller
from app.contracts.errors import GuardRefusedError
from app.contracts.state import FlowState, Payload
from app.flow.conditions import evaluation_breaker
from app.flow.conditions.cel_environment import CelEnvironment
from app.flow.conditions.cel_tree import Node, Tree
from app.flow.conditions.evaluation_breaker import Subject
from app.flow.conditions.guard_constants import constant_fault
from app.flow.conditions.guard_cost import CostCounter, TooExpensiveError
from app.flow.conditions.guard_form import form_fault, form_of
from app.flow.conditions.guard_inputs import MAX_GUARD_COST, GuardBudget, GuardInputs
from app.flow.conditions.guard_reads import reads_of
from app.flow.conditions.guard_report import compile_fault, seen_values, strip_status
from app.flow.conditions.value_sizes import NOTHING, Size, size_of_unknown
from app.flow.values.masking import Mask
from app.kit.deadline import require_time

MAX_LENGTH = 1000
MAX_CHEAP_COST = 1_000_000
PRECOUNTED_WORKS = (1_000, 10_000, 100_000)
"""Up to these costs of converting what a guard reads, its cost is counted once, when it is compiled; this
estimate is used unless it is more than ``MAX_CHEAP_COST``."""

_TEXT, _MAP = cel.Type.STRING, cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_PAYLOAD = {"payload": _MAP}
_PAYLOADS = frozenset({"payload", "state.payload"})
_USER = {"user.id": _TEXT, "user.roles": cel.Type.List(_TEXT)}
_REST = {
    "state.flow": _TEXT,
    "state.userId": _TEXT,
    "state.step": _TEXT,
    "state.previous": _TEXT,
    "state.service": _TEXT,
    "state.entityId": _TEXT,
    "state.message": _TEXT,
    "state.status": _TEXT,
    "state.ok": cel.Type.BOOL,
    "state.version": cel.Type.INT,
    "state.revision": cel.Type.INT,
    "state.createdAt": cel.Type.TIMESTAMP,
    "state.updatedAt": cel.Type.TIMESTAMP,
    "state.payload": _MAP,
    "now": cel.Type.TIMESTAMP,
}
FIELDS = (*_PAYLOAD, *_USER, *_REST)
"""The variables of a guard. Texts that a state does not have are empty."""


class Guard:
    """A compiled condition.

    ``reads_payload`` and ``reads_user`` are true if its result depends on the payload of the transition and
    on the caller.

    Raises:
        RuntimeError: The expression does not compile.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        environment = _environment()
        self._compiled = environment.compile(expression)
        self._root = Tree(expression, environment).root
        self.is_expensive = form_of(self._root).is_expensive
        self._reads = reads_of(self._root, FIELDS)
        self.reads_payload = "payload" in self._reads
        self._payloads = {name: self._reads[name] for name in _PAYLOADS & self._reads.keys()}
        self.reads_user = any(name in self._reads for name in _USER)
        self._key = repr(sorted((name, members and sorted(members)) for name, members in self._reads.items()))
        self._costs = [
            (work, _cost_of(self._root, dict.fromkeys(self._reads, size_of_unknown(work))))
            for work in PRECOUNTED_WORKS
        ]

    def refusal(
        self, inputs: GuardInputs, budget: GuardBudget | None = None, transition: str = ""
    ) -> str | None:
        """Return None if the guard passes, "" if it is false, otherwise the reason why it has no result.

        Args:
            inputs: The values that it reads.
            budget: The budget that it shares with other guards; a new one by default.
            transition: The name of its transition, for the log.
        """
        too_much = inputs.too_much() if self.is_expensive else None
        if too_much is not None:
            return too_much
        environment = _environment()

        def evaluate() -> cel.Value:
            return self._compiled.eval(**inputs.arguments(self._key, self._reads, environment))

        def evaluate_unless_slow() -> cel.Value | None:
            size = inputs.work(self._reads)
            place = inputs.place(transition)
            subject = Subject("guard", self.expression, size, MAX_GUARD_COST / 1e9, place)
            return evaluation_breaker.breaker.evaluate(subject, evaluate)

        try:
            found = (budget or GuardBudget()).evaluate(lambda: self.cost(inputs), evaluate_unless_slow)
        except Exception as refusal:  # noqa: BLE001 - whatever it is, the guard did not pass
            return strip_status(str(refusal)) if isinstance(refusal, RuntimeError) else "it has no result"
        if found is None:
            return "it may take too long with values of this size; send less, or simplify the condition"
        if found.type() == cel.Type.ERROR:
            return strip_status(str(found.value()))
        if found.type() != cel.Type.BOOL:
            return f"its result is of type {found.type().name().lower()}, not true or false"
        return None if found.value() else ""

    def seen(self, inputs: GuardInputs) -> dict[str, Any]:
        """Return the values that the guard read, by their paths, for a report."""
        return seen_values(self._root, inputs.values)

    def reads_alike(self, inputs: GuardInputs, others: GuardInputs) -> bool:
        """Return whether the guard reads the same parts of payloads from both inputs."""
        return inputs.payloads(self._payloads) == others.payloads(self._payloads)

    def cost(self, inputs: GuardInputs) -> float:
        """Return an upper bound of the cost of an evaluation, in nanoseconds (``guard_cost``)."""
        work = inputs.work(self._reads)
        conversion = 0.0 if inputs.knows(self._key) else work
        for limit, cost in self._costs:
            if work <= limit and cost <= MAX_CHEAP_COST:
                return cost + conversion
        return _cost_of(self._root, inputs.sizes(self._reads)) + conversion


class _Check(Struct, frozen=True):
    """The result of checking a guard: its fault, or the properties of a sound one."""

    fault: str | None
    is_expensive: bool = False
    reads_anything: bool = False


def check_guard(
    expression: str,
    transition: str,
    state: FlowState,
    payload: Payload,
    caller: Caller,
    now: datetime,
    mask: Mask | None = None,
) -> None:
    """Raise GuardRefusedError, with the values that the guard read, unless the guard passes.

    ``mask`` hides parts of the payload from the caller, so that the error does not have them.
    """
    inputs = GuardInputs(state, payload, caller, now)
    guard = compiled(expression)
    reason = guard.refusal(inputs, transition=transition)
    if reason is None:
        return
    reported = inputs
    if mask is not None:
        shown = UNSET if state.payload is UNSET else mask.apply(state.payload)[0]
        reported = GuardInputs(structs.replace(state, payload=shown), mask.apply(payload)[0], caller, now)
    raise refused(guard, transition, reason, inputs, reported)


def refused(
    guard: Guard, transition: str, reason: str, inputs: GuardInputs, reported: GuardInputs
) -> GuardRefusedError:
    """Create the error of a guard that does not pass.

    Args:
        guard: The guard.
        transition: The name of its transition.
        reason: The reason why it has no result, "" if it is false.
        inputs: The values that it read.
        reported: The values that the caller may see.
    """
    if reason and not guard.reads_alike(inputs, reported):
        reason = "it reads fields that you may not see"
    return GuardRefusedError(transition, guard.expression, guard.seen(reported), reason or None)


def is_expensive(expression: str) -> bool:
    """True if a sound guard loops or matches, which may take long."""
    return fault_of_guard(expression) is None and _check(expression).is_expensive


def may_hold(
    expression: str,
    state: FlowState,
    caller: Caller,
    now: datetime,
    *,
    transition: str = "",
    inputs: GuardInputs | None = None,
    budget: GuardBudget | None = None,
) -> bool:
    """True if a transition with this guard may run now; a guard on the payload of the transition may pass.

    Guards of one read share their ``inputs`` and their ``budget``.
    """
    guard = compiled(expression)
    if guard.reads_payload:
        return True
    return guard.refusal(inputs or GuardInputs(state, {}, caller, now), budget, transition) is None


def fault_of_guard(expression: str) -> str | None:
    """Return the fault of a guard as it is written; None if it is sound.

    A sound guard compiles, reads only ``FIELDS``, is true or false, and is within the bounds.
    """
    require_time()
    if len(expression) > MAX_LENGTH:
        return f"The guard is longer than {MAX_LENGTH} characters"
    return _check(expression).fault


@lru_cache(maxsize=4096)
def _check(expression: str) -> _Check:
    """Check a guard once, without what its evaluation needs."""
    try:
        result = _environment().compile(expression).return_type().name()
    except RuntimeError as refusal:
        return _Check(compile_fault(str(refusal)))
    tree = Tree(expression, _environment())
    form = form_of(tree.root)
    # First the form, as counting the cost takes twice as long for each loop in another.
    fault = form_fault(form, expression) or _fault_of(tree, expression, result)
    if fault is not None:
        return _Check(fault)
    return _Check(None, form.is_expensive, bool(reads_of(tree.root, FIELDS)))


def _fault_of(tree: Tree, expression: str, result: str) -> str | None:
    if result not in ("BOOL", "DYN"):
        return f"The guard is of type {result.lower()}, not true or false"
    if _cost_of(tree.root, dict.fromkeys(FIELDS, NOTHING)) > MAX_GUARD_COST:
        return "The guard is too expensive, whatever it reads"
    return constant_fault(tree, expression)


def constant_value(expression: str) -> bool | None:
    """Return the value of a sound guard that reads nothing; None for any other."""
    if fault_of_guard(expression) is not None or _check(expression).reads_anything:
        return None
    return compiled(expression).refusal(GuardInputs(None, {}, None, None)) is None


@lru_cache(maxsize=4096)
def compiled(expression: str) -> Guard:
    """Return the guard, compiled once.

    Raises:
        RuntimeError: The expression does not compile.
    """
    return Guard(expression)


def compile_all(expressions: Iterable[str]) -> None:
    """Compile guards before they are needed; errors are left to the first evaluation."""
    for expression in expressions:
        with suppress(RuntimeError):
            compiled(expression)


@cache
def _environment() -> CelEnvironment:
    return CelEnvironment({**_REST, **_PAYLOAD, **_USER})


def _cost_of(root: Node, sizes: Mapping[str, Size]) -> float:
    counter = CostCounter(sizes, MAX_GUARD_COST)
    try:
        counter.size(root, {})
    except TooExpensiveError:
        return inf
    return counter.spent
