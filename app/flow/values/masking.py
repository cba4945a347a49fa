"""Masks of payloads: the parts that a reader sees, by JSON pointers (RFC 6901).

The segment ``*`` of a pointer stands for every member of an object and every element of a list. A masked
member is absent, and a masked element of a list is null, so that the others retain their positions.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from msgspec import UNSET, Struct

from app.contracts.state import Payload
from app.flow.values.struct_errors import escape

WILDCARD = "*"
WHOLE_PAYLOAD = ""
"""The pointer to the whole payload: members of it are masked."""
_MASKED: Any = object()


class _Node:
    """A segment of pointers; ``pointer`` is the one that ends here, None if none does."""

    __slots__ = ("children", "pointer")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.pointer: str | None = None


_Nodes = tuple[_Node, ...]


class _Rules:
    """The pointers that concern one place: those that hide it, show it, or list it.

    ``show`` is None where everything is shown.
    """

    __slots__ = ("hide", "listed", "show")

    def __init__(self, hide: _Nodes, show: _Nodes | None, listed: _Nodes) -> None:
        self.hide = hide
        self.show = show
        self.listed = listed

    @property
    def are_open(self) -> bool:
        """True if nothing is masked from here on."""
        return self.show is None and not self.hide

    def at(self, name: str) -> "_Rules":
        """Return the rules of a member."""
        show = None if self.show is None else _step(self.show, name)
        return _Rules(_step(self.hide, name), show, _step(self.listed, name))

    def resolved(self, masked: dict[str, None]) -> "_Rules | None":
        """Return the rules for what is in this place, None if it is masked.

        A pointer that hides it is added to ``masked``.
        """
        show = self.show
        if show is not None:
            if _ends(show):
                show = None
            elif not show:
                return None
        hiding = next((node.pointer for node in self.hide if node.pointer is not None), None)
        if hiding is not None and not _ends(self.listed):
            masked[hiding] = None
            if not self.listed:
                return None
            show = self.listed  # parts of it are listed by themselves
        return _Rules(tuple(node for node in self.hide if node.children), show, self.listed)


class Mask(Struct, frozen=True):
    """The parts of payloads that a reader does not see.

    Attributes:
        hidden: Pointers to the parts that are masked.
        shown: Pointers to the only parts that are shown, None for all but the hidden ones.
        listed: Pointers to hidden parts, or into them, that are shown all the same.
    """

    hidden: tuple[str, ...] = ()
    shown: tuple[str, ...] | None = None
    listed: tuple[str, ...] = ()

    @property
    def _rules(self) -> _Rules:
        show = None if self.shown is None else (_tree(self.shown),)
        return _Rules((_tree(self.hidden),), show, (_tree(self.listed),))

    def apply(self, payload: Payload) -> tuple[Payload, tuple[str, ...]]:
        """Return the parts that the reader sees, and the pointers to places with masked ones.

        These are pointers of the mask, not of the payload: for a hidden part the one that hides it, otherwise
        one to the object or list with parts that are not shown. So no name in a masked part is disclosed.
        """
        masked: dict[str, None] = {}
        rules = self._rules.resolved(masked)
        seen: Any = _MASKED if rules is None else _seen(payload, rules, WHOLE_PAYLOAD, masked)
        if seen is _MASKED:
            seen = {}
            if payload:
                masked.setdefault(WHOLE_PAYLOAD)
        return seen, tuple(masked)

    def apply_at(self, pointer: str, value: Any) -> tuple[Any, tuple[str, ...]]:
        """Return the part of the value at a pointer that the reader sees, and pointers as ``apply`` does.

        The part is UNSET if the reader sees nothing of it.
        """
        masked: dict[str, None] = {}
        rules = self._rules.resolved(masked)
        for segment in _segments(pointer):
            rules = None if rules is None else rules.at(segment).resolved(masked)
        seen = _MASKED if rules is None else _seen(value, rules, pointer, masked)
        if seen is _MASKED:
            return UNSET, tuple(masked) or (WHOLE_PAYLOAD,)
        return seen, tuple(masked)

    def shows_all_of(self, pointer: str) -> bool:
        """Return whether the reader sees every value to which a pointer leads, with all that is in it."""
        if self.shown is not None and not any(_leads_to(each, pointer) for each in self.shown):
            return False
        return not any(
            (covers(each, pointer) or covers(pointer, each)) and not self._is_listed(each, pointer)
            for each in self.hidden
        )

    def _is_listed(self, hidden: str, pointer: str) -> bool:
        return any(_leads_to(each, pointer) and each.count("/") >= hidden.count("/") for each in self.listed)

    def restore(self, sent: Payload, present: Payload) -> Payload:
        """Return a payload that the reader sends, with what it could not see.

        A member of an object that the reader does not see, and that it does not send, is that of the present
        payload. Elements of a list of the same length are those at the same positions; otherwise an element
        that is sent as it was shown is the present one.
        """
        rules = self._rules.resolved({})
        if rules is None:
            return sent
        return {
            name: _restored(value, present[name], rules.at(name)) if name in present else value
            for name, value in sent.items()
        }


def covers(outer: str, inner: str) -> bool:
    """Return whether a pointer may lead to the values of another one, or to values around them."""
    around, within = outer.split("/"), inner.split("/")
    pairs = zip(around, within)  # noqa: B905 - the inner one may go on
    return len(around) <= len(within) and all(a == b or WILDCARD in (a, b) for a, b in pairs)


def _leads_to(outer: str, inner: str) -> bool:
    """Return whether a pointer leads to all values of another one, or to values around them."""
    around, within = outer.split("/"), inner.split("/")
    pairs = zip(around, within)  # noqa: B905 - the inner one may go on
    return len(around) <= len(within) and all(a in (b, WILDCARD) for a, b in pairs)


def _seen(value: Any, rules: _Rules, at: str, masked: dict[str, None]) -> Any:
    """Return the parts of a value that are shown; ``at`` is its place in ``masked``."""
    if rules.are_open:
        return value
    if not isinstance(value, dict | list):
        return value if rules.show is None else _MASKED
    inner: dict[str, None] = {}
    parts: list[tuple[Any, Any]] = []
    members: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    is_partial = False
    for name, member in members:
        below = rules.at(str(name))
        found: dict[str, None] = {}
        resolved = below.resolved(found)
        part = _MASKED
        if resolved is not None:
            part = _seen(member, resolved, f"{at}/{_segment_of(str(name), rules)}", found)
        inner |= found
        is_partial = is_partial or (part is _MASKED and not found)
        parts.append((name, part))
    if rules.show is not None and all(part is _MASKED for _, part in parts):
        return _MASKED
    masked |= inner
    if is_partial:
        masked[at] = None
    if isinstance(value, dict):
        return {name: part for name, part in parts if part is not _MASKED}
    return [None if part is _MASKED else part for _, part in parts]


def _restored(sent: Any, present: Any, rules: _Rules) -> Any:
    resolved = rules.resolved({})
    if resolved is None or resolved.are_open:
        return sent
    if isinstance(sent, dict) and isinstance(present, dict):
        filled = dict(sent)
        for name, member in present.items():
            below = resolved.at(name)
            if name in sent:
                filled[name] = _restored(sent[name], member, below)
            elif not _is_seen(member, below):
                filled[name] = member
        return filled
    if isinstance(sent, list) and isinstance(present, list):
        return _restored_elements(sent, present, resolved)
    return sent


def _restored_elements(sent: list[Any], present: list[Any], rules: _Rules) -> list[Any]:
    if len(sent) == len(present):
        return [
            before
            if given is None and not _is_seen(before, rules.at(str(n)))
            else _restored(given, before, rules.at(str(n)))
            for n, (given, before) in enumerate(zip(sent, present, strict=True))
        ]
    shown = [_shown(before, rules.at(str(n))) for n, before in enumerate(present)]
    unused = dict.fromkeys(range(len(present)))
    filled = []
    for place, given in enumerate(sent):
        there = rules.at(str(place))  # where it must not show more than at its own position
        same = next((n for n in unused if shown[n] == given == _shown(present[n], there)), None)
        if same is not None:
            del unused[same]
        filled.append(given if same is None else present[same])
    return filled


def _shown(value: Any, rules: _Rules) -> Any:
    """Return an element of a list as the reader sees it."""
    resolved = rules.resolved({})
    seen = _MASKED if resolved is None else _seen(value, resolved, "", {})
    return None if seen is _MASKED else seen


def _is_seen(value: Any, rules: _Rules) -> bool:
    resolved = rules.resolved({})
    return resolved is not None and _seen(value, resolved, "", {}) is not _MASKED


def _segment_of(name: str, rules: _Rules) -> str:
    """Return the segment of a member: a name of the payload only if a pointer has it too."""
    known = any(name in node.children for node in (*(rules.show or ()), *rules.hide))
    return escape(name) if known else WILDCARD


def _step(nodes: _Nodes, name: str) -> _Nodes:
    found = []
    for node in nodes:
        if (child := node.children.get(name)) is not None:
            found.append(child)
        if name != WILDCARD and (child := node.children.get(WILDCARD)) is not None:
            found.append(child)
    return tuple(found)


def _ends(nodes: _Nodes) -> bool:
    return any(node.pointer is not None for node in nodes)


def _segments(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


@lru_cache(maxsize=4096)
def _tree(pointers: Sequence[str]) -> _Node:
    root = _Node()
    for pointer in pointers:
        node = root
        for segment in _segments(pointer):
            node = node.children.setdefault(segment, _Node())
        node.pointer = pointer
    return root
