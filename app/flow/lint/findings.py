"""Findings: their construction, order and bounds."""

from collections.abc import Iterable
from operator import itemgetter

from msgspec import structs

from app.contracts.definition import Finding
from app.flow.lint.pointers import path_to

MAX_FINDINGS = 100
MAX_POINTER = 1000
"""Characters of a pointer, which has names of the author: a longer one is cut to that of an outer value."""


def error(at: str, message: str, advice: str) -> Finding:
    """Return a finding that prevents a definition from being published."""
    return Finding(_short(at), message, "error", advice)


def warning(at: str, message: str, advice: str) -> Finding:
    """Return a finding about a probable mistake."""
    return Finding(_short(at), message, "warning", advice)


Place = tuple[int, ...]


def arranged(raw: object, findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings in the order of the document, without duplicates, at most ``MAX_FINDINGS``.

    If there are more, errors are listed before warnings, and the last finding counts the others.
    """
    order = _Order(raw)
    unique: dict[tuple[str, str], tuple[Place, Finding]] = {}
    for found in findings:
        place = order.place(found.pointer)
        pointer = _leading(found.pointer, len(place))
        if pointer != found.pointer:
            found = structs.replace(found, pointer=pointer)  # noqa: PLW2901 - the one that is listed
        unique[pointer, found.message] = (place, found)
    ordered = [finding for _, finding in sorted(unique.values(), key=itemgetter(0))]
    if len(ordered) <= MAX_FINDINGS:
        return ordered
    errors = [finding for finding in ordered if finding.severity == "error"]
    warnings = [finding for finding in ordered if finding.severity == "warning"]
    listed = (errors + warnings)[: MAX_FINDINGS - 1]
    more = f"There are {len(ordered) - len(listed)} more findings"
    make = error if len(errors) > len(listed) else warning
    return [
        *sorted(listed, key=lambda finding: order.place(finding.pointer)),
        make("", more, "correct these first, then check again"),
    ]


class _Order:
    """The order of the values in a document."""

    def __init__(self, raw: object) -> None:
        self._raw = raw
        self._members: dict[int, dict[str, int]] = {}

    def place(self, pointer: str) -> Place:
        """Return the positions of the members on the path to a value: outer values come first.

        It ends where the document has no such member.
        """
        return tuple(
            [
                name if isinstance(around, list) else self._positions(around)[name]
                for around, name in path_to(self._raw, pointer)
            ]
        )

    def _positions(self, value: dict[str, object]) -> dict[str, int]:
        known = self._members.get(id(value))
        if known is None:
            known = self._members[id(value)] = {name: at for at, name in enumerate(value)}
        return known


def _short(pointer: str) -> str:
    """Cut a pointer to ``MAX_POINTER``: thousands of findings may be below one long name."""
    return pointer if len(pointer) <= MAX_POINTER else pointer[: pointer.rindex("/", 0, MAX_POINTER + 1)]


def _leading(pointer: str, members: int) -> str:
    """Return the part of a pointer that exists in the document: jsonschema-rs leaves empty names out."""
    return pointer if pointer.count("/") == members else "/".join(pointer.split("/")[: members + 1])
