"""The report of a conversion between a definition and a machine of XState."""

from typing import Any

from msgspec import Struct, field

KEY = "server-flow"
"""The member of XState's ``meta`` with the members of a flow that XState does not have."""
CEL = "cel"
"""The type of XState guard that a flow's guard is converted to; its ``params`` have the ``expression``."""


class Unconverted(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A part of the input that the other side does not support.

    ``pointer`` is a JSON pointer (RFC 6901) into the input. ``converted``: the output contains the part as
    data without effect, or under another name; otherwise it was dropped.
    """

    pointer: str
    reason: str
    converted: bool = field(name="kept", default=False)


class Exported(Struct, frozen=True):
    """A machine as JSON for XState's ``createMachine``."""

    machine: dict[str, Any]
    not_carried: list[Unconverted]


class Imported(Struct, frozen=True):
    """A definition as authors write it, not checked yet."""

    flow: dict[str, Any]
    not_carried: list[Unconverted]


class ConversionReport:
    """Collects the parts that are not supported, each once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Unconverted] = {}

    def dropped(self, pointer: str, reason: str) -> None:
        """Add a part that is missing from the output."""
        self._found.setdefault((pointer, reason), Unconverted(pointer, reason))

    def converted(self, pointer: str, reason: str) -> None:
        """Add a part that is different in the output."""
        self._found.setdefault((pointer, reason), Unconverted(pointer, reason, converted=True))

    @property
    def all(self) -> list[Unconverted]:
        """All parts, in the order in which they were added."""
        return list(self._found.values())
