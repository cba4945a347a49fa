"""The port of the definition store."""

from typing import Protocol

from app.contracts.definition import FlowDefinition, VersionInfo
from app.contracts.pages import Page


class DefinitionStore(Protocol):
    """Published versions of flows."""

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        """Return the newest version, also a retired one."""

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        """Return one version."""

    async def list_flow_ids(self) -> list[str]:
        """Return the slugs of all flows that were ever published."""

    async def list_latest(self, after_flow: str | None, limit: int) -> Page[FlowDefinition]:
        """Return the newest version of every flow that is not retired, by slug, after ``after_flow``."""

    async def versions(
        self, flow_id: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionInfo]:
        """Return the versions before ``before``, newest first, including unreadable ones."""

    async def publish(self, definition: FlowDefinition) -> bool:
        """Store a new version. Returns False if that version exists already."""
