"""The document of a damaged state that was set aside."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class DamagedStateDocument(Document, CamelModel):
    """A state document that could not be read, as it was found before it was recovered."""

    id: PydanticObjectId | None = Field(default=None, alias="_id")
    state: str
    found_at: datetime
    document: dict[str, Any]

    class Settings:
        """The collection and its indexes."""

        name = "flow_states_damaged"
        indexes: ClassVar = [*INDEXES["flow_states_damaged"]]
