"""Converts any names to legal names of a flow."""

import re
from collections.abc import Iterable

from app.flow.lint.spelling import NAME, SLUG

MAX_NAME_CHARACTERS = 64


class Names:
    """Unique names of steps, or of transitions. Legal names in ``given`` stay as they are."""

    def __init__(self, given: Iterable[str]) -> None:
        self._used = {name for name in given if NAME.match(name)}
        self._legal = frozenset(self._used)
        self._assigned: dict[tuple[str, object], str] = {}
        self._numbers: dict[str, int] = {}

    def legal_name(self, wanted: str, variant: object = None) -> str:
        """Return the legal name for ``wanted``: as similar as possible, and the same for the same arguments.

        ``variant`` distinguishes things that have the same name.
        """
        if variant is None and wanted in self._legal:
            return wanted
        if (wanted, variant) not in self._assigned:
            self._assigned[wanted, variant] = self._unused_name(wanted)
        return self._assigned[wanted, variant]

    def _unused_name(self, wanted: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_\-]", "-", wanted).lstrip("-")[:MAX_NAME_CHARACTERS] or "unnamed"
        name, number = base, self._numbers.get(base, 1)
        while name in self._used:
            number += 1
            suffix = f"-{number}"
            name = base[: MAX_NAME_CHARACTERS - len(suffix)] + suffix
        self._numbers[base] = number
        self._used.add(name)
        return name


def slug_of(wanted: str) -> str:
    """Return the slug most similar to a text; empty if no character of it is legal."""
    if SLUG.match(wanted):
        return wanted
    return re.sub(r"[^A-Za-z0-9_.\-]", "-", wanted).lstrip("-.")[:MAX_NAME_CHARACTERS].rstrip("-.")
