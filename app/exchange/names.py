"""Names that are legal in a flow, made of any others."""

import re
from collections.abc import Iterable

from app.flow.lint.spelling import NAME, SLUG

MAX_NAME = 64


class Names:
    """Names of steps, or of transitions, no two the same. Those of ``given`` that are legal stay as they
    are."""

    def __init__(self, given: Iterable[str]) -> None:
        self._taken = {name for name in given if NAME.match(name)}
        self._legal = frozenset(self._taken)
        self._made: dict[tuple[str, object], str] = {}
        self._numbers: dict[str, int] = {}

    def of(self, wanted: str, variant: object = None) -> str:
        """The name for one that was given, or (``variant``) for another that is called the same: always the
        same one, as like as can be."""
        if variant is None and wanted in self._legal:
            return wanted
        if (wanted, variant) not in self._made:
            self._made[wanted, variant] = self._free(wanted)
        return self._made[wanted, variant]

    def _free(self, wanted: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_\-]", "-", wanted).lstrip("-")[:MAX_NAME] or "unnamed"
        name, number = base, self._numbers.get(base, 1)
        while name in self._taken:
            number += 1
            suffix = f"-{number}"
            name = base[: MAX_NAME - len(suffix)] + suffix
        self._numbers[base] = number
        self._taken.add(name)
        return name


def slug_of(wanted: str) -> str:
    """The slug that is most like a text; empty when nothing of it can be used."""
    if SLUG.match(wanted):
        return wanted
    return re.sub(r"[^A-Za-z0-9_.\-]", "-", wanted).lstrip("-.")[:MAX_NAME].rstrip("-.")
