"""The port of the clock."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """UTC, in whole milliseconds."""
