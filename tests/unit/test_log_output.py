"""Log lines and printed lines of commands control no terminal."""

import json
import logging
import os
from collections.abc import Iterator

import click
import pytest
import structlog
from click.testing import CliRunner

from app.cli.command import echo
from app.services.integrations.key_text import new_key
from config.log import (
    IDENTITY,
    LogIdentity,
    configure_logging,
    configure_own_logs,
    escape_controls,
    mask_secrets,
)
from tests.support.log_events import LogEvents

HARMFUL = "a\x1b[2J\r\nb\x7f\x85\x9b2J\u2028\u2029\u202ec\ud800"
ESCAPED = r"a\u001b[2J\u000d\u000ab\u007f\u0085\u009b2J\u2028\u2029\u202ec\ud800"


def test_controls_are_escaped_as_in_json() -> None:
    assert escape_controls(HARMFUL) == ESCAPED
    assert json.loads(f'"{ESCAPED}"') == HARMFUL
    assert escape_controls("a\tb\nc\x1b", allowed="\t\n") == "a\tb\nc\\u001b"
    assert escape_controls("Zażółć 🙂") == "Zażółć 🙂"


@pytest.mark.parametrize("style", ["console", "json"])
def test_no_log_line_has_controls(capsys: pytest.CaptureFixture[str], style: str) -> None:
    configure_own_logs("info", style)
    log = structlog.get_logger("tests")
    log.info(HARMFUL, path=HARMFUL, listed=[HARMFUL], mapped={HARMFUL: HARMFUL}, **{"n\x1b": 1})
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert escape_controls(written, allowed="\n") == written
    assert r"\u001b[2J" in written


@pytest.mark.parametrize("style", ["console", "json"])
def test_no_log_line_has_a_key_or_a_secret(capsys: pytest.CaptureFixture[str], style: str) -> None:
    key, parts = new_key()
    secret = "whsec_" + "aB3/" * 10
    text = f"/api/flow/{key}/state?secret={secret}"
    configure_own_logs("info", style)
    structlog.get_logger("tests").info(text, path=text, listed=[text], mapped={text: text}, **{text: 1})
    written = capsys.readouterr().err
    assert key.rpartition("_")[2][:8] not in written
    assert "aB3/" not in written
    assert f"sfk_{parts.id}_***" in written
    assert "whsec_***" in written


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("whsec_aB3/aB3/", "whsec_***"),
        ("/api/flow/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl/state", "/api/flow/eyJ***/state"),
        ("ED25519-BASIC-TOKEN eyJ0Ijoic2lnbmVkIiwibXNnIjoiIn0", "ED25519-BASIC-TOKEN eyJ***"),
        ("mongodb://app:pa%3Fss@db-1:27017,db-2/?x=1", "mongodb://app:***@db-1:27017,db-2/?x=1"),
        ("redis://:pass@cache:6379/0 and http://u:p@h", "redis://:***@cache:6379/0 and http://u:***@h"),
        ("http://127.0.0.1:8000/a@b", "http://127.0.0.1:8000/a@b"),
        ("eyJ is no token, nor is user@example.org", "eyJ is no token, nor is user@example.org"),
    ],
)
def test_credentials_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked
    assert mask_secrets(masked) == masked


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
    assert escape_controls(written, allowed="\n") == written


def test_what_commands_print_has_no_controls() -> None:
    @click.command()
    def command() -> None:
        echo(f"title\t{HARMFUL}")
        echo(HARMFUL, err=True)

    ended = CliRunner().invoke(command)
    assert ended.stdout == "title\t" + ESCAPED.replace(r"\u000a", "\n") + "\n"
    assert "\x1b" not in ended.stderr


@pytest.fixture
def identity() -> Iterator[LogIdentity]:
    before = dict(vars(IDENTITY))
    yield IDENTITY
    vars(IDENTITY).update(before)


def test_a_json_line_has_its_process_and_no_id_of_a_user(
    identity: LogIdentity, capsys: pytest.CaptureFixture[str]
) -> None:
    identity.set_key(b"secret")
    identity.worker = "w1"
    configure_own_logs("info", "json")
    log = structlog.get_logger()
    epoch = "01995a7c-1111-7222-8333-444455556666"
    log.info("one", user="ada:x", state="loop:ada:x", record=f"loop:ada:x:{epoch}:3", other="ada:x")
    line = json.loads(capsys.readouterr().err)
    name = identity.name("ada:x")
    assert (line["pid"], line["worker"]) == (os.getpid(), "w1")
    assert (line["user"], line["state"], line["record"]) == (name, f"loop:{name}", f"loop:{name}:{epoch}:3")
    assert name.startswith("u-")
    assert "ada" not in name

    same = LogIdentity()
    same.set_key(b"secret")
    assert same.name("ada:x") == name, "workers agree"
    assert LogIdentity().name("ada:x") != name, "and nobody guesses it without their secret"
    log.info("worker died", pid=7)
    assert json.loads(capsys.readouterr().err)["pid"] == 7, "the process that the line is about"
    identity.plain_users = True
    log.info("two", user="ada:x")
    assert json.loads(capsys.readouterr().err)["user"] == "ada:x"
