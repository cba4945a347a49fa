"""The header Retry-After: seconds, or a date."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_SECONDS = 86_400.0
_SECONDS = re.compile(r"([0-9]{1,15})(?:\.[0-9]{1,15})?\Z")


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Return the seconds to wait, 0 to a day; None if there is no such header, or it cannot be read."""
    if text is None or len(text) > 64:
        return None
    text = text.strip()
    if _SECONDS.match(text):
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    try:
        at = parsedate_to_datetime(text)
        if at.tzinfo is None:  # "-0000", and the form of asctime: the time is UTC
            at = at.replace(tzinfo=UTC)
        seconds = (at - now).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
