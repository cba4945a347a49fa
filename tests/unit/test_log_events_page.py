"""The operators' page lists every warning and error that the service logs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, page
from tests.support.sources import nodes_of, tree_of

ROOMS = ("app", "models", "realtime", "config")
PAGE = "docs/operations/log-events.md"
LEVELS = ("warning", "error", "critical")

LogEvent = tuple[str, str]
"""An event and its level."""


def logged_events(source: str) -> list[LogEvent]:
    """Return the warnings and errors that a module logs through structlog.

    A level or an event that depends on a condition counts with each of its values; ``…`` stands for the
    part of an event that is computed.
    """
    if "get_logger(" not in source:
        return []
    tree = tree_of(source)
    loggers = _loggers(tree)
    return [
        (event, level)
        for call in nodes_of(tree)
        if isinstance(call, ast.Call) and call.args
        for level in _levels(call.func, loggers)
        for event in _texts(call.args[0])
    ]


def _loggers(tree: ast.AST) -> set[str]:
    """Return the variables and attributes that hold a logger of structlog."""
    names: set[str] = set()
    for node in nodes_of(tree):
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        if ".get_logger(" in ast.unparse(value):
            names.update(ast.unparse(target) for target in targets)
    return names


def _levels(function: ast.expr, loggers: set[str]) -> Iterator[str]:
    if isinstance(function, ast.IfExp):
        yield from _levels(function.body, loggers)
        yield from _levels(function.orelse, loggers)
    elif isinstance(function, ast.Attribute) and function.attr in (*LEVELS, "warn", "exception", "fatal"):
        receiver = ast.unparse(function.value)
        if receiver in loggers or ".get_logger(" in receiver:
            yield {"warn": "warning", "exception": "error", "fatal": "critical"}.get(
                function.attr, function.attr
            )


def _texts(event: ast.expr) -> list[str]:
    if isinstance(event, ast.IfExp):
        return _texts(event.body) + _texts(event.orelse)
    if isinstance(event, ast.Constant):
        return [str(event.value)]
    if isinstance(event, ast.JoinedStr):
        parts = [str(each.value) if isinstance(each, ast.Constant) else "…" for each in event.values]
        return ["".join(parts)]
    raise AssertionError(f"line {event.lineno}: write the event as a text, which operators search for")


def listed_events(text: str) -> list[LogEvent]:
    """Return the rows of a page's tables that begin with an event and its level."""
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    return [(event, level) for event, level in rows]


def test_every_warning_and_error_is_listed_with_its_level() -> None:
    in_code: dict[LogEvent, str] = {}
    for room in ROOMS:
        for module in sorted((ROOT / room).rglob("*.py")):
            for logged in logged_events(module.read_text()):
                in_code[logged] = module.relative_to(ROOT).as_posix()
    assert len(in_code) > 50
    listed = listed_events(page(PAGE))
    differences = [
        f"add to {PAGE}: | `{event}` | {level} | … | … | (logged in {in_code[event, level]})"
        for event, level in sorted(in_code.keys() - set(listed))
    ]
    differences += [
        f"remove from {PAGE}: | `{event}` | {level} |"
        for event, level in sorted(set(listed) - in_code.keys())
    ]
    differences += [f"listed twice: {row}" for row in sorted(set(listed)) if listed.count(row) > 1]
    assert not differences, "\n".join(["", *differences])


def test_the_check_reads_every_row_of_the_page() -> None:
    rows = [
        line for line in page(PAGE).splitlines() if re.match(r"\| `.*\| (warning|error|critical) \|", line)
    ]
    assert len(listed_events(page(PAGE))) == len(rows)


@pytest.mark.parametrize(
    ("statement", "logged"),
    [
        ("log.warning('a b', x=1)", [("a b", "warning")]),
        ("log.error('a b')", [("a b", "error")]),
        ("log.exception('a b')", [("a b", "error")]),
        ("log.critical('a b')", [("a b", "critical")]),
        ("(log.info if starting else log.warning)('a b')", [("a b", "warning")]),
        ("log.warning('a' if one else 'b')", [("a", "warning"), ("b", "warning")]),
        ("log.warning(f'a {b}')", [("a …", "warning")]),
        ("self._log.error('a b')", [("a b", "error")]),
        ("structlog.get_logger('auth').error('a b')", [("a b", "error")]),
        ("log.info('a b')", []),
        ("other.error('a b')", []),
    ],
)
def test_the_check_finds_every_form_of_a_call(statement: str, logged: list[LogEvent]) -> None:
    loggers = "log = structlog.get_logger('x')\nself._log: Any = import_module('structlog').get_logger('y')\n"
    assert logged_events(loggers + statement) == logged


def test_the_check_ignores_loggers_of_the_standard_library() -> None:
    assert logged_events("log = logging.getLogger('x')\nlog.warning('a b')") == []


def test_the_check_refuses_an_event_that_is_no_text() -> None:
    with pytest.raises(AssertionError, match="line 2"):
        logged_events("log = structlog.get_logger('x')\nlog.warning(event)")


def test_the_page_is_part_of_the_site() -> None:
    assert "operations/log-events.md" in (Path(ROOT) / ".mkdocs.yml").read_text()
