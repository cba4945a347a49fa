"""Guards: conditions of transitions in CEL, the Common Expression Language.

An expression sees ``payload`` (what comes with the transition), ``state`` (as it is before it), ``user``
(who asks: ``user.id`` and ``user.roles``) and ``now``. It is checked and compiled once. What it may cost is
bounded: its length and depth, 10,000 steps of its loops (by the library), and what may be looped over
(``LOOPED_BYTES``, ``LOOPED_MEMBERS``).
"""

import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

import msgspec
from cel_expr_python import cel
from msgspec import UNSET

from app.contracts.command import Caller
from app.contracts.errors import GuardRefusedError
from app.contracts.state import FlowState, Payload
from app.flow.cel_environment import CelEnvironment
from app.flow.guard_constants import constant_fault
from app.flow.jsonable import count_values

MAX_LENGTH = 1000
MAX_LOOPS = 2
MAX_MATCHES = 3
MAX_PATTERN = 200
MAX_COUNT = 50
"""Of the patterns of ``matches``: how many, how long, and of a repetition such as ``{2,50}``."""
LOOPED_BYTES = 16_384
LOOPED_MEMBERS = 500
"""Of both payloads as JSON, and of all lists and objects in them together, where a guard loops or matches:
lists are copied at each step, and a pattern takes its time for each character."""
SHOWN_BYTES = 500

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
        self._compiled = _environment(payload=True, user=True).compile(expression)
        self.reads_payload = not _compiles(expression, payload=False, user=True)
        self.reads_user = not _compiles(expression, payload=True, user=False)
        self.is_dear = is_dear(expression)
        self._keys = {name: _keys_read(expression, name) for name in ("payload", "state.payload")}

    def refusal(self, values: dict[str, Any]) -> str | None:
        """None when the condition holds; otherwise why it cannot be told, "" when it is plainly false."""
        if self.is_dear and (too_much := _too_much(values["payload"], values["state.payload"])):
            return too_much
        # Every member costs its way into CEL: only those are sent that can be read.
        sent = {name: _some(values[name], keys) for name, keys in self._keys.items() if keys is not None}
        try:
            found = self._compiled.eval(data={**values, **sent})
        except Exception as refusal:  # noqa: BLE001 - whatever it is: the condition is not known to hold
            return _plain(str(refusal)) if isinstance(refusal, RuntimeError) else "it has no result"
        if found.type() == cel.Type.ERROR:
            return _plain(str(found.value()))
        if found.type() != cel.Type.BOOL:
            return f"it gives {found.type().name().lower()}, not true or false"
        return None if found.value() else ""


def check_guard(
    expression: str, transition: str, state: FlowState, payload: Payload, caller: Caller, now: datetime
) -> None:
    """Raise GuardRefusedError, with what the guard read, unless the condition holds for certain."""
    values = _values(state, payload, caller, now)
    reason = compiled(expression).refusal(values)
    if reason is not None:
        raise GuardRefusedError(transition, expression, _seen(expression, values), reason or None)


def is_dear(expression: str) -> bool:
    """Whether a guard loops or matches: these are what may take long."""
    return bool(_loops(expression) or _matches(expression))


def may_hold(expression: str, state: FlowState, caller: Caller, now: datetime) -> bool:
    """Whether a transition with this guard may run now; one that depends on what comes with it may."""
    guard = compiled(expression)
    return guard.reads_payload or guard.refusal(_values(state, {}, caller, now)) is None


def fault_of_guard(expression: str) -> str | None:
    """What is wrong with a guard as it is written; None: it compiles, reads what there is, and is true or
    false."""
    if len(expression) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if _is_nested(expression):
        return "has a loop inside a loop"
    if len(_loops(expression)) > MAX_LOOPS:
        return f"has more than {MAX_LOOPS} loops"
    if (fault := _fault_of_matches(expression)) is not None:
        return fault
    try:
        result = _environment(payload=True, user=True).compile(expression).return_type().name()
    except RuntimeError as refusal:
        return _readable(str(refusal))
    if result not in ("BOOL", "DYN"):
        return f"is {result.lower()}, not true or false"
    return constant_fault(expression, _environment(payload=True, user=True))


def is_constant(expression: str) -> bool | None:
    """The value of a guard that reads nothing; None: it reads something."""
    if any(token["path"] for token in _TOKEN.finditer(expression)) or fault_of_guard(expression):
        return None
    return Guard(expression).refusal({"payload": {}, "state.payload": {}}) is None


@lru_cache(maxsize=4096)
def compiled(expression: str) -> Guard:
    """The guard, compiled once. Raises RuntimeError for one that fault_of_guard refuses."""
    return Guard(expression)


@cache
def _environment(*, payload: bool, user: bool) -> CelEnvironment:
    return CelEnvironment({**_REST, **(_PAYLOAD if payload else {}), **(_USER if user else {})})


def _compiles(expression: str, *, payload: bool, user: bool) -> bool:
    try:
        _environment(payload=payload, user=user).compile(expression)
    except RuntimeError:
        return False
    return True


def _values(state: FlowState, payload: Payload, caller: Caller, now: datetime) -> dict[str, Any]:
    return {
        "payload": payload,
        "user.id": caller.user_id,
        "user.roles": sorted(caller.roles),
        "state.flow": state.flow,
        "state.userId": state.user_id,
        "state.step": state.step,
        "state.previous": state.previous or "",
        "state.service": state.service,
        "state.entityId": state.entity_id or "",
        "state.message": state.message or "",
        "state.status": state.status,
        "state.ok": state.ok,
        "state.version": state.version,
        "state.revision": state.revision,
        "state.createdAt": state.created_at,
        "state.updatedAt": state.updated_at,
        "state.payload": {} if state.payload is UNSET else state.payload,
        "now": now,
    }


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


def _keys_read(expression: str, name: str) -> set[str] | None:
    """The members of a payload that an expression can read; None: any."""
    keys = set()
    for token in _TOKEN.finditer(_plainly(expression)):
        segments = [segment.strip("\"'") for segment in _SEGMENT.findall(token["path"] or "")]
        whole, depth = ".".join(segments[: name.count(".") + 1]), name.count(".") + 1
        if whole != name:
            continue
        called = _plainly(expression)[token.end() :].lstrip().startswith("(")
        if len(segments) - called <= depth:
            return None
        keys.add(segments[depth])
    return keys


def _some(payload: Payload, keys: set[str]) -> Payload:
    return {key: payload[key] for key in keys if key in payload}


def _shown(value: Any) -> Any:
    text = msgspec.json.encode(value)
    if len(text) <= SHOWN_BYTES:
        return msgspec.json.decode(text)
    return text[:SHOWN_BYTES].decode(errors="ignore") + "…"


def _too_much(*payloads: Payload) -> str | None:
    if sum(count_values(payload) for payload in payloads) > LOOPED_MEMBERS:
        return f"it loops or matches, and the payload has more than {LOOPED_MEMBERS} members"
    if sum(len(msgspec.json.encode(payload)) for payload in payloads) > LOOPED_BYTES:
        return f"it loops or matches, and the payload has more than {LOOPED_BYTES} bytes"
    return None


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
    """What the compiler says, with columns, without how it says it."""
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
