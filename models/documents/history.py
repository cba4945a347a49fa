"""The document of a record."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from app.contracts.record import HistoryRecord
from models.documents.declared_fields import stored_model
from models.indexes import INDEXES

_StoredRecord = stored_model("_StoredRecord", HistoryRecord)


class FlowHistoryDocument(Document, _StoredRecord):  # type: ignore[misc, valid-type]
    """A record of one change or refusal, with the members of HistoryRecord.

    ``_id`` is ``<state>:<epoch>:<revision>``, for refusals with an id of their own behind it. The same shape
    waits in a state's ``outbox``. ``named`` has the ids of people but the owner in the record.
    ``expires_at`` is the end of its retention, if history has one.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    state_id: str
    named: list[str] | None = None
    expires_at: datetime | None = None

    class Settings:
        """The collection and its indexes."""

        name = "flow_history"
        indexes: ClassVar = [*INDEXES["flow_history"]]
