"""Checks of definitions: who publishes waits for no stranger, and strangers have limits."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.contracts.callers import Caller, trusted_caller
from app.contracts.definition import Finding
from app.contracts.errors import CheckTimeoutError, RateLimitedError
from app.flow.conditions.guards import fault_of_guard
from app.flow.conditions.payload_schemas import faults_of_schema
from app.flow.validation import check_flow
from app.kit.deadline import DeadlineExceededError, deadline
from app.services.definitions import checks as definition_checks
from app.services.definitions.checks import MAX_CHECKS, MAX_CHECKS_OF_USER, DefinitionChecks
from tests.support.rig import rig
from tests.support.samples import flow_dict


@contextmanager
def slow_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let checks that are only requested wait for an event."""
    go_on = threading.Event()

    def check(raw: object) -> list[Finding]:
        go_on.wait(60)
        return check_flow(raw)

    monkeypatch.setattr(definition_checks, "check_flow", check)
    try:
        yield go_on
    finally:
        go_on.set()


async def test_who_publishes_does_not_wait_for_those_who_only_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig()
    with slow_checks(monkeypatch) as go_on:
        requested = [
            asyncio.ensure_future(r.service.definitions.check(flow_dict(), Caller(f"user-{n}")))
            for n in range(MAX_CHECKS)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            assert await r.service.create_flow(flow_dict("other")) == "other"
        assert not any(each.done() for each in requested)
        go_on.set()
        assert await asyncio.gather(*requested) == [[]] * MAX_CHECKS


async def test_one_user_does_not_take_the_places_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = DefinitionChecks()
    with slow_checks(monkeypatch) as go_on:
        requested = [asyncio.ensure_future(checks.check(flow_dict(), Caller("eve"))) for _ in range(8)]
        await asyncio.sleep(0)
        refused = [
            each for each in requested if each.done() and isinstance(each.exception(), RateLimitedError)
        ]
        assert len(refused) == 8 - MAX_CHECKS_OF_USER
        other = asyncio.ensure_future(checks.check(flow_dict(), Caller("ada")))
        await asyncio.sleep(0)
        assert not other.done()
        for each in requested:  # a caller that disconnects occupies its place until its check has ended
            each.cancel()
        await asyncio.sleep(0)
        with pytest.raises(RateLimitedError):
            await checks.check(flow_dict(), Caller("eve"))
        go_on.set()
        assert await other == []
    assert await checks.check(flow_dict(), Caller("eve")) == []


async def test_a_check_has_a_deadline() -> None:
    checks = DefinitionChecks(seconds=0.0)
    with pytest.raises(CheckTimeoutError) as ended:
        await checks.check(flow_dict(), Caller("eve"))
    assert (ended.value.code, ended.value.status, ended.value.retryable) == ("CHECK_TIMEOUT", 503, True)
    flow, _ = await checks.parse_for_publishing(flow_dict())
    assert flow.flow == "loop", "who publishes has none"


async def test_a_user_whose_checks_take_long_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition_checks, "MAX_SECONDS_OF_USER", 0.0)
    checks = DefinitionChecks()
    monkeypatch.setattr(definition_checks, "WINDOW_SECONDS", 1000.0)
    assert await checks.check(flow_dict(), Caller("eve")) == []
    monkeypatch.setattr(definition_checks, "MAX_SECONDS_OF_USER", 1e-9)
    with pytest.raises(RateLimitedError, match="used up their processor time"):
        await checks.check(flow_dict(), Caller("eve"))
    assert await checks.check(flow_dict(), Caller("ada")) == []
    assert await checks.check(flow_dict(), trusted_caller("python")) == []


@pytest.mark.parametrize(
    "part",
    [
        lambda: check_flow(flow_dict()),
        lambda: fault_of_guard("payload.a == 1"),
        lambda: faults_of_schema({"type": "object"}),
    ],
)
def test_every_slow_part_requires_time(part: Any) -> None:
    with pytest.raises(DeadlineExceededError), deadline(-1.0):
        part()
    with deadline(60.0):
        part()
    part()
