"""Watches the workers: replaces those that died or hang, and gives up after repeated deaths.

Structured logs are imported late, because workers load this module before they prepare their imports.
"""

import multiprocessing
import pickle
import signal
import socket
import subprocess
import sys
import time
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from app.process.database_status import STATUS
from app.process.restarts import Deaths

CONTEXT = (
    multiprocessing.get_context("forkserver")
    if sys.platform == "linux"
    else multiprocessing.get_context("spawn")  # libraries of other systems do not survive a fork
)
"""Workers are forked from a process that has imported the application."""
CHECK_SECONDS = 0.5
"""Interval at which uvicorn's supervisor checks its workers."""
ANSWER_SECONDS = 5.0
"""A worker that has not answered for this time hangs if it used no CPU meanwhile; otherwise it is busy."""
BUSY_SECONDS = 60.0
"""A worker that is busy for longer is replaced too."""
MAX_DEATHS = 8
"""Deaths in a row, of every worker, after which the service ends."""


class Condition(Enum):
    """The result of a check of a worker."""

    ANSWERS = "answers"
    SILENT = "silent"
    BUSY = "busy"
    HUNG = "hung"
    DEAD = "dead"


class Worker(multiprocess.Process):
    """A worker process, as its supervisor sees it.

    Time is counted in checks, so that a supervisor that was suspended itself does not blame its workers.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.process = CONTEXT.Process(target=self.target, kwargs={"sockets": sockets})  # type: ignore[assignment]
        self.deaths = Deaths(MAX_DEATHS)
        self.began = time.monotonic()
        self.restart_at: float | None = None
        self.served = False
        self._pinged = False
        self._silent_checks = 0
        self._idle_checks = 0
        self._cpu_time: str | None = None

    @property
    def silent_seconds(self) -> float:
        """Time since its last answer."""
        return self._silent_checks * CHECK_SECONDS

    def pong(self) -> None:
        """Receive the status of the embedded database from the supervisor, and answer. Runs in the worker."""
        received = self.child_conn.recv()
        if not isinstance(received, bytes):  # a ping of the base class
            STATUS.problem = received
        self.child_conn.send(self.server.started)

    def check(self, answer_seconds: float, busy_seconds: float) -> Condition:
        """Determine the condition of the worker, without waiting for it."""
        if not self.process.is_alive():
            return Condition.DEAD
        if self._has_answered():
            self._silent_checks = self._idle_checks = 0
            return Condition.ANSWERS
        before, self._cpu_time = self._cpu_time, cpu_time(self.process.pid or 0)
        self._silent_checks += 1
        self._idle_checks = self._idle_checks + 1 if before is not None and before == self._cpu_time else 0
        if self._idle_checks * CHECK_SECONDS >= answer_seconds or self.silent_seconds >= busy_seconds:
            return Condition.HUNG
        return Condition.BUSY if self.silent_seconds >= answer_seconds else Condition.SILENT

    def _has_answered(self) -> bool:
        try:
            if not self._pinged:
                self.parent_conn.send(STATUS.problem)
                self._pinged = True
            if not self.parent_conn.poll(0):
                return False
            self.served |= bool(self.parent_conn.recv())
        except (OSError, EOFError, pickle.UnpicklingError):
            return False
        self._pinged = False
        return True

    def reason(self) -> str:
        """Return why the process ended."""
        code = self.exitcode
        if code == -signal.SIGKILL:
            return "killed by SIGKILL (by hand, or as the machine ran out of memory)"
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name}"
        if code == STARTUP_FAILURE:
            return "it could not start; see its own log lines"
        return f"ended with exit code {code}"


class Supervisor(multiprocess.Multiprocess):
    """Runs the workers of a configuration until a signal arrives, or until they die repeatedly."""

    processes: list[Worker]  # type: ignore[assignment]

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        *,
        answer_seconds: float = ANSWER_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
        max_deaths: int = MAX_DEATHS,
    ) -> None:
        super().__init__(config, sockets)
        self.failed = False
        self._log: Any = import_module("structlog").get_logger("supervisor")
        self._answer_seconds = answer_seconds
        self._busy_seconds = busy_seconds
        self._max_deaths = max_deaths

    def init_processes(self) -> None:
        """Start the configured number of workers."""
        self.processes = [self._start(Deaths(self._max_deaths)) for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Check every worker once, and replace those that are dead or hang."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if worker.restart_at is None:
                self._check_worker(worker)
            if worker.restart_at is not None and time.monotonic() >= worker.restart_at:
                self.processes[place] = self._start(worker.deaths)
                self._log.info("worker started", pid=self.processes[place].pid, replaces=worker.pid)

    def _check_worker(self, worker: Worker) -> None:
        was_silent = worker.silent_seconds
        condition = worker.check(self._answer_seconds, self._busy_seconds)
        if condition is Condition.ANSWERS and was_silent >= self._answer_seconds:
            self._log.warning("worker responsive again", pid=worker.pid, silent_seconds=was_silent)
        elif condition is Condition.BUSY and was_silent < self._answer_seconds:
            self._log.warning("worker busy", pid=worker.pid, silent_seconds=worker.silent_seconds)
        elif condition is Condition.HUNG:
            seconds = worker.silent_seconds
            worker.kill()
            worker.join()
            self._record_death(worker, f"killed by its supervisor: it did not answer for {seconds:.0f} s")
        elif condition is Condition.DEAD:
            worker.join()
            self._record_death(worker, worker.reason())

    def _record_death(self, worker: Worker, reason: str) -> None:
        lived = time.monotonic() - worker.began
        worker.deaths.record(lived)
        worker.restart_at = time.monotonic() + worker.deaths.delay_seconds
        self._log.error(
            "worker died",
            pid=worker.pid,
            reason=reason,
            lived_seconds=round(lived, 1),
            deaths=worker.deaths.in_a_row,
            restart_in_seconds=worker.deaths.delay_seconds,
        )
        never_served = worker.exitcode == STARTUP_FAILURE and not any(each.served for each in self.processes)
        if never_served or all(each.deaths.too_many for each in self.processes):
            self._log.error("workers given up", reason=reason, workers=len(self.processes))
            self.failed = True
            self.should_exit.set()

    def _start(self, deaths: Deaths) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.deaths = deaths
        worker.start()
        return worker


def cpu_time(pid: int) -> str | None:
    """Return the CPU time of a process, for comparison with an earlier one; None if it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return " ".join(stat.rpartition(")")[2].split()[11:13])
    except (OSError, IndexError):
        pass
    try:
        shown = subprocess.run(  # noqa: S603 - other systems than Linux have no /proc
            ["/bin/ps", "-o", "time=", "-p", str(pid)],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip() or None


multiprocess.Process = Worker  # type: ignore[misc]  # the base class starts some itself
