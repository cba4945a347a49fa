"""The port of the definition store."""

from typing import Protocol

from app.contracts.definition import FlowDefinition, VersionInfo
from app.contracts.pages import Page


class DefinitionStore(Protocol):
    """Published versions of flows."""

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        """The newest version, also a retired one."""

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        """One version."""

    async def list_flow_ids(self) -> list[str]:
        """The slugs of all flows that were ever published."""

    async def list_latest(self, after_flow: str | None, limit: int) -> Page[FlowDefinition]:
        """The newest version of every flow that is not retired, by slug, after ``after_flow``."""

    async def versions(
        self, flow_id: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionInfo]:
        """Versions, newest first, those before the version ``before``, including unreadable ones."""

    async def publish(self, definition: FlowDefinition) -> bool:
        """Keep a new version. False when that version exists already."""
