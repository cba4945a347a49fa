"""The document of a delivery lane."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel


class DeliveryLaneDocument(Document, CamelModel):
    """The position of an integration in the changes of a state; ``_id`` is ``<alias>;<job>;<state>``.

    ``newest``, ``cursor`` and ``end`` are positions as ``<epoch>:<revision>``. A lane with work has ``due``:
    ``<alias>;<milliseconds>;<_id>``, the time at which it has work or at which the claim of its ``holder``
    ends. A state that waits at a step of the integration has ``waits``: ``<alias>;<milliseconds>;<state>``.
    A lane with failed ``attempts``, as JSON, has its ``_id`` also in ``failing``. Where the history has a
    retention, an idle lane has ``expiresAt``, at which MongoDB removes it.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    state_key: str
    since: datetime
    newest: str
    cursor: str | None = None
    end: str | None = None
    letter: str | None = None
    due: str | None = None
    holder: str | None = None
    waits: str | None = None
    failing: str | None = None
    failures: int | None = None
    attempts: str | None = None
    expires_at: datetime | None = None

    class Settings:
        """The collection and its indexes."""

        name = "flow_delivery_lanes"
        indexes: ClassVar = [*INDEXES["flow_delivery_lanes"]]
