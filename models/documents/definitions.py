"""The document of a published version of a flow."""

from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import StoredDefinition


class FlowDefinitionDocument(Document, StoredDefinition):
    """A published version of a flow; ``_id`` is ``<flow>:<version>``."""

    id: str = Field(alias="_id")  # type: ignore[assignment]

    class Settings:
        """The collection and its indexes."""

        name = "flow_definitions"
        indexes: ClassVar = [*INDEXES["flow_definitions"]]
