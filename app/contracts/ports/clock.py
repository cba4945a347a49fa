"""The port of the clock."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The source of the present time."""

    def now(self) -> datetime:
        """Return the present time: UTC, in whole milliseconds."""
