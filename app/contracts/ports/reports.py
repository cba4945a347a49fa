"""The port of the reports on inconsistent states."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol


class CorruptionReports(Protocol):
    """Reports of states that are inconsistent with their history or their definition."""

    async def report(self, key: str, reason: str, now: datetime) -> bool:
        """Store a finding. Returns False if the state is reported already."""

    async def withdraw(self, keys: Sequence[str]) -> None:
        """Remove the findings of consistent states."""

    async def list_reasons(self, limit: int) -> dict[str, str]:
        """Return the reported states with the reasons, oldest first."""
