"""The document of an inconsistent state's report."""

from datetime import datetime

from beanie import Document
from pydantic import Field

from models.stored_definition import CamelModel


class CorruptionDocument(Document, CamelModel):
    """A state that is inconsistent with its history or its definition; ``_id`` is ``<flow>:<user>``."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    reason: str
    found_at: datetime

    class Settings:
        """The collection and its indexes."""

        name = "flow_corruptions"
