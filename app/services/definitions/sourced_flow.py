"""A flow that a source offers, and the outcome of offering it."""

from msgspec import Struct

from app.contracts.definition import FlowDefinition
from app.contracts.flow import Flow
from app.flow.versions.precedence import is_same_flow


class SourcedFlow(Struct, frozen=True):
    """A flow of a source.

    Attributes:
        flow: The flow.
        place: The place where it was read, for people.
        source: The source that its version is to name.
        overrides: The source comes before the database.
        creates: The flow is published even if the database does not have it.
    """

    flow: Flow
    place: str
    source: str
    overrides: bool = False
    creates: bool = True


class SyncResult(Struct, frozen=True):
    """The outcome for a flow that a source offered.

    Attributes:
        version: The newest version now, None if the flow must be offered again.
        published: The flow was published as this version.
        outranked_by: The version of a caller that takes precedence, if any.
    """

    version: int | None
    published: bool = False
    outranked_by: FlowDefinition | None = None

    def hides(self, offered: SourcedFlow) -> bool:
        """Return true if a caller's version takes precedence over a flow that differs from it."""
        newest = self.outranked_by
        return newest is not None and (newest.retired or not is_same_flow(newest.flow, offered.flow))
