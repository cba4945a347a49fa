"""Bounds of the form of a guard: its loops, and the patterns that it matches, by its syntax tree."""

import re
from collections.abc import Iterator

from msgspec import Struct

from app.flow.conditions.cel_tree import COMPREHENSION, Node

MAX_LOOPS = 2
MAX_MATCHES = 3
MAX_PATTERN = 200
"""Characters of a pattern as it is written, with its quotes and the closing bracket."""
MAX_COUNT = 50
"""The largest number in a repetition such as ``{2,50}``."""

_ONCE = 2
"""Parts of a comprehension that are evaluated once, before its loop: its range and its first value."""
_ARGUMENT = re.compile(
    r"""\((?P<before>\s|//[^\n]*\n)*(?P<literal>[rR]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))"""
    r"""(?P<after>\s|//[^\n]*\n)*\)""",
    re.DOTALL,
)
"""One literal in single or double quotes, alone between the brackets of a call."""
_COUNTS = re.compile(r"\{[\d,\s]*\}")


class GuardForm(Struct, frozen=True):
    """The parts of a guard that may take long.

    Args:
        loops: For each loop, in how many other loops it is.
        matches: Each call of ``matches``, with the number of loops that it is in.
    """

    loops: list[int]
    matches: list[tuple[int, Node]]

    @property
    def is_expensive(self) -> bool:
        """True if the guard loops or matches."""
        return bool(self.loops or self.matches)


def form_of(root: Node) -> GuardForm:
    """Find the loops and the calls of ``matches`` in a syntax tree."""
    form = GuardForm([], [])
    for node, depth in _with_depths(root):
        if node.kind == COMPREHENSION:
            form.loops.append(depth)
        elif node.function == "matches":
            form.matches.append((depth, node))
    return form


def form_fault(form: GuardForm, expression: str) -> str | None:
    """Return the first bound that a guard exceeds; None if it is within all of them."""
    if any(form.loops):
        return "The guard has a loop inside a loop"
    if len(form.loops) > MAX_LOOPS:
        return f"The guard has more than {MAX_LOOPS} loops"
    if len(form.matches) > MAX_MATCHES:
        return f"The guard calls matches more than {MAX_MATCHES} times"
    for depth, call in form.matches:
        if depth:
            return "The guard calls matches in a loop"
        fault = _pattern_fault(call, expression)
        if fault is not None:
            return fault
    return None


def _with_depths(root: Node) -> Iterator[tuple[Node, int]]:
    """Yield each node with the number of loops whose body it is in, in the order of the expression."""
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        for position, part in reversed(list(enumerate(node.parts))):
            is_repeated = node.kind == COMPREHENSION and position >= _ONCE
            waiting.append((part, depth + is_repeated))


def _pattern_fault(call: Node, expression: str) -> str | None:
    """Check the pattern of ``text.matches('pattern')``.

    The tree has the pattern itself. That it is one literal in the brackets of a method bounds how it can be
    written: its position in the tree is that of the opening bracket.
    """
    pattern = call.parts[-1].text if call.is_method and len(call.parts) == 2 else None
    written = _ARGUMENT.match(expression, call.position)
    if not isinstance(pattern, str) or written is None:
        return (
            "The guard calls matches with something else than one literal: write the pattern into the guard, "
            "as in text.matches('[a-z]+')"
        )
    # Blanks and comments around the literal count as one character.
    length = len(written["literal"]) + 1 + bool(written["before"]) + bool(written["after"])
    counts = [int(number[:9]) for number in re.findall(r"\d+", " ".join(_COUNTS.findall(pattern)))]
    if length > MAX_PATTERN:
        return f"The guard has a pattern of more than {MAX_PATTERN} characters"
    if any(count > MAX_COUNT for count in counts):
        return f"The guard has a pattern with more than {MAX_COUNT} repetitions"
    return None
