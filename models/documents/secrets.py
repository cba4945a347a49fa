"""The document of a secret."""

from datetime import datetime

from beanie import Document
from pydantic import Field

from models.stored_definition import CamelModel


class SecretDocument(Document, CamelModel):
    """A secret that all workers share, in base64; ``_id`` is its purpose.

    It is created once. After somebody removed it by hand, the next start of all workers creates a new one.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    value: str
    created_at: datetime

    class Settings:
        """The collection and its indexes."""

        name = "flow_secrets"
