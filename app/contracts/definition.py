"""A definition: one published version of a flow. It never changes once published."""

from collections.abc import Collection
from datetime import datetime
from typing import Literal

from msgspec import Struct

from app.contracts.flow import Flow

ExpectedVersion = int | Collection[int] | None
"""The version, or the versions, that must be the newest for a change to be made; None: any, or none."""
ANY_VERSION = range(1, 2**53)
"""Expected of a flow that must exist."""


def is_expected(version: int, expected: ExpectedVersion) -> bool:
    """Return whether the newest version is one that the caller expects."""
    return expected is None or version == expected or (not isinstance(expected, int) and version in expected)


class FlowDefinition(Struct, frozen=True, gc=False):
    """``version`` counts from 1 within the flow. ``source`` says where the version came from:
    ``api``, ``python`` or ``file:<name>``. A ``retired`` version marks the end of a flow:
    nothing starts on it."""

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
    """One fault of a definition. ``pointer`` is a JSON pointer (RFC 6901) into it, ``advice`` what to do
    about it. A definition with an ``error`` is not published."""

    pointer: str
    message: str
    severity: Literal["error", "warning"] = "error"
    advice: str = ""
