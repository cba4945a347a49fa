"""The document of the data keys of an owner."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class StoredDataKey(CamelModel):
    """A data key, wrapped."""

    id: str
    wrapped: bytes
    wrapped_by: str
    commitment: bytes
    created_at: datetime


class StoredDestroyedKey(CamelModel):
    """The id of a data key that an erasure destroyed."""

    id: str
    at: datetime
    by: str


class DataKeysDocument(Document, CamelModel):
    """The data keys of a user or of the service; ``_id`` is the owner.

    ``wrapped_by`` has the ids of the keys that wrap the current and the retired ones, separated by commas.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    revision: int
    current: StoredDataKey | None = None
    retired: list[StoredDataKey] = []
    destroyed: list[StoredDestroyedKey] = []
    wrapped_by: str | None = None

    class Settings:
        """The collection and its indexes."""

        name = "flow_data_keys"
        indexes: ClassVar = [*INDEXES["flow_data_keys"]]
