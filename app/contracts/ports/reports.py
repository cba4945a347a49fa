"""The port of the reports on inconsistent states."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol


class CorruptionReports(Protocol):
    """States that were found not to agree with their history or their definition."""

    async def report(self, key: str, reason: str, now: datetime) -> bool:
        """Keep a finding; False when it is known."""

    async def withdraw(self, keys: Sequence[str]) -> None:
        """Forget findings of states that are sound."""

    async def list_reasons(self, limit: int) -> dict[str, str]:
        """The states found, oldest finding first, with what was found."""
