"""A definition: one published version of a flow. It never changes once published."""

from collections.abc import Collection
from datetime import datetime
from typing import Literal

from msgspec import Struct

from app.contracts.flow import Flow

ExpectedVersion = int | Collection[int] | None
"""The newest version, or versions, that a change requires. ``None`` requires nothing."""
ANY_VERSION = range(1, 2**53)
"""Expected by changes that only require the flow to exist."""


def is_expected(version: int, expected: ExpectedVersion) -> bool:
    """Return whether the newest version is one that the caller expects."""
    return expected is None or version == expected or (not isinstance(expected, int) and version in expected)


class FlowDefinition(Struct, frozen=True, gc=False):
    """A published version of a flow.

    ``version`` counts from 1 within the flow. ``source`` is the origin of the version: ``api``, ``python`` or
    ``file:<name>``. A ``retired`` version marks the end of a flow: no state starts on it.
    """

    flow: Flow
    version: int
    published_at: datetime
    published_by: str
    source: str
    retired: bool = False


class VersionInfo(Struct, frozen=True):
    """A published version without the flow itself."""

    flow_id: str
    version: int
    published_at: datetime
    published_by: str
    source: str
    retired: bool


class Finding(Struct, frozen=True, omit_defaults=True):
    """A problem of a definition.

    ``pointer`` is a JSON pointer (RFC 6901) into the definition, ``advice`` says how to resolve the problem.
    A definition with an ``error`` is not published.
    """

    pointer: str
    message: str
    severity: Literal["error", "warning"] = "error"
    advice: str = ""
