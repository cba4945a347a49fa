"""The supervisor of workers: deaths with their reasons, busy workers, and an end when nothing helps."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest
import uvicorn

from app.process.supervisor import Supervisor
from app.process.workers import open_port
from tests.support.log_events import LogEvents

SECONDS = 60
# The machine may be busy.
pytestmark = pytest.mark.expected_logs("worker busy", "worker responsive again", optional=True)


class Supervised:
    """A supervisor that runs in a thread of the test."""

    def __init__(self, workers: int, application: str, **limits: float) -> None:
        self.bound = open_port("127.0.0.1", 0)
        config = uvicorn.Config(
            f"tests.support.small_application:{application}",
            workers=workers,
            log_config=None,
            access_log=False,
        )
        self.supervisor = Supervisor(config, [self.bound], **limits)  # type: ignore[arg-type]
        self.url = f"http://127.0.0.1:{self.bound.getsockname()[1]}"
        self.thread = threading.Thread(target=self.supervisor.run)
        self.thread.start()

    def pid(self, query: int = 0) -> int:
        """The process id of a worker that answered."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return int(httpx.get(f"{self.url}/?{query}", timeout=SECONDS).text)
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def end(self) -> None:
        """Stop the supervisor and its workers."""
        self.supervisor.should_exit.set()
        self.thread.join(SECONDS)
        self.bound.close()


Run = Callable[..., Supervised]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts supervisors, and ends them after the test."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    started: list[Supervised] = []

    def start(workers: int = 1, application: str = "application", **limits: float) -> Supervised:
        started.append(Supervised(workers, application, **limits))
        return started[-1]

    yield start
    for each in started:
        each.end()
    for number, handler in handlers.items():
        if handler is not None and number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, handler)


@pytest.mark.expected_logs("worker died")
def test_a_dead_worker_is_replaced_and_its_reason_logged(run: Run, log_events: LogEvents) -> None:
    supervised = run()
    first = supervised.pid()
    os.kill(first, signal.SIGKILL)
    second = supervised.pid()
    assert second != first
    (died,) = log_events.named("worker died")
    assert (died["pid"], died["deaths"], died["restart_in_seconds"]) == (first, 1, 0.0)
    assert died["reason"].startswith("killed by SIGKILL")
    (started,) = log_events.named("worker started")
    assert (started["pid"], started["replaces"]) == (second, first)
    os.kill(second, signal.SIGSEGV)
    assert supervised.pid() not in (first, second)
    assert log_events.named("worker died")[1]["reason"] == "ended by SIGSEGV"


@pytest.mark.expected_logs("worker busy", "worker responsive again")
def test_a_busy_worker_is_not_killed(run: Run, log_events: LogEvents) -> None:
    supervised = run(answer_seconds=1.0)
    first = supervised.pid()
    began, cpu = time.monotonic(), psutil.Process(first).cpu_times().user
    additions = 20_000_000
    supervised.pid(additions)
    additions = int(additions * 2.5 / max(psutil.Process(first).cpu_times().user - cpu, 0.05))
    assert supervised.pid(additions) == first
    assert time.monotonic() - began > 1.5
    while not log_events.named("worker responsive again"):
        assert time.monotonic() - began < SECONDS
        time.sleep(0.05)
    assert supervised.pid() == first


@pytest.mark.expected_logs("worker died")
def test_a_worker_that_hangs_is_killed_with_a_reason(run: Run, log_events: LogEvents) -> None:
    supervised = run(answer_seconds=1.0)
    first = supervised.pid()
    os.kill(first, signal.SIGSTOP)
    assert supervised.pid() != first
    (died,) = log_events.named("worker died")
    assert "did not answer for" in died["reason"]


@pytest.mark.expected_logs("worker died", "workers given up")
def test_workers_that_die_again_and_again_end_the_service(run: Run, log_events: LogEvents) -> None:
    supervised = run(2, "dying_application", max_deaths=2)
    supervised.thread.join(SECONDS)
    assert not supervised.thread.is_alive()
    assert supervised.supervisor.failed
    (given_up,) = log_events.named("workers given up")
    assert given_up["reason"] == "ended with exit code 7"
    delays = [died["restart_in_seconds"] for died in log_events.named("worker died")]
    assert 0.5 in delays
    assert len(delays) >= 4
