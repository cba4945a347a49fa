"""The breaker of an integration: what opens it, how it probes, and how it recovers."""

from datetime import timedelta

import pytest
from msgspec import UNSET, structs

from app.contracts.deliveries import LaneId
from app.contracts.integration import IntegrationHealth
from app.contracts.state import StateId
from app.services.integrations import breaker
from app.services.integrations.breaker import Outcome, Result
from tests.support.samples import T0

CLOSED = IntegrationHealth(alias="payment")
MIDDLE = 0.5
"""The random number with which a pause has its mean."""


def after(health: IntegrationHealth, *outcomes: Outcome, concurrency: int = 8) -> IntegrationHealth:
    for outcome in outcomes:
        health = breaker.after(health, outcome, T0, concurrency=concurrency, random=lambda: MIDDLE)
    return health


def failures(lanes: str, result: Result = "failure") -> list[Outcome]:
    return [Outcome(result, lane, "the receiver answered 500") for lane in lanes]


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (failures("abab"), "closed"),
        (failures("ababa"), "open"),
        (failures("aaaaaaaaaa"), "closed"),
        (failures("aaaaa", "no_answer"), "open"),
        (failures("aaaa", "no_answer"), "closed"),
        ([*failures("abab"), Outcome("success"), *failures("ab")], "closed"),
        (failures("a", "slow_down"), "ramping"),
        (failures("ab", "slow_down"), "open"),
        ([Outcome("abandoned")], "closed"),
    ],
)
def test_a_breaker_opens_after_failures_of_several_lanes(outcomes: list[Outcome], state: str) -> None:
    assert after(CLOSED, *outcomes).breaker == state


def test_a_success_in_a_closed_breaker_changes_nothing() -> None:
    assert after(CLOSED, Outcome("success")) is CLOSED
    failed = after(CLOSED, *failures("ab"))
    assert (failed.failures, failed.failing, failed.reason) == (2, ("a", "b"), "the receiver answered 500")
    assert after(failed, Outcome("success")) == CLOSED


def test_pauses_double_up_to_ten_minutes() -> None:
    health, pauses = after(CLOSED, *failures("ababa")), []
    for _ in range(9):
        assert health.next_probe_at is not UNSET
        pauses.append((health.next_probe_at - T0).total_seconds())
        assert not breaker.probe_due(health, health.next_probe_at - timedelta(milliseconds=1))
        assert breaker.probe_due(health, health.next_probe_at)
        health = after(breaker.begin_probe(health, T0), *failures("c"))
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_a_pause_has_jitter_and_regards_the_receiver() -> None:
    failed = after(CLOSED, *failures("abab"))
    for random, seconds in ((0.0, 8), (1.0, 12)):
        health = breaker.after(failed, Outcome("failure", "a"), T0, concurrency=8, random=lambda r=random: r)  # type: ignore[misc]
        assert health.next_probe_at == T0 + timedelta(seconds=seconds)
    patient = after(failed, Outcome("slow_down", "a", retry_after=120))
    assert patient.next_probe_at == T0 + timedelta(seconds=120)
    endless = after(failed, Outcome("slow_down", "a", retry_after=1e9))
    assert endless.next_probe_at == T0 + timedelta(seconds=600)


def test_one_probe_at_a_time_and_a_lost_one_is_repeated() -> None:
    opened = after(CLOSED, *failures("ababa"))
    assert breaker.allowance(opened, 8) == 0
    later = T0 + timedelta(seconds=10)
    probing = breaker.begin_probe(opened, later)
    assert breaker.allowance(probing, 8) == 0
    assert not breaker.probe_due(probing, later + timedelta(seconds=29))
    assert breaker.probe_due(probing, later + timedelta(seconds=30))
    abandoned = after(probing, Outcome("abandoned"))
    assert (abandoned.breaker, abandoned.openings) == ("open", 1)


def test_a_success_ramps_up_to_the_concurrency() -> None:
    health = breaker.begin_probe(after(CLOSED, *failures("ababa")), T0)
    allowed = []
    while health.breaker != "closed":
        health = after(health, Outcome("success"))
        allowed.append(breaker.allowance(health, 8))
    assert allowed == [1, 2, 4, 8]
    assert health == CLOSED


def test_a_ramping_breaker_opens_sooner_and_for_longer() -> None:
    ramping = after(breaker.begin_probe(after(CLOSED, *failures("ababa")), T0), *[Outcome("success")] * 3)
    assert ramping.allowed == 4
    once = after(ramping, *failures("c"))
    assert (once.breaker, once.allowed) == ("ramping", 2)
    assert after(ramping, *failures("ccc")).breaker == "ramping", "one lane may be poison"
    again = after(ramping, *failures("cd"))
    assert (again.breaker, again.openings) == ("open", 2)


def test_slowing_down_halves_what_is_allowed() -> None:
    slower = after(CLOSED, Outcome("slow_down", "a"))
    assert breaker.allowance(slower, 8) == 4
    assert breaker.allowance(after(structs.replace(slower, failures=0), Outcome("slow_down", "a")), 8) == 2
    assert breaker.allowance(after(CLOSED, Outcome("slow_down", "a"), concurrency=1), 1) == 1


def test_outcomes_of_what_was_sent_before_the_opening() -> None:
    opened = after(CLOSED, *failures("ababa"))
    late = after(opened, *failures("c"))
    assert (late.breaker, late.next_probe_at, late.openings) == ("open", opened.next_probe_at, 1)
    assert late.failing == ("a", "b", "c")
    assert after(late, *failures("c")) is late
    assert after(opened, Outcome("success")).breaker == "ramping"


def test_a_fingerprint_shows_no_user() -> None:
    lane = LaneId("payment", StateId("checkout", "ada"))
    assert breaker.fingerprint(lane) == breaker.fingerprint(lane)
    assert breaker.fingerprint(lane) != breaker.fingerprint(LaneId("payment", StateId("checkout", "bob")))
    assert len(breaker.fingerprint(lane)) == 12
