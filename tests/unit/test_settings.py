"""Settings are checked before anything starts."""

from datetime import timedelta
from pathlib import Path

import pytest

from config.settings import SHIPPED_FLOWS, SettingsError, load_settings, mask_url

SERVERS = {"FLOW_MONGO_URL": "mongodb://u:hidden@h", "FLOW_REDIS_URL": "redis://:hidden@h"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_are_embedded() -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.definition_files() == [SHIPPED_FLOWS]
    assert not settings.files_override
    assert settings.socket_transports == ["websocket"]


def test_environment_and_dot_env(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("FLOW_STATE_TTL=P30D\nFLOW_LOG_LEVEL=debug\n")
    monkeypatch.setenv("FLOW_LOG_LEVEL", "ERROR")
    monkeypatch.setenv("FLOW_CORS_ORIGINS", "https://a, https://b")
    monkeypatch.setenv("FLOW_DEFINITIONS", "file:x.json,database")
    settings = load_settings()
    assert settings.state_ttl == timedelta(days=30)
    assert settings.log_level == "error"
    assert settings.cors_origins == ["https://a", "https://b"]
    assert settings.files_override


def test_a_folder_below_the_working_directory_comes_before_the_shipped_one(elsewhere: Path) -> None:
    (elsewhere / "config" / "flows").mkdir(parents=True)
    assert load_settings().definition_files() == [Path("config/flows")]


def test_every_fault_at_once_with_close_matches(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("FLOW_REDISURL=x\n")
    monkeypatch.setenv("FLOW_JWT_SECERT", "x")
    monkeypatch.setenv("FLOW_STATE_TTL", "tomorrow")
    monkeypatch.setenv("FLOW_ENCRYPTION_KEYS", "k")
    monkeypatch.setenv("FLOW_TEST_MONGO_URL", "is not a setting")
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    lines = str(refusal.value).splitlines()
    assert len(lines) == 4
    assert any("FLOW_REDISURL: there is no such setting; did you mean FLOW_REDIS_URL" in x for x in lines)
    assert any("FLOW_JWT_SECERT: there is no such setting; did you mean FLOW_JWT_SECRET" in x for x in lines)
    assert any(x.startswith("FLOW_STATE_TTL: ") for x in lines)
    assert any("FLOW_ENCRYPTION_KEYS: payload encryption is not in this version" in x for x in lines)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"FLOW_JWT_SECRET": "x" * 31}, "32 bytes"),
        ({"FLOW_JWT_SECRET": "x" * 32, "FLOW_JWKS_URL": "https://k"}, "not more"),
        ({"FLOW_JWT_PUBLIC_KEY": "k", "FLOW_JWT_ALGORITHMS": "RS256,HS256"}, "HS*"),
        ({"FLOW_JWT_ALGORITHMS": "None"}, "not allowed"),
        ({"FLOW_MONGO_URL": "mongodb://h"}, "FLOW_REDIS_URL is missing"),
        ({"FLOW_SOCKET_TRANSPORTS": "pigeon"}, "websocket and polling"),
        ({"FLOW_STATE_TTL": "PT0S"}, "longer than nothing"),
        ({"FLOW_MONGO_DATABASE": "a.b"}, "FLOW_MONGO_DATABASE"),
    ],
)
def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], says: str) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r".*") as refusal:
        load_settings()
    assert says in str(refusal.value)


def test_there_is_no_built_in_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVERS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="FLOW_JWT_SECRET"):
        load_settings().require_token_check()


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SERVERS, "FLOW_JWT_SECRET": "hidden" * 10}.items():
        monkeypatch.setenv(name, value)
    shown = load_settings().masked()
    assert "hidden" not in str(shown)
    assert "hidden" not in repr(load_settings())
    assert shown["FLOW_MONGO_URL"] == "mongodb://u:***@h"
    assert mask_url("redis://h/0") == "redis://h/0"
    assert mask_url("mongodb://u:pa/ss@w@h/db") == "mongodb://u:***@h/db"


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://localhost:3000/", "https://a.example/x", "http://"]
)
def test_origins_are_such_as_a_browser_sends(origin: str) -> None:
    with pytest.raises(SettingsError, match="takes origins"):
        load_settings(cors_origins=f"https://app.example.org, {origin}")


def test_several_origins() -> None:
    settings = load_settings(cors_origins="https://app.example.org, http://localhost:3000")
    assert settings.cors_origins == ["https://app.example.org", "http://localhost:3000"]
