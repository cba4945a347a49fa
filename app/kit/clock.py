"""The Clock port on the machine's clock."""

from datetime import UTC, datetime


class SystemClock:
    """UTC in whole milliseconds, as MongoDB keeps times."""

    def now(self) -> datetime:
        """The time."""
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)
