"""The port of the statistics."""

from datetime import datetime
from typing import Protocol

from app.contracts.statistics import FlowStatistics


class StatisticsSource(Protocol):
    """Statistics over states and history."""

    async def statistics(self, now: datetime) -> FlowStatistics:
        """Return the statistics at ``now``."""
