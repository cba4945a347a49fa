"""The documents of registered integrations and of their health."""

from datetime import datetime
from typing import Any

from beanie import Document
from pydantic import Field

from models.stored_definition import CamelModel


class IntegrationDocument(Document, CamelModel):
    """A registered integration; ``_id`` is its alias."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    url: str | None
    events: list[str] | None
    flows: list[str] | None
    steps: list[str] | None
    stream: bool
    rate: int | None
    concurrency: int
    thin: bool
    fields_: list[str] | None = Field(alias="fields")
    enabled: bool
    disabled_reason: str | None = None
    disabled_by: str | None = None
    secrets: list[dict[str, Any]]
    backlog: dict[str, Any] | None = None
    heartbeat: dict[str, Any] | None = None
    waiting_listed: bool
    registered_at: datetime
    updated_at: datetime
    revision: int

    class Settings:
        """The collection and its indexes."""

        name = "flow_integrations"


class IntegrationHealthDocument(Document, CamelModel):
    """The breaker, the counts and the rate window of an integration; ``_id`` is its alias."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    breaker: str
    failures: int
    failing: list[str] = []
    openings: int
    next_probe_at: datetime | None = None
    allowed: int
    reason: str | None = None
    delivered: int
    failed: int
    internal: int
    window: int
    used: int
    revision: int

    class Settings:
        """The collection and its indexes."""

        name = "flow_integration_health"
