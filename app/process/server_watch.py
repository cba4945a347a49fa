"""Watches an embedded server, and restarts it if it ended by itself or does not write."""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from app.process.database_server import EmbeddedError
from app.process.database_status import FULL, NOT_WRITING, RESTARTING, STATUS
from app.process.restarts import DELAYS_SECONDS, MAX_DEATHS, Deaths
from app.process.server_process import PANIC, ServerProcess

log = structlog.get_logger("servers")

CHECK_SECONDS = 1.0
WRITE_EVERY_CHECKS = 2
WRITE_TIMEOUT_MS = 5000
FULL_ANSWER = "the disk of the database is full"
"""The probe's message for a database that only refuses to write."""
MAX_FAILED_WRITES = 3
"""Number of failed writes in a row after which the database is restarted."""


class ServerWatch:
    """Restarts one server, with back-off, until it dies repeatedly.

    On a full disk it is not given up: the server is restarted when there is space.
    """

    def __init__(
        self,
        server: ServerProcess,
        on_failure: Callable[[str], None],
        write_to: str | None = None,
        delays: Sequence[float] = DELAYS_SECONDS,
    ) -> None:
        """Prepare to watch.

        Args:
            server: A running server.
            on_failure: Called with the reason when the server is given up.
            write_to: The URL of a database to which probes are written.
            delays: Seconds before each restart; the last one is repeated.
        """
        self._server = server
        self._on_failure = on_failure
        self._write_to = write_to
        self._deaths = Deaths(delays=delays)
        self._deaths_on_full_disk = Deaths(delays=delays)
        self._logged = ""

    def start(self) -> None:
        """Start watching, in separate threads."""
        threading.Thread(target=self._run, name=f"{self._server.name} watch", daemon=True).start()
        if self._write_to is not None:
            check = threading.Thread(
                target=self._check_writes, args=(self._write_to,), name="mongodb check", daemon=True
            )
            check.start()

    def _run(self) -> None:
        while True:
            self._server.wait()
            if self._server.is_stopping():
                return
            why = f"The embedded {self._server.name} server ended by itself{self._server.reason()}"
            since = self._server.serving_since
            lived = time.monotonic() - since if since is not None else 0.0
            if not self._restart(why, lived):
                return

    def _restart(self, why: str, lived_seconds: float) -> bool:
        """Restart the server until it runs; returns False when it is given up or stopping."""
        while True:
            full = self._server.is_disk_full()
            self._show(FULL if full else RESTARTING)
            deaths = self._deaths_on_full_disk if full else self._deaths
            deaths.record(lived_seconds)
            if deaths.too_many and not full:
                self._on_failure(f"{why} ({MAX_DEATHS} times in a row)")
                return False
            self._report(why, deaths)
            if not self._has_space_after(deaths.delay_seconds):
                return False
            try:
                self._server.start()
            except EmbeddedError as failure:
                if self._server.is_stopping():
                    return False
                why, lived_seconds = str(failure), 0.0
            else:
                self._show(None)
                self._logged = ""
                log.warning("embedded server restarted", server=self._server.name)
                return True

    def _report(self, why: str, deaths: Deaths) -> None:
        if why == self._logged:  # logged before: the disk is still full
            return
        self._logged = why
        log.error(
            "embedded server died",
            server=self._server.name,
            reason=why,
            deaths=deaths.in_a_row,
            restart_in_seconds=deaths.delay_seconds,
        )

    def _has_space_after(self, seconds: float) -> bool:
        """Wait for ``seconds``, then until there is space; returns False when the server is stopping."""
        while not self._server.pause(seconds):
            if self._server.has_space():
                return True
            seconds = CHECK_SECONDS
        return False

    def _show(self, problem: str | None) -> None:
        if self._write_to is not None:
            STATUS.problem = problem

    def _check_writes(self, url: str) -> None:
        from models.write_failures import WriteProbe  # noqa: PLC0415 - the driver is slow to load

        probe = WriteProbe(url, WRITE_TIMEOUT_MS)
        failed = checks = 0
        while not self._server.pause(CHECK_SECONDS):
            checks += 1
            since = self._server.serving_since
            if since is None or not self._server.running:
                failed = 0
            elif PANIC in self._server.read_log():
                self._server.kill()
            elif checks % WRITE_EVERY_CHECKS == 0:
                failure = probe.failure()
                if since == self._server.serving_since and self._server.running:  # still the same process
                    failed = failed + 1 if failure is not None else 0
                    self._judge(failure, failed)
        probe.close()

    def _judge(self, failure: str | None, failed: int) -> None:
        """React to a write, after ``failed`` failures in a row. On a full disk a server may go on reading."""
        if failure is None:
            self._show(None)
            return
        full = not self._server.has_space()
        if failed == 1:
            why = self._server.reason() if full else f": {failure}"
            log.error("embedded database cannot write", reason=f"The embedded database fails{why}")
        self._show(FULL if full else NOT_WRITING)
        if failed >= MAX_FAILED_WRITES and not (full and failure == FULL_ANSWER):
            self._server.kill(f"it was killed by its watch: {failure}")
