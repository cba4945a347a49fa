"""The document of a lease."""

from datetime import datetime

from beanie import Document
from pydantic import Field

from models.stored_definition import CamelModel


class LeaseDocument(Document, CamelModel):
    """The holder of a job that only one worker should do, and until when; ``_id`` is the job.

    ``fence`` counts the holders.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    holder: str
    fence: int
    until: datetime

    class Settings:
        """The collection and its indexes."""

        name = "flow_leases"
