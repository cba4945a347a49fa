"""Watches an embedded server, and starts it again when it ended by itself."""

import threading
import time
from collections.abc import Callable

import structlog

from app.process.database_server import EmbeddedError
from app.process.restarts import MAX_DEATHS, Deaths
from app.process.server_process import PANIC, ServerProcess

log = structlog.get_logger("servers")

CHECK_SECONDS = 1.0


class ServerWatch:
    """Starts one server again, with back-off, until it dies again and again."""

    def __init__(self, server: ServerProcess, on_failure: Callable[[str], None]) -> None:
        """``on_failure`` is called with a line about a server that was given up."""
        self._server = server
        self._on_failure = on_failure
        self._deaths = Deaths()

    def start(self) -> None:
        """Watch from now on, in threads of its own."""
        threading.Thread(target=self._run, name=f"{self._server.name} watch", daemon=True).start()
        if self._server.name == "mongodb":
            threading.Thread(target=self._end_after_panic, name="mongodb check", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._server.wait()
            if self._server.is_stopping():
                return
            why = f"The embedded {self._server.name} server ended by itself{self._server.reason()}"
            while True:
                self._deaths.record(time.monotonic() - self._server.began)
                if self._deaths.too_many:
                    self._on_failure(f"{why} ({MAX_DEATHS} times in a row)")
                    return
                log.error(
                    "embedded server died",
                    server=self._server.name,
                    reason=why,
                    deaths=self._deaths.in_a_row,
                    restart_in_seconds=self._deaths.delay_seconds,
                )
                if self._server.pause(self._deaths.delay_seconds):
                    return
                try:
                    self._server.start()
                except EmbeddedError as failure:
                    if self._server.is_stopping():
                        return
                    why = str(failure)
                else:
                    log.warning("embedded server restarted", server=self._server.name)
                    break

    def _end_after_panic(self) -> None:
        while not self._server.pause(CHECK_SECONDS):
            if PANIC in self._server.read_log():
                self._server.kill()
