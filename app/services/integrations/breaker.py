"""The breaker of an integration: pure functions from its stored health to the next one.

``closed``: deliveries flow. ``open``: none does, and none uses up an attempt, until the next probe.
``probing``: one worker delivers one event. ``ramping``: a few deliveries at a time, twice as many after each
success; a receiver that asks to slow down gets here too.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Literal

from msgspec import UNSET, Struct, structs

from app.contracts.deliveries import LaneId
from app.contracts.integration import IntegrationHealth

OPENS_AFTER = 5
OPENS_AFTER_WHILE_RAMPING = 2
"""Consecutive failures that open a breaker."""
MIN_LANES = 2
"""One lane alone does not open a breaker while the receiver answers: its event may be a poison message."""
MAX_FAILING = 8
FIRST_PAUSE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 600.0
PAUSE_SPREAD = 0.2
PROBE_SECONDS = 30.0
"""The time after which a probe counts as lost, as the worker that made it may have died."""
ABANDONED_SECONDS = 5.0
"""The time after which a probe that was not sent is repeated."""

Result = Literal["success", "failure", "no_answer", "slow_down", "abandoned"]
"""``failure``: the receiver answered with one. ``no_answer``: there was no connection, or no answer in time.
``slow_down``: it is overloaded. ``abandoned``: a probe that was not sent."""


class Outcome(Struct, frozen=True):
    """The outcome of one delivery, as far as the receiver is responsible for it."""

    result: Result
    lane: str = ""
    reason: str = ""
    retry_after: float | None = None


def fingerprint(lane_id: LaneId) -> str:
    """Return a short text for a lane, from which nobody reads a user."""
    return blake2b(lane_id.key.encode(), digest_size=6).hexdigest()


def allowance(health: IntegrationHealth, concurrency: int) -> int:
    """Return the largest number of deliveries at a time, of all workers; 0 while none may begin."""
    if health.breaker == "closed":
        return concurrency
    if health.breaker == "ramping":
        return max(1, min(health.allowed, concurrency))
    return 0


def probe_due(health: IntegrationHealth, now: datetime) -> bool:
    """Return true if a probe may begin: of an open breaker, or after a probe that got lost."""
    if health.breaker not in ("open", "probing"):
        return False
    return health.next_probe_at is UNSET or health.next_probe_at <= now


def begin_probe(health: IntegrationHealth, now: datetime) -> IntegrationHealth:
    """Return the health while a probe is made; the worker that stores it makes the probe."""
    return structs.replace(health, breaker="probing", next_probe_at=now + timedelta(seconds=PROBE_SECONDS))


def after(
    health: IntegrationHealth,
    outcome: Outcome,
    now: datetime,
    *,
    concurrency: int,
    random: Callable[[], float],
) -> IntegrationHealth:
    """Return the health after an outcome; the same object if nothing changes.

    Args:
        health: The health before.
        outcome: The outcome of a delivery.
        now: The present time.
        concurrency: That of the integration.
        random: Returns a number from 0 to 1.
    """
    if outcome.result == "success":
        return _after_success(health, concurrency)
    if outcome.result == "abandoned":
        if health.breaker != "probing":
            return health
        return structs.replace(
            health, breaker="open", next_probe_at=now + timedelta(seconds=ABANDONED_SECONDS)
        )
    failed = _with_failure(health, outcome)
    if health.breaker == "open":  # it was sent before the breaker opened
        return failed if failed.failing != health.failing else health
    if health.breaker == "probing" or _opens(failed, outcome):
        return _opened(failed, outcome, now, random)
    if outcome.result != "slow_down" and health.breaker == "closed":
        return failed
    allowed = max(1, allowance(health, concurrency) // 2)
    return structs.replace(failed, breaker="ramping", allowed=allowed)


def _after_success(health: IntegrationHealth, concurrency: int) -> IntegrationHealth:
    if health.breaker == "closed":
        if not health.failures:
            return health
        return structs.replace(health, failures=0, failing=(), reason=UNSET)
    if health.breaker == "ramping":
        allowed = 2 * max(1, health.allowed)
        if allowed >= concurrency:
            return structs.replace(
                health,
                breaker="closed",
                failures=0,
                failing=(),
                openings=0,
                allowed=0,
                next_probe_at=UNSET,
                reason=UNSET,
            )
    else:
        allowed = 1
    return structs.replace(
        health, breaker="ramping", failures=0, failing=(), allowed=allowed, next_probe_at=UNSET
    )


def _with_failure(health: IntegrationHealth, outcome: Outcome) -> IntegrationHealth:
    failing = health.failing
    if outcome.lane and outcome.lane not in failing:
        failing = (*failing, outcome.lane)[-MAX_FAILING:]
    return structs.replace(health, failures=health.failures + 1, failing=failing, reason=outcome.reason)


def _opens(failed: IntegrationHealth, outcome: Outcome) -> bool:
    limit = OPENS_AFTER_WHILE_RAMPING if failed.breaker == "ramping" else OPENS_AFTER
    several = len(failed.failing) >= MIN_LANES or outcome.result == "no_answer"
    return failed.failures >= limit and several


def _opened(
    failed: IntegrationHealth, outcome: Outcome, now: datetime, random: Callable[[], float]
) -> IntegrationHealth:
    """Open a breaker: for twice the last pause, or as long as the receiver asks for if that is longer."""
    doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(failed.openings, 16)
    pause = min(max(doubled, outcome.retry_after or 0.0), MAX_PAUSE_SECONDS)
    pause *= 1 + PAUSE_SPREAD * (2 * random() - 1)
    return structs.replace(
        failed,
        breaker="open",
        openings=failed.openings + 1,
        allowed=0,
        next_probe_at=now + timedelta(milliseconds=round(pause * 1000)),
    )
