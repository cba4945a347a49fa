"""The Clock port on the machine's clock."""

from datetime import UTC, datetime


class SystemClock:
    """UTC in whole milliseconds, the resolution in which MongoDB stores times."""

    def now(self) -> datetime:
        """Return the current time."""
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)
