"""The document of an audit entry."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class AuditDocument(Document, CamelModel):
    """An entry of the audit log; ``_id`` is its hash. It is never changed, and has no end of life."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    sequence: int
    at: datetime
    action: str
    target: str
    actor: str
    client: str
    subject: str | None = None
    address: str | None = None
    request_id: str | None = None
    before: str | None = None
    after: str | None = None
    details: dict[str, str | int | bool]
    outcome: str
    of: int | None = None
    error: str | None = None
    previous_hash: str

    class Settings:
        """The collection and its indexes."""

        name = "flow_audit"
        indexes: ClassVar = [*INDEXES["flow_audit"]]
