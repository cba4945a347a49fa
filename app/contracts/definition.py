"""A definition: one published version of a flow. It never changes once published."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from app.contracts.flow import Flow


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
