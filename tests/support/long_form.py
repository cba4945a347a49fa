"""Short and long forms of expensive tests.

A test states both sizes: ``STEPS = form("model test: steps", short=500, long=10_000)``. The short one runs
by default, the long one with ``--long``. A test that has no short form is marked ``long``. The summary of a
run lists everything that it left out.
"""

from typing import Any, TypeVar

import pytest
from _pytest.terminal import TerminalReporter
from hypothesis import settings

T = TypeVar("T")

MARKER = "long"
OPTION = "--long"


class _Forms:
    """The forms that this process chose, by description."""

    def __init__(self) -> None:
        self.long = False
        self.shortened: dict[str, str] = {}
        self.deselected: list[str] = []
        self.reported: dict[str, None] = {}

    def lines(self) -> list[str]:
        """Describe what the short forms left out."""
        sizes = [f"{what}: {text}" for what, text in self.shortened.items()]
        return sizes + [f"{nodeid}: not run" for nodeid in self.deselected]


_forms = _Forms()


def form(description: str, *, short: T, long: T) -> T:
    """Return the size of a test in the form that runs. The summary lists a short one."""
    if _forms.long:
        return long
    _forms.shortened[description] = f"{short} of {long}"
    return short


def examples(long: int, *, fraction: int = 10) -> settings:
    """Return Hypothesis settings for ``long`` examples, one of ``fraction`` of them in the short form."""
    if not _forms.long:
        _forms.shortened["property tests"] = "a tenth of the examples, or fewer"
    return _settings(long, fraction)


def _settings(long: int, fraction: int = 10) -> settings:
    return settings(max_examples=long if _forms.long else max(5, long // fraction), deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long``."""
    parser.addoption(OPTION, action="store_true", help="run the long forms of tests")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the form before the test modules are imported."""
    _forms.long = config.getoption(OPTION)
    settings.register_profile("of this run", _settings(100))
    settings.load_profile("of this run")
    config.addinivalue_line("markers", f"{MARKER}: runs only with {OPTION}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that have no short form."""
    if _forms.long:
        return
    left_out = [item for item in items if item.get_closest_marker(MARKER)]
    _forms.deselected = [item.nodeid for item in left_out]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker(MARKER)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was left out to the controlling process of xdist, which imports no test module."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = _forms.lines()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of xdist left out."""
    _forms.reported |= dict.fromkeys(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """List what the run left out."""
    lines = _forms.reported | dict.fromkeys(_forms.lines())
    if lines:
        terminalreporter.section(f"not in this run (pytest {OPTION} runs it)")
        for line in lines:
            terminalreporter.write_line(line)
