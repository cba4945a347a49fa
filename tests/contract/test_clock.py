"""The contract of Clock."""

from datetime import UTC

import pytest

from app.contracts.ports.clock import Clock
from app.kit.clock import SystemClock
from tests.support.fakes import FakeClock

PORTS = (Clock,)


@pytest.fixture(params=["fake", "system"])
def clock(request: pytest.FixtureRequest) -> Clock:
    return FakeClock() if request.param == "fake" else SystemClock()


def test_time_is_utc_in_whole_milliseconds(clock: Clock) -> None:
    now = clock.now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert clock.now() >= now
