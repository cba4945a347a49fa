"""The times of the attempts to deliver an event, after the schedule of Standard Webhooks."""

from collections.abc import Callable

DELAYS_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""The mean delays before the second and each later attempt: 75 hours and 35 minutes together."""
MAX_ATTEMPTS = len(DELAYS_SECONDS) + 1
MAX_RETRY_AFTER_SECONDS = 86_400.0
SPREAD = 0.1
"""The largest part by which a wait that a receiver asks for is exceeded, so that not all return at once."""


def next_delay(failures: int, retry_after: float | None, random: Callable[[], float]) -> float | None:
    """Return the seconds until the next attempt, None if the last one has failed.

    The jitter is full: the delay is between 0 and twice the one of the schedule, which is its mean.

    Args:
        failures: The number of failed attempts, at least 1.
        retry_after: The seconds that the receiver asks to wait for; None if it does not. Bounded to a day.
        random: Returns a number from 0 to 1.
    """
    if failures >= MAX_ATTEMPTS:
        return None
    delay = 2 * DELAYS_SECONDS[failures - 1] * random()
    if retry_after is None:
        return delay
    asked = min(max(retry_after, 0.0), MAX_RETRY_AFTER_SECONDS)
    return max(delay, asked * (1 + SPREAD * random()))
