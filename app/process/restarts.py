"""Back-off between restarts of a process that ended by itself."""

from collections.abc import Sequence

STABLE_SECONDS = 10.0
"""After this lifetime a process counts as healthy: its next death is the first in a row."""

MAX_DEATHS = 5
DELAYS_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Delay before a restart, by the number of deaths in a row; the last one is repeated."""


class Deaths:
    """Counts the deaths of one process in a row."""

    def __init__(self, limit: int = MAX_DEATHS, delays: Sequence[float] = DELAYS_SECONDS) -> None:
        self._limit = limit
        self._delays = delays
        self.in_a_row = 0

    def record(self, lived_seconds: float) -> None:
        """Count a death, after the process has run for ``lived_seconds``."""
        self.in_a_row = 1 if lived_seconds >= STABLE_SECONDS else self.in_a_row + 1

    @property
    def too_many(self) -> bool:
        """True if another restart would not help."""
        return self.in_a_row >= self._limit

    @property
    def delay_seconds(self) -> float:
        """Delay before the next restart."""
        return self._delays[min(max(self.in_a_row, 1), len(self._delays)) - 1]
