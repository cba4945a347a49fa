"""The port of sources of definitions beside the store."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from msgspec import Struct


class FoundDefinition(Struct, frozen=True):
    """A definition in a source.

    ``place`` is its location for people; ``source`` is the origin in the version made of it. ``raw`` has
    values of JSON; it is None if they cannot be read, for the reason ``fault``, which begins with the place.
    Definitions with the same ``digest`` are the same.
    """

    place: str
    source: str
    digest: str
    raw: Any = None
    fault: str = ""


class DefinitionSource(Protocol):
    """A source of definitions other than the store.

    A fault in a local source (files of this machine) stops the start, and another machine may have other
    definitions at the same place. A remote source is the same for all machines, and may be unavailable.
    """

    @property
    def name(self) -> str:
        """The name, as in ``FLOW_DEFINITIONS`` without secrets."""

    @property
    def local(self) -> bool:
        """True for sources on this machine (files)."""

    async def load(self) -> list[FoundDefinition]:
        """Return every definition of the source, in its order.

        Raises:
            DefinitionSourceError: The source is unavailable or does not exist.
        """

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield each time that definitions may have changed."""

    def produced(self, source: str) -> bool:
        """Return whether a version with the origin ``source`` may be from here."""
