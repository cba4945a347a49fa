"""Guards: conditions of transitions in CEL, the Common Expression Language.

An expression sees ``payload`` (what comes with the transition), ``state`` (as it is before it), ``user``
(who asks: ``user.id`` and ``user.roles``) and ``now``. It is checked and compiled once. What it may cost is
bounded: its length and depth, 10,000 steps of its loops (by the library), what may be looped over
(``LOOPED_BYTES``, ``LOOPED_MEMBERS``), and what its parts cost with the values that it reads, counted before
it is evaluated (``MAX_GUARD_COST``; ``MAX_READ_COST`` for all guards of one read). One that takes much longer
nevertheless is not evaluated again for a while (``evaluation_breaker``).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache, lru_cache
from math import inf
from typing import Any

import msgspec
from cel_expr_python import cel

from app.contracts.callers import Caller
from app.contracts.errors import GuardRefusedError
from app.contracts.state import FlowState, Payload
from app.flow.conditions import evaluation_breaker
from app.flow.conditions.cel_environment import CelEnvironment
from app.flow.conditions.cel_tree import Node, Tree
from app.flow.conditions.evaluation_breaker import Subject
from app.flow.conditions.guard_constants import constant_fault
from app.flow.conditions.guard_cost import CostCounter, TooExpensiveError
from app.flow.conditions.guard_inputs import MAX_GUARD_COST, GuardBudget, GuardInputs
from app.flow.conditions.guard_reads import reads_of
from app.flow.conditions.value_sizes import NOTHING, Size, size_of_unknown
from app.kit.deadline import require_time

MAX_LENGTH = 1000
MAX_LOOPS = 2
MAX_MATCHES = 3
MAX_PATTERN = 200
MAX_COUNT = 50
"""Of the patterns of ``matches``: how many, how long, and of a repetition such as ``{2,50}``."""
SHOWN_BYTES = 500
CHEAP = 1_000_000
WORKS = (1_000, 10_000, 100_000)
"""Up to these sizes of what a guard reads, its cost is counted once; unless that is more than ``CHEAP``."""

_TEXT, _MAP = cel.Type.STRING, cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_PAYLOAD = {"payload": _MAP}
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
"""Everything that a guard can read. Texts that a state has not are empty."""

_TOKEN = re.compile(
    r"""(?P<text>[rRbB]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*)"""
    r"""|(?P<path>(?<![\w.])(?:state|payload|user|now)\b(?:\s*\.\s*\w+|\s*\[\s*(?:"[^"\\]*"|'[^'\\]*')\s*\])*)"""
    r"""|(?P<loop>(?:all|exists|exists_one|map|filter)\s*\()"""
    r"""|(?P<bracket>[()])""",
    re.DOTALL,
)
_BESIDE_TEXTS = re.compile(
    r"""(?P<text>[rRbB]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))|(?://[^\n]*|\s)+""",
    re.DOTALL,
)
_PATTERN = re.compile(r"""\s*[rR]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')\s*\)""")
_COUNTS = re.compile(r"\{[\d,\s]*\}")
_CALLED_MATCHES = re.compile(r"\bmatches\s?\($")
_SEGMENT = re.compile(r"""\w+|"[^"\\]*"|'[^'\\]*'""")
_CALLED_LOOP = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*$")
_PLACED = re.compile(r"<input>:(\d+):(\d+): ([^\n]*)")


class Guard:
    """A compiled condition. ``reads_payload``: what comes with the transition matters; ``reads_user``: so
    does who asks."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        environment = _environment()
        self._compiled = environment.compile(expression)
        self.is_expensive = is_expensive(expression)
        self._root = Tree(expression, environment).root
        self._reads = reads_of(self._root, FIELDS)
        self.reads_payload = "payload" in self._reads
        self.reads_user = any(name in self._reads for name in _USER)
        self._key = repr(sorted((name, members and sorted(members)) for name, members in self._reads.items()))
        self._costs = [
            (work, _cost_of(self._root, dict.fromkeys(self._reads, size_of_unknown(work)))) for work in WORKS
        ]

    def refusal(
        self, inputs: GuardInputs, budget: GuardBudget | None = None, transition: str = ""
    ) -> str | None:
        """None when the condition holds; otherwise why it cannot be told, "" when it is plainly false.
        ``transition``: the one with this guard, for the log."""
        if self.is_expensive and (too_much := inputs.too_much()):
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
        except Exception as refusal:  # noqa: BLE001 - whatever it is: the condition is not known to hold
            return _plain(str(refusal)) if isinstance(refusal, RuntimeError) else "it has no result"
        if found is None:
            return "it may take too long with values of this size; send less, or simplify the condition"
        if found.type() == cel.Type.ERROR:
            return _plain(str(found.value()))
        if found.type() != cel.Type.BOOL:
            return f"it gives {found.type().name().lower()}, not true or false"
        return None if found.value() else ""

    def cost(self, inputs: GuardInputs) -> float:
        """At most what an evaluation takes, in nanoseconds (app.flow.conditions.guard_cost)."""
        work = inputs.work(self._reads)
        brought = 0.0 if inputs.knows(self._key) else work
        for limit, cost in self._costs:
            if work <= limit and cost <= CHEAP:
                return cost + brought
        return _cost_of(self._root, inputs.sizes(self._reads)) + brought


def check_guard(
    expression: str, transition: str, state: FlowState, payload: Payload, caller: Caller, now: datetime
) -> None:
    """Raise GuardRefusedError, with what the guard read, unless the condition holds for certain."""
    inputs = GuardInputs(state, payload, caller, now)
    reason = compiled(expression).refusal(inputs, transition=transition)
    if reason is not None:
        raise GuardRefusedError(transition, expression, _seen(expression, inputs.values), reason or None)


def is_expensive(expression: str) -> bool:
    """True if a guard loops or matches: these are what may take long."""
    return bool(_loops(expression) or _matches(expression))


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
    """True if a transition with this guard may run now; one that depends on what comes with it may.

    Guards of one read share their ``inputs`` and their ``budget``.
    """
    guard = compiled(expression)
    if guard.reads_payload:
        return True
    return guard.refusal(inputs or GuardInputs(state, {}, caller, now), budget, transition) is None


def fault_of_guard(expression: str) -> str | None:
    """The fault of a guard as it is written; None: it compiles, reads what there is, and is true or
    false."""
    require_time()
    if len(expression) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if _is_nested(expression):
        return "has a loop inside a loop"
    if len(_loops(expression)) > MAX_LOOPS:
        return f"has more than {MAX_LOOPS} loops"
    if (fault := _fault_of_matches(expression)) is not None:
        return fault
    try:
        result = _environment().compile(expression).return_type().name()
    except RuntimeError as refusal:
        return _readable(str(refusal))
    if result not in ("BOOL", "DYN"):
        return f"is {result.lower()}, not true or false"
    tree = Tree(expression, _environment())
    if _cost_of(tree.root, dict.fromkeys(FIELDS, NOTHING)) > MAX_GUARD_COST:
        return "takes too long, whatever it reads"
    return constant_fault(tree, expression)


def is_constant(expression: str) -> bool | None:
    """The value of a guard that reads nothing; None: it reads something."""
    if any(token["path"] for token in _TOKEN.finditer(expression)) or fault_of_guard(expression):
        return None
    return Guard(expression).refusal(GuardInputs(None, {}, None, None)) is None


@lru_cache(maxsize=4096)
def compiled(expression: str) -> Guard:
    """The guard, compiled once. Raises RuntimeError for one that fault_of_guard refuses."""
    return Guard(expression)


def compile_all(expressions: Iterable[str]) -> None:
    """Compile guards before they are needed; one that cannot be compiled is left to whoever needs it."""
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


def _seen(expression: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values that an expression names, by their paths; null: not there; what is long is cut."""
    seen = {}
    for token in _TOKEN.finditer(expression):
        if not token["path"]:
            continue
        segments = [segment.strip("\"'") for segment in _SEGMENT.findall(token["path"])]
        name = segments[0] if segments[0] in values else ".".join(segments[:2])
        if name not in values:
            continue
        value = values[name]
        inner = segments[name.count(".") + 1 :]
        if expression[token.end() :].lstrip().startswith("("):  # the last one is a method
            inner = inner[:-1]
        for segment in inner:
            if not isinstance(value, dict):
                break
            name, value = f"{name}.{segment}", value.get(segment)
        seen[name] = _shown(value)
    return seen


def _shown(value: Any) -> Any:
    text = msgspec.json.encode(value)
    if len(text) <= SHOWN_BYTES:
        return msgspec.json.decode(text)
    return text[:SHOWN_BYTES].decode(errors="ignore") + "…"


def _loops(expression: str) -> list[int]:
    """For each loop of an expression, in how many others it is."""
    return [depth for depth, opens, _ in _walk(_plainly(expression)) if opens]


def _matches(expression: str) -> list[tuple[int, str]]:
    """For each call of ``matches``, in how many loops it is, and what comes after its bracket."""
    plain = _plainly(expression)
    found = []
    for depth, _, end in _walk(plain):
        if _CALLED_MATCHES.search(plain[max(0, end - 20) : end]):
            found.append((depth, plain[end:]))
    return found


def _fault_of_matches(expression: str) -> str | None:
    found = _matches(expression)
    if len(found) > MAX_MATCHES:
        return f"has more than {MAX_MATCHES} times matches"
    for depth, rest in found:
        pattern = _PATTERN.match(rest)
        if depth:
            return "has matches in a loop"
        if pattern is None:
            return "has matches with what is no text of its own: write the pattern into the guard"
        counts = [int(number[:9]) for number in re.findall(r"\d+", " ".join(_COUNTS.findall(pattern[0])))]
        if len(pattern[0]) > MAX_PATTERN or any(count > MAX_COUNT for count in counts):
            return f"has a pattern of more than {MAX_PATTERN} characters, or that counts beyond {MAX_COUNT}"
    return None


def _plainly(expression: str) -> str:
    """The expression without comments, and with one blank for many, outside of texts."""
    return _BESIDE_TEXTS.sub(lambda found: found["text"] or " ", expression)


def _is_nested(expression: str) -> bool:
    return any(depth for depth in _loops(expression))


def _walk(expression: str) -> Iterator[tuple[int, bool, int]]:
    """For each opening bracket, in how many loops it is, whether it opens one, and where it ends."""
    brackets: list[bool] = []
    for token in _TOKEN.finditer(expression):
        opened = token["loop"] or token["bracket"]
        # A path takes the name of a method that is called on it: payload.items.all( …
        if opened == ")":
            brackets = brackets[:-1]
        elif opened:
            is_loop = _CALLED_LOOP.search(expression[max(0, token.end() - 20) : token.end() - 1]) is not None
            yield sum(brackets), is_loop, token.end()
            brackets.append(is_loop)


def _readable(refusal: str) -> str:
    """The message of the compiler, with columns, in plain words."""
    found = _PLACED.findall(refusal)
    if not found:
        return f"does not compile: {_plain(refusal)}"
    told = []
    for line, column, message in found[:3]:
        plain = message.replace(" (in container '')", "").removesuffix(" [INVALID_ARGUMENT]")
        place = f"column {column}" if line == "1" else f"line {line}, column {column}"
        told.append(f"{plain.partition(' expecting {')[0]} ({place})")
    return f"does not compile: {'; '.join(told)}"


def _plain(message: str) -> str:
    """A message of the library without its status."""
    text = re.sub(r"^[A-Z_]+: ", "", message.partition("\n")[0])
    return re.sub(r" \[[A-Z_]+\]$", "", text)
