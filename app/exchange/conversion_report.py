"""The parts that are carried between a definition and a machine of XState, and those that are not."""

from typing import Any

from msgspec import Struct

KEY = "server-flow"
"""The member of XState's ``meta`` that holds what a flow says and XState does not."""
CEL = "cel"
"""The type of XState guard that a guard of a flow becomes; its ``params`` have the ``expression``."""


class Unconverted(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One thing that the other side does not do. ``pointer`` is a JSON pointer (RFC 6901) into what was
    read. ``kept``: it is in what was made, as data that nothing acts on, or under another name; otherwise
    it is lost."""

    pointer: str
    reason: str
    kept: bool = False


class Exported(Struct, frozen=True):
    """A machine as ``createMachine`` of XState takes it, as JSON."""

    machine: dict[str, Any]
    not_carried: list[Unconverted]


class Imported(Struct, frozen=True):
    """A definition as authors write it. It is not checked yet."""

    flow: dict[str, Any]
    not_carried: list[Unconverted]


class ConversionReport:
    """Collects what is not carried; the same twice is one."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Unconverted] = {}

    def lost(self, pointer: str, reason: str) -> None:
        """Something that is not in what was made."""
        self._found.setdefault((pointer, reason), Unconverted(pointer, reason))

    def kept(self, pointer: str, reason: str) -> None:
        """Something that is in what was made, and not as it was."""
        self._found.setdefault((pointer, reason), Unconverted(pointer, reason, kept=True))

    @property
    def all(self) -> list[Unconverted]:
        """In the order in which they were found."""
        return list(self._found.values())
