"""Findings: made, brought into the order of the document, and bounded."""

from collections.abc import Iterable

from app.contracts.definition import Finding
from app.flow.lint.pointers import way_to

MAX_FINDINGS = 100
MAX_POINTER = 1000
"""In characters. Names in a pointer are its author's: a longer one is cut, and leads to what is around."""


def error(at: str, message: str, advice: str) -> Finding:
    """A finding that keeps a definition from being published."""
    return Finding(_short(at), message, "error", advice)


def warning(at: str, message: str, advice: str) -> Finding:
    """A finding about what its author may have meant."""
    return Finding(_short(at), message, "warning", advice)


def arranged(raw: object, findings: Iterable[Finding]) -> list[Finding]:
    """The findings in the order of the document, none twice, at most ``MAX_FINDINGS``: where there are
    more, errors come before warnings, and the last one says so."""
    order = _Order(raw)
    cut = (Finding(_leading(raw, f.pointer), f.message, f.severity, f.advice) for f in findings)
    unique = {(finding.pointer, finding.message): finding for finding in cut}
    ordered = sorted(unique.values(), key=lambda finding: order.place(finding.pointer))
    if len(ordered) <= MAX_FINDINGS:
        return ordered
    errors = [finding for finding in ordered if finding.severity == "error"]
    warnings = [finding for finding in ordered if finding.severity == "warning"]
    kept = (errors + warnings)[: MAX_FINDINGS - 1]
    more = f"there are {len(ordered) - len(kept)} findings more"
    make = error if len(errors) > len(kept) else warning
    return [
        *sorted(kept, key=lambda finding: order.place(finding.pointer)),
        make("", more, "mend these first, then check again"),
    ]


class _Order:
    """The order of the values in a document."""

    def __init__(self, raw: object) -> None:
        self._raw = raw
        self._members: dict[int, dict[str, int]] = {}

    def place(self, pointer: str) -> tuple[int, ...]:
        """The positions of the members on the way to a value: what is around comes before what is inside."""
        return tuple(
            name if isinstance(around, list) else self._positions(around)[name]
            for around, name in way_to(self._raw, pointer)
        )

    def _positions(self, value: dict[str, object]) -> dict[str, int]:
        known = self._members.get(id(value))
        if known is None:
            known = self._members[id(value)] = {name: at for at, name in enumerate(value)}
        return known


def _short(pointer: str) -> str:
    """As much of a pointer as is short enough: thousands of findings may be below one long name."""
    return pointer if len(pointer) <= MAX_POINTER else pointer[: pointer.rindex("/", 0, MAX_POINTER + 1)]


def _leading(raw: object, pointer: str) -> str:
    """As much of a pointer as leads somewhere: jsonschema-rs leaves empty names out."""
    found = sum(1 for _ in way_to(raw, pointer))
    return "/".join(pointer.split("/")[: found + 1])
