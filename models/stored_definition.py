"""The stored shape of a definition, without Beanie."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.kit.casing import camel_case


class CamelModel(BaseModel):
    """A document whose fields are in camelCase in MongoDB."""

    model_config = ConfigDict(alias_generator=camel_case, populate_by_name=True, extra="forbid")


class StoredDefinition(CamelModel):
    """One published version of a flow, as JSON text; ``_id`` is ``<flow>:<version>``. It never changes.

    It is separate from its document, which needs Beanie and a process that has prepared the database.
    """

    id: str = Field(alias="_id")
    flow_id: str
    version: int
    definition: str
    created_at: datetime
    created_by: str
    source: str
    retired: bool = False
