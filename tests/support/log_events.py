"""Log events of the code under test, recorded in this process.

A test fails on every ``warning`` or ``error`` that it does not expect. It names those that it expects::

    @pytest.mark.expected_logs("redis connection lost")             # fails also when it never comes
    @pytest.mark.expected_logs("slow client disconnected", optional=True)   # may come
"""

import logging
from collections.abc import Iterable
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict, WrappedLogger

MARKER = "expected_logs"
REPORTED = ("warning", "error", "critical")
"""Levels that fail a test. ``structlog`` renames ``exception`` and ``warn`` to two of them."""


class LogEvents:
    """Records events in order, each with its ``event``, its ``log_level`` and its fields."""

    def __init__(self) -> None:
        self.entries: list[EventDict] = []

    def named(self, event: str) -> list[EventDict]:
        """Return the entries of one event."""
        return [entry for entry in self.entries if entry["event"] == event]

    def reported(self) -> list[EventDict]:
        """Return the warnings and errors."""
        return [entry for entry in self.entries if entry["log_level"] in REPORTED]


class Recorder(logging.Handler):
    """Records what ``structlog`` and the standard library's loggers emit, for the test that runs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.events = LogEvents()

    def install(self) -> None:
        """Record from now on, also after the code under test has configured its logs."""
        configure = structlog.configure

        def configure_recorded(processors: Iterable[Any] = (), **options: Any) -> None:
            options["cache_logger_on_first_use"] = False  # a cached logger would keep its old processors
            configure(processors=[self.record, *processors], **options)

        structlog.configure = configure_recorded  # type: ignore[assignment]  # the same, but recorded
        self.configure()
        logging.getLogger().addHandler(self)

    def configure(self) -> None:
        """Print events to the captured output of the test."""
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.dev.ConsoleRenderer(colors=False),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
            logger_factory=structlog.PrintLoggerFactory(),
        )

    def record(self, _: WrappedLogger, level: str, event: EventDict) -> EventDict:
        """Record an event of ``structlog``: the first of its processors."""
        self.events.entries.append({**event, "log_level": "error" if level == "exception" else level})
        return event

    def emit(self, record: logging.LogRecord) -> None:
        """Record a warning or an error of the standard library's logging: its first line is the event."""
        event, _, details = record.getMessage().partition("\n")
        fields: EventDict = {"event": event, "details": details, "log_level": record.levelname.lower()}
        if record.exc_info:
            fields["exception"] = record.exc_info[1]
        self.events.entries.append({**fields, "logger": record.name})


def expected_events(node: pytest.Item) -> tuple[set[str], set[str]]:
    """Return the events that the markers of a test require, and those that they allow."""
    required: set[str] = set()
    allowed: set[str] = set()
    for marker in node.iter_markers(MARKER):
        (allowed if marker.kwargs.get("optional") else required).update(marker.args)
    return required, allowed


def problems(events: LogEvents, required: set[str], allowed: set[str]) -> list[str]:
    """Describe unexpected events, and required ones that never came."""
    unexpected = [
        f"unexpected {entry['log_level']}: {entry['event']!r} {_fields(entry)}"
        for entry in events.reported()
        if entry["event"] not in required | allowed
    ]
    names = {entry["event"] for entry in events.reported()}
    return unexpected + [f"never logged: {event!r}" for event in sorted(required - names)]


def _fields(entry: EventDict) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("event", "log_level")}
