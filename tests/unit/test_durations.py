"""One grammar of durations: in flows, in settings and on the command line."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from app.cli import main
from app.flow.validation import check_flow, parse_flow
from app.kit.durations import MAX_DURATION, iso_duration, parse_duration
from config.settings import SettingsError, load_settings
from tests.support.rig import rig
from tests.support.samples import flow_dict

SECRET = {"FLOW_JWT_SECRET": "k" * 40}
READ = {
    "P1W": timedelta(weeks=1),
    "P2W": timedelta(days=14),
    "P1W2D": timedelta(days=9),
    "P30D": timedelta(days=30),
    "P1DT12H": timedelta(hours=36),
    "PT1H30M": timedelta(minutes=90),
    "PT90M": timedelta(minutes=90),
    "PT15M": timedelta(minutes=15),
    "PT1H30S": timedelta(seconds=3630),
    "PT1.5S": timedelta(seconds=1.5),
    "PT1,5S": timedelta(seconds=1.5),
    "P1.5D": timedelta(hours=36),
    "P0.5W": timedelta(hours=84),
    "pt1h": timedelta(hours=1),
}
REFUSED = (
    *(
        "P1M",
        "P15M",
        "P1Y",
        "P1Y2M",
        "P1M1D",
        "1 day",
        "1 days, 2:00:00",
        "00:05:00",
        "1:00",
        "3600",
        "30",
        "1w",
    ),
    *(
        "P",
        "PT",
        "P1DT",
        "P1WT",
        "P1H",
        "PT1D",
        "PT1W",
        "P1D1W",
        "PT1S1M",
        "P1D1D",
        "P1.5DT1H",
        "PT.5S",
        "PT1.S",
    ),
    *(
        "-P1D",
        "+P1D",
        "P-1D",
        " P1D",
        "P1D ",
        "P1D\n",
        "P\u0661D",
        "PT0.0001S",
        "P999999999999W",
        "soon",
        "",
        "P1e3D",
    ),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def flow(ttl: str, after: str = "PT1H") -> dict[str, Any]:
    raw = flow_dict(ttl=ttl)
    raw["steps"]["a"]["timeout"] = {"after": after, "transition": "go"}
    return raw


def issued(ttl: str | None = None) -> Result:
    return CliRunner().invoke(
        main, ["token", "--user", "ada", *(["--ttl", ttl] if ttl is not None else [])], env=SECRET
    )


def lifetime(done: Result) -> timedelta:
    claims = jwt.decode(done.output.strip(), options={"verify_signature": False})
    return timedelta(seconds=claims["exp"] - claims["iat"])


@pytest.mark.parametrize(("text", "span"), READ.items())
def test_every_door_reads_the_same(text: str, span: timedelta) -> None:
    assert parse_duration(text) == span
    assert load_settings(state_ttl=text).state_ttl == span
    assert load_settings(history_retention=text).history_retention == span
    assert parse_flow(flow(text, "PT1S"))[0].ttl == span
    timeout = parse_flow(flow("P100D", text))[0].steps["a"].timeout
    assert timeout is not None
    assert timeout.after == span
    assert lifetime(issued(text)) == timedelta(seconds=int(span.total_seconds()))


@pytest.mark.parametrize("text", REFUSED)
def test_every_door_refuses_the_same_and_names_it(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_duration(text)
    (ttl,) = (finding for finding in check_flow(flow(text)) if finding.pointer == "/ttl")
    (after,) = (f for f in check_flow(flow("P9D", text)) if f.pointer == "/steps/a/timeout/after")
    for finding in (ttl, after):
        assert finding.severity == "error"
        assert repr(text) in finding.message
        assert "P1W" in finding.advice
    if text != text.strip():
        return  # a line of .env may end in blanks
    for setting in ("state_ttl", "history_retention"):
        with pytest.raises(SettingsError) as refusal:
            load_settings(**{setting: text})
        assert str(refusal.value).startswith(f"FLOW_{setting.upper()}: {text!r} is ")
    refused = issued(text)
    assert refused.exit_code == 2
    assert "--ttl" in refused.output


def test_the_short_forms_of_the_command_line() -> None:
    assert lifetime(issued("90s")) == timedelta(seconds=90)
    assert lifetime(issued("15m")) == timedelta(minutes=15)
    assert lifetime(issued("1h")) == timedelta(hours=1)
    assert lifetime(issued("7d")) == timedelta(days=7)
    assert lifetime(
        CliRunner().invoke(main, ["token", "--user", "ada"], env={"FLOW_JWT_SECRET": "k" * 40})
    ) == (timedelta(hours=1))


@pytest.mark.parametrize("text", ["PT0S", "0s", "PT0.9S", "P36526D", "P5218W", "999999999d"])
def test_a_token_lives_between_a_second_and_a_hundred_years(text: str) -> None:
    refused = issued(text)
    assert refused.exit_code == 2
    assert repr(text) in refused.output


@pytest.mark.parametrize("text", ["P36526D", "P5218W", "PT0S", "P0W"])
def test_settings_are_between_nothing_and_a_hundred_years(text: str) -> None:
    with pytest.raises(SettingsError, match="FLOW_STATE_TTL: must be"):
        load_settings(state_ttl=text)
    assert load_settings(state_ttl=iso_duration(MAX_DURATION)).state_ttl == MAX_DURATION


def test_settings_are_shown_as_they_are_written() -> None:
    shown = load_settings(state_ttl="P30D", history_retention="PT36H").masked()
    assert (shown["FLOW_STATE_TTL"], shown["FLOW_HISTORY_RETENTION"]) == ("P30D", "P1DT12H")


def test_a_flow_is_stored_in_the_form_that_every_version_reads() -> None:
    raw = flow("P1W", "P0.5W")
    assert check_flow(raw) == []
    stored = msgspec.json.decode(msgspec.json.encode(parse_flow(raw)[0]))
    assert (stored["ttl"], raw["ttl"]) == ("P7D", "P1W")
    assert stored["steps"]["a"]["timeout"]["after"] == "P3DT43200S"


def test_claims_are_stored_in_that_form_too() -> None:
    raw = flow("P1W") | {"participants": {"clerk": {"group": "it", "claim": "P1W"}, "boss": {"group": "it"}}}
    raw["steps"]["a"]["transitions"]["go"]["roles"] = ["clerk"]
    stored = msgspec.json.decode(msgspec.json.encode(parse_flow(raw)[0]))
    assert stored["participants"] == {"clerk": {"group": "it", "claim": "P7D"}, "boss": {"group": "it"}}
    assert raw["participants"]["clerk"]["claim"] == "P1W"


async def test_a_change_of_a_flow_has_the_same_durations() -> None:
    r = await rig()
    clerk = {"clerk": {"group": "it", "claim": "P1W"}}
    await r.service.update_flow("loop", {"ttl": "P1W", "participants": clerk})
    newest = await r.definitions.latest("loop")
    assert newest is not None
    assert newest.flow.ttl == timedelta(days=7)
    assert newest.flow.participants is not None
    assert newest.flow.participants["clerk"].claim == timedelta(days=7)


def test_weeks_are_compared_with_days() -> None:
    (finding,) = check_flow(flow("P1W", "P8D"))
    assert (finding.pointer, finding.severity) == ("/steps/a/timeout/after", "warning")


@given(st.integers(0, MAX_DURATION // timedelta(milliseconds=1)))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    span = timedelta(milliseconds=milliseconds)
    assert parse_duration(iso_duration(span)) == span
    assert msgspec.convert(iso_duration(span), timedelta) == span
