"""What a log line may make of a terminal, and a printed line of a command: nothing."""

import json
import logging

import click
import pytest
import structlog
from click.testing import CliRunner

from app.cli.command import say
from config.log import configure_logging, configure_own_logs, escape_controls
from tests.support.log_events import LogEvents

HARMFUL = "a\x1b[2J\r\nb\x7f\x85\x9b2J\u2028\u2029\u202ec\ud800"
ESCAPED = r"a\u001b[2J\u000d\u000ab\u007f\u0085\u009b2J\u2028\u2029\u202ec\ud800"


def test_controls_are_escaped_as_in_json() -> None:
    assert escape_controls(HARMFUL) == ESCAPED
    assert json.loads(f'"{ESCAPED}"') == HARMFUL
    assert escape_controls("a\tb\nc\x1b", keep="\t\n") == "a\tb\nc\\u001b"
    assert escape_controls("Zażółć 🙂") == "Zażółć 🙂"


@pytest.mark.parametrize("style", ["console", "json"])
def test_no_log_line_has_controls(capsys: pytest.CaptureFixture[str], style: str) -> None:
    configure_own_logs("info", style)
    log = structlog.get_logger("tests")
    log.info(HARMFUL, path=HARMFUL, listed=[HARMFUL], mapped={HARMFUL: HARMFUL}, **{"n\x1b": 1})
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert escape_controls(written, keep="\n") == written
    assert r"\u001b[2J" in written


@pytest.mark.expected_logs(HARMFUL.partition("\n")[0])
@pytest.mark.parametrize("style", ["console", "json"])
def test_no_line_of_a_library_has_controls(
    capsys: pytest.CaptureFixture[str], log_events: LogEvents, style: str
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        configure_logging("info", style)
        root.handlers += handlers
        logging.getLogger("a.library").warning("%s", HARMFUL[:-1])  # pytest passes no half characters on
    finally:
        root.handlers = handlers
        root.setLevel(level)
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert escape_controls(written, keep="\n") == written


def test_what_commands_print_has_no_controls() -> None:
    @click.command()
    def command() -> None:
        say(f"title\t{HARMFUL}")
        say(HARMFUL, err=True)

    ended = CliRunner().invoke(command)
    assert ended.stdout == "title\t" + ESCAPED.replace(r"\u000a", "\n") + "\n"
    assert "\x1b" not in ended.stderr
