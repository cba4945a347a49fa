"""Comparison of this machine's clock with those of MongoDB and Redis, which all workers share."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from app.contracts.errors import BusUnavailableError, FlowError
from app.contracts.ports.clock import Clock
from config.log import describe

log = structlog.get_logger("clock")

ServerTime = Callable[[], Awaitable[datetime]]
"""UTC by the clock of a server. Raises StoreUnavailableError or BusUnavailableError."""

CHECK_EVERY_SECONDS = 60.0
MAX_OFFSET = timedelta(seconds=5)
"""A clock with a larger offset is not trusted with decisions by time alone."""
MIN_CORRECTION = timedelta(milliseconds=100)
"""A smaller offset, plus half of the time of the answer, cannot be distinguished from an exact clock."""
MAX_ANSWER_SECONDS = 2.0
"""A slower answer is too inexact."""

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that is never set; on Linux it continues while the machine sleeps."""


def steady_seconds() -> float:
    """Return seconds by a clock that is never set."""
    return time.clock_gettime(_STEADY)


class CheckedClock:
    """The Clock port: this machine's clock, corrected by the last check.

    Between two checks time advances steadily, also when the clock of the machine is set.
    """

    def __init__(self, machine: Clock, steady: Callable[[], float] = steady_seconds) -> None:
        self.machine = machine
        self.steady = steady
        self.trusted = True
        self._base: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """Return UTC in whole milliseconds."""
        if self._base is None:
            return self.machine.now()
        at, since = self._base
        return at + timedelta(milliseconds=int((self.steady() - since) * 1000))

    def correct(self, correction: timedelta, *, trusted: bool) -> None:
        """Continue from the machine's clock plus ``correction``."""
        whole = timedelta(milliseconds=round(correction / timedelta(milliseconds=1)))
        self._base = self.machine.now() + whole, self.steady()
        self.trusted = trusted

    def is_trusted(self) -> bool:
        """Return true if timers and expiry may be decided by this clock."""
        return self.trusted


class TimeCheck:
    """Checks a clock once a minute: one command to the database, one to Redis."""

    def __init__(self, clock: CheckedClock, database: ServerTime, redis: ServerTime) -> None:
        self._clock = clock
        self._database = database
        self._redis = redis
        self._redis_differs = False

    async def run(self) -> None:
        """Check periodically until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Compare the clocks once; without an answer of the database nothing changes.

        Time is the middle one of the three clocks; without Redis, that of the database. The worker is trusted
        if its own clock agrees with the database's, by which MongoDB removes what has expired.
        """
        database, redis = await asyncio.gather(
            self._offset_of("MongoDB", self._database), self._offset_of("Redis", self._redis)
        )
        if database is None:
            return
        middle = database if redis is None else sorted((timedelta(), database, redis))[1]
        trusted = abs(database) <= MAX_OFFSET
        before = self._clock.trusted
        self._clock.correct(middle, trusted=trusted)
        if not trusted:
            log.error(
                "clock offset too large, timers and expiry suspended",
                seconds_ahead_of_mongodb=round(-database.total_seconds(), 1),
                seconds_ahead_of_redis=None if redis is None else round(-redis.total_seconds(), 1),
            )
        elif not before:
            log.info("clock offset acceptable again")
        self._report_redis(database, redis)

    def _report_redis(self, database: timedelta, redis: timedelta | None) -> None:
        differs = redis is not None and abs(redis - database) > MAX_OFFSET
        if differs and not self._redis_differs and redis is not None:
            log.warning(
                "mongodb and redis clocks differ", seconds=round((redis - database).total_seconds(), 1)
            )
        self._redis_differs = differs

    async def _offset_of(self, server: str, server_time: ServerTime) -> timedelta | None:
        """Return the lead of a server's clock, 0 if it is too small to be certain, None without an answer."""
        requested_at, began = self._clock.machine.now(), self._clock.steady()
        try:
            async with asyncio.timeout(MAX_ANSWER_SECONDS):
                answered = await server_time()
        except (FlowError, BusUnavailableError, TimeoutError):
            return None
        except Exception as error:  # noqa: BLE001 - a server without an answer must not stop the check
            log.warning("clock comparison failed", server=server, **describe(error))
            return None
        half = timedelta(seconds=(self._clock.steady() - began) / 2)
        offset = answered - (requested_at + half)
        return offset if abs(offset) > MIN_CORRECTION + half else timedelta()
