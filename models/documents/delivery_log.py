"""The document of a delivery that is done."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class DeliveryLogDocument(Document, CamelModel):
    """An entry of a log with the members of LoggedDelivery; ``_id`` is ``<alias>;<sequence>``.

    An entry whose data was removed has ``delivered_at`` alone. The document ``<alias>`` has the ``first``
    number that is left.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    first: int | None = None
    event_id: str | None = None
    state_key: str | None = None
    epoch: str | None = None
    revision: int | None = None
    type: str | None = None
    at: datetime | None = None
    delivered_at: datetime | None = None
    transports: list[str] | None = None
    attempts: int | None = None
    status: int | None = None
    replay: bool | None = None
    answered: str | None = None
    refused: str | None = None

    class Settings:
        """The collection and its indexes."""

        name = "flow_delivery_log"
        indexes: ClassVar = [*INDEXES["flow_delivery_log"]]
