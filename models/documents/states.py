"""The document of a state."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from pydantic import Field

from app.contracts.state import FlowState
from models.documents.declared_fields import stored_model
from models.indexes import INDEXES

_StoredState = stored_model("_StoredState", FlowState)


class FlowStateDocument(Document, _StoredState):  # type: ignore[misc, valid-type]
    """One user's state in one flow, with the stored members of FlowState; ``_id`` is its key.

    The commit point: its fields and the record in its ``outbox`` change together or not at all. ``head`` is
    the hash of the last record; ``payload_revision`` and ``payload_since`` name the record with the payload;
    ``recent`` has the last requests; ``listed``, ``waits_for`` and ``terms`` are those of
    ``models.listing``, ``key_check`` that of ``models.sealed_fields``.

    A state that ended stays, absent for readers, because its history continues from there. It is removed
    when its history may be removed (FLOW_HISTORY_RETENTION).
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    listed: str | None = None
    waits_for: list[str] | None = None
    terms: list[str] | None = None
    head: str | None = None
    payload_revision: int | None = None
    payload_since: datetime | None = None
    outbox: list[dict[str, Any]] = Field(default_factory=list)
    key_check: bytes | None = None
    recent: list[dict[str, Any]] = Field(default_factory=list)

    class Settings:
        """The collection and its indexes."""

        name = "flow_states"
        indexes: ClassVar = [*INDEXES["flow_states"]]
