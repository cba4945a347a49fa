"""The fixture that fails a test on warnings and errors that it does not expect."""

import asyncio
import gc
import logging

import pytest
import structlog

from config.log import configure_own_logs
from tests.support.log_events import LogEvents, expected_events, problems

log = structlog.get_logger("tests")


@pytest.mark.expected_logs("lost", "failed")
def test_warnings_and_errors_are_recorded_with_their_fields(log_events: LogEvents) -> None:
    log.info("started")
    log.warning("lost", key=1)
    log.error("failed")
    levels = [(entry["event"], entry["log_level"]) for entry in log_events.reported()]
    assert levels == [("lost", "warning"), ("failed", "error")]
    assert log_events.named("lost")[0]["key"] == 1
    assert len(log_events.named("started")) == 1


@pytest.mark.expected_logs("from a library")
def test_the_logs_of_libraries_count(log_events: LogEvents) -> None:
    logging.getLogger("a.library").warning("from a %s", "library")
    assert log_events.reported()[0]["logger"] == "a.library"


@pytest.mark.expected_logs("Task exception was never retrieved")
async def test_a_task_that_failed_unseen_counts(log_events: LogEvents) -> None:
    async def fail() -> None:
        raise KeyError

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect(0)
    assert isinstance(log_events.reported()[0]["exception"], KeyError)


@pytest.mark.expected_logs("after the service configured its logs")
def test_it_records_after_the_service_configured_its_logs(log_events: LogEvents) -> None:
    configure_own_logs("info", "json")
    log.warning("after the service configured its logs")
    assert len(log_events.reported()) == 1


@pytest.mark.expected_logs("required")
@pytest.mark.expected_logs("allowed", optional=True)
def test_what_a_test_expects(request: pytest.FixtureRequest) -> None:
    log.error("required")
    assert expected_events(request.node) == ({"required"}, {"allowed"})


def test_an_unexpected_event_and_a_missing_one_are_problems() -> None:
    events = LogEvents()
    events.entries = [
        {"event": "started", "log_level": "info"},
        {"event": "lost", "log_level": "warning", "key": 1},
        {"event": "allowed", "log_level": "error"},
    ]
    assert problems(events, {"restored"}, {"allowed", "never"}) == [
        "unexpected warning: 'lost' {'key': 1}",
        "never logged: 'restored'",
    ]
    assert problems(events, {"lost"}, {"allowed"}) == []
