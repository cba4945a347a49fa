"""The delays between attempts."""

import random

import pytest

from app.services.integrations.retry_schedule import DELAYS_SECONDS, MAX_ATTEMPTS, next_delay


def test_the_mean_delays_are_those_of_standard_webhooks() -> None:
    delays = [next_delay(failures, None, lambda: 0.5) for failures in range(1, MAX_ATTEMPTS)]
    assert delays == list(DELAYS_SECONDS)
    assert sum(DELAYS_SECONDS) == 75 * 3600 + 35 * 60 + 5


def test_the_last_failure_has_no_other_attempt() -> None:
    assert MAX_ATTEMPTS == 10
    assert next_delay(MAX_ATTEMPTS, None, lambda: 0.5) is None
    assert next_delay(MAX_ATTEMPTS, 10, lambda: 0.5) is None


def test_the_jitter_is_full() -> None:
    drawn = [next_delay(2, None, random.Random(n).random) or 0.0 for n in range(1000)]
    assert min(drawn) < 30
    assert max(drawn) > 570
    assert 270 < sum(drawn) / len(drawn) < 330


@pytest.mark.parametrize(
    ("failures", "retry_after", "at_least", "at_most"),
    [
        (1, 60, 60, 66),
        (1, 0, 0, 10),
        (1, -5, 0, 10),
        (9, 60, 0, 172_800),
        (1, 1e9, 86_400, 95_041),
    ],
)
def test_the_receiver_may_ask_for_a_longer_wait(
    failures: int, retry_after: float, at_least: float, at_most: float
) -> None:
    for drawn in (0.0, 0.3, 1.0):
        delay = next_delay(failures, retry_after, lambda drawn=drawn: drawn)  # type: ignore[misc]
        assert delay is not None
        assert at_least <= delay <= at_most
