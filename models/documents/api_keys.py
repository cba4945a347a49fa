"""The document of an API key."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class ApiKeyDocument(Document, CamelModel):
    """An API key of an integration; ``_id`` is its public part.

    ``ends_at`` is the earlier of its revocation and its expiry.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    alias: str
    hashed: str
    name: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    ends_at: datetime | None = None

    class Settings:
        """The collection and its indexes."""

        name = "flow_api_keys"
        indexes: ClassVar = [*INDEXES["flow_api_keys"]]
