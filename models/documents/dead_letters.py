"""The document of a dead letter."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class DeadLetterDocument(Document, CamelModel):
    """An event that could not be delivered, with the members of DeadLetter.

    ``_id`` is ``<alias>;<event id>``. ``event`` and ``attempts`` are JSON. The lists are ordered by
    ``place``, ``<alias>;<milliseconds>;<event id>``, and by ``died``, the same with the time first.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    event_id: str
    alias: str
    state_key: str
    flow_id: str
    user_id: str
    entity_id: str | None = None
    epoch: str
    revision: int
    type: str
    at: datetime
    died_at: datetime
    reason: str
    detail: str
    event: str | None = None
    edited_by: str | None = None
    attempts: str
    redelivering: bool
    place: str
    died: str

    class Settings:
        """The collection and its indexes."""

        name = "flow_dead_letters"
        indexes: ClassVar = [*INDEXES["flow_dead_letters"]]
