"""Messages for invalid YAML: where, why, and what to do."""

import re
from typing import Any

_MARKED = re.compile(r"(?:^|[:,\[{-])\s+[!&*@%`]")
_GUARD = re.compile(r"\bguard[\"']?\s*:")
_QUOTE_MARKS = "put a text that begins with !, &, *, %, @ or ` in quotes"
_QUOTE_GUARDS = "put a guard in quotes, or on a line of its own after 'guard: >-'"
_CLOSING = ("',' or ", "end of stream", "document indicator")
_ADVICE = (
    ("mapping values", "put a text with ': ' in quotes, or indent the line like its neighbours"),
    ("expected ':'", "write ': ' after a name, or put the text above in quotes"),
    ("cannot start any token", "put the text in quotes"),
    ("Unicode character escape", "write the character itself, or \\U and eight digits"),
    ("escape", "write a backslash twice, or use single quotes"),
    ("hexdecimal", "write the escape with all its digits, or use single quotes"),
    ("directive", "leave lines that begin with % out"),
    ("incompatible", "leave the line with %YAML out"),
    ("tag", _QUOTE_MARKS),
    ("anchor", _QUOTE_MARKS),
    ("alias", _QUOTE_MARKS),
    ("node content", "put a text that begins with an indicator of YAML in quotes"),
    ("", "indent the line like its neighbours"),
)
_MAX_SHOWN = 60


def at(mark: Any) -> str:
    """Return the beginning of a message about a place."""
    return f"line {mark.line + 1}, column {mark.column + 1}: "


def quote_marks() -> str:
    """Return the advice for a text that begins with an indicator of YAML."""
    return _QUOTE_MARKS


def shown(written: str) -> str:
    """Return a text of the author on one line, shortened."""
    line = " ".join(written.split())
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 1] + "…"


def explain(refusal: Any, text: str) -> str:
    """Return the message for a refusal of the parser (a MarkedYAMLError)."""
    lines = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)
    mark = refusal.problem_mark or refusal.context_mark
    if mark is None:
        return "is not YAML; write it as JSON"
    line, column = mark.line, mark.column
    if line >= len(lines):  # the parser ends every text with a line end
        line, column = len(lines) - 1, len(lines[-1])
    problem = shown(refusal.problem or "is not YAML").replace("did not find expected", "expected")
    if "nesting depth" in problem:
        return f"line {line + 1}, column {column + 1}: is nested too deep"
    return (
        f"line {line + 1}, column {column + 1}: {problem}; {_advice(refusal, problem, lines[line], column)}"
    )


def _advice(refusal: Any, problem: str, line: str, column: int) -> str:
    if line[column : column + 1] == "\t":
        return "indent with spaces, not with tabs"
    if _MARKED.search(line):
        return _QUOTE_MARKS
    if _GUARD.search(line):
        return _QUOTE_GUARDS
    opened = refusal.context_mark
    if opened is not None and any(part in problem for part in _CLOSING):
        return f"close what begins in line {opened.line + 1}, column {opened.column + 1}"
    described = f"{problem} {refusal.context or ''}"
    return next(advice for part, advice in _ADVICE if part in described)
