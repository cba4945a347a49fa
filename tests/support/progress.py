"""The progress of a test run: a line for each file that is done, each failure, and each test that is slow."""

import threading
import time
from collections import Counter, defaultdict

import pytest
from _pytest.terminal import TerminalReporter

QUIET_SECONDS = 15.0
"""After so long without a line, the running tests are listed."""
SLOW_SECONDS = 5.0


class Progress:
    """Prints the progress of one run, whichever processes run it."""

    def __init__(self, reporter: TerminalReporter) -> None:
        self._reporter = reporter
        reporter.showfspath = False
        self._expected: Counter[str] = Counter()
        self._outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._running: dict[str, float] = {}
        self._done = 0
        self._lock = threading.Lock()
        self._last_line = time.monotonic()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._list_running, daemon=True)

    # What will run

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the tests of each file, without xdist."""
        self._expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Count the tests of each file, with xdist: all its processes collect the same."""
        self._expect(ids)

    def _expect(self, nodeids: list[str]) -> None:
        self._expected = Counter(map(_file_of, nodeids)) or self._expected
        if not self._watcher.is_alive() and not self._ended.is_set():
            self._watcher.start()

    # What runs

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test runs."""
        with self._lock:
            self._running[nodeid] = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count an outcome."""
        file = _file_of(report.nodeid)
        self._seconds[file] += report.duration
        if report.failed or report.skipped or report.when == "call":
            self._outcomes[file][report.outcome] += 1
        if report.failed:
            self._write(f"FAILED in {report.when}: {report.nodeid}", red=True)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Print a line when a slow test, or the last test of a file, is done."""
        file = _file_of(nodeid)
        with self._lock:
            began = self._running.pop(nodeid, None)
        self._done += 1
        self._expected[file] -= 1
        if began is not None and time.monotonic() - began > SLOW_SECONDS:
            self._write(f"       {nodeid} took {time.monotonic() - began:.0f} s")
        if self._expected[file] == 0:
            counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self._outcomes[file].items()))
            percent = 100 * self._done // (self._done + sum(self._expected.values()))
            self._write(f"[{percent:3}%] {file}: {counts} in {self._seconds[file]:.1f} s")

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Replace the letter of each test; failures are printed above."""
        if report.failed:
            return ("failed", "", "FAILED") if report.when == "call" else ("error", "", "ERROR")
        return (report.outcome if report.when == "call" or report.skipped else ""), "", ""

    def pytest_sessionfinish(self) -> None:
        """Stop listing what runs."""
        self._ended.set()

    def _write(self, line: str, **markup: bool) -> None:
        with self._lock:
            self._reporter.ensure_newline()
            self._reporter.write_line(line, **markup)
            self._last_line = time.monotonic()

    def _list_running(self) -> None:
        while not self._ended.wait(1):
            with self._lock:
                now = time.monotonic()
                running = [f"{nodeid} ({now - began:.0f} s)" for nodeid, began in self._running.items()]
                quiet = now - self._last_line > QUIET_SECONDS
            if quiet and running:
                self._write("       running: " + ", ".join(running))


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Print progress instead of letters, unless ``-v`` or ``-q`` requests the formats of pytest."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.get_verbosity() == 0:
        config.pluginmanager.register(Progress(reporter), "progress")
