"""The JSON shapes of definitions."""

from msgspec import Struct

from app.contracts.definition import VersionInfo
from app.contracts.wire.times import Time, iso


class DefinitionSummary(Struct, frozen=True, rename="camel"):
    """One version of a definition without its steps."""

    flow: str
    version: int
    published_at: Time
    published_by: str
    source: str
    retired: bool


def definition_summary(version: VersionInfo) -> DefinitionSummary:
    """Return the summary of a version."""
    return DefinitionSummary(
        flow=version.flow_id,
        version=version.version,
        published_at=iso(version.published_at),
        published_by=version.published_by,
        source=version.source,
        retired=version.retired,
    )
