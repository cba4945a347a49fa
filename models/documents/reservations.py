"""The document of a reserved entity."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class ReservationDocument(Document, CamelModel):
    """The entity of the state that a request starts; ``_id`` is a digest of the request."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    entity_id: str
    reserved_at: datetime

    class Settings:
        """The collection and its indexes."""

        name = "flow_reservations"
        indexes: ClassVar = [*INDEXES["flow_reservations"]]
