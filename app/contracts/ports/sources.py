"""The port of sources of definitions beside the store."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from msgspec import Struct

from app.contracts.errors import DefinitionSourceError

__all__ = ["DefinitionSource", "DefinitionSourceError", "FoundDefinition"]


class FoundDefinition(Struct, frozen=True):
    """A definition as a source has it. ``place`` says where, for a person; ``source`` is what the version
    made of it names. ``raw`` has values of JSON; it is None when they cannot be read, for the reason
    ``fault``, which begins with the place. What has the same ``digest`` is the same."""

    place: str
    source: str
    digest: str
    raw: Any = None
    fault: str = ""


class DefinitionSource(Protocol):
    """A place other than the store where definitions come from.

    ``local``: it is of this machine. A fault in it stops the start, and another machine may have other
    definitions at the same place. What is not local looks the same from everywhere, and may be away.
    """

    @property
    def name(self) -> str:
        """As in ``FLOW_DEFINITIONS``, without what may be secret."""

    @property
    def local(self) -> bool:
        """See above."""

    async def load(self) -> list[FoundDefinition]:
        """Every definition there, in its order. Raises DefinitionSourceError when nothing can be said of
        what is there: it is away, or not there at all."""

    def changes(self) -> AsyncGenerator[None, None]:
        """Goes on each time that there may be something new."""

    def produced(self, source: str) -> bool:
        """True if a version that names ``source`` may have come from here."""
