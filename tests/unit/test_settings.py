"""Settings are checked before anything starts."""

from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.encryption import create_wrapping_key, parse_wrapping_keys
from config.masking import mask_url
from config.settings import SHIPPED_FLOWS, SettingsError, load_settings
from config.sources import AUTH_FORMS, SourceSetting, auth_header, is_interceptable

REMOTE = {"FLOW_DEFINITIONS": "database,https://h/x"}
WRAPPING_KEY = "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio="
SERVERS = {"FLOW_MONGO_URL": "mongodb://u:hidden@h", "FLOW_REDIS_URL": "redis://:hidden@h"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_are_embedded() -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.definition_sources() == [SourceSetting("file", str(SHIPPED_FLOWS), overrides=False)]
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
    assert settings.definition_sources() == [SourceSetting("file", "x.json", overrides=True)]


def test_a_folder_below_the_working_directory_comes_before_the_shipped_one(elsewhere: Path) -> None:
    (elsewhere / "config" / "flows").mkdir(parents=True)
    (source,) = load_settings().definition_sources()
    assert source.path == Path("config/flows")


def test_with_own_servers_no_examples_are_published(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    for name, value in SERVERS.items():
        monkeypatch.setenv(name, value)
    (elsewhere / "config" / "flows").mkdir(parents=True)
    settings = load_settings()
    assert settings.definitions == ["database"]
    assert settings.definition_sources() == []
    assert settings.masked()["FLOW_DEFINITIONS"] == "database"


def test_with_own_servers_a_missing_folder_is_not_replaced_by_the_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SERVERS.items():
        monkeypatch.setenv(name, value)
    (source,) = load_settings(definitions="database,file:config/flows").definition_sources()
    assert source.path == Path("config/flows")


def test_settings_with_the_servers_of_the_embedded_default_have_the_examples() -> None:
    servers = {"mongo_url": SecretStr("mongodb://h"), "redis_url": SecretStr("redis://h")}
    started = load_settings().model_copy(update=servers)
    assert started.definition_sources() == [SourceSetting("file", str(SHIPPED_FLOWS), overrides=False)]


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
    assert any(x.startswith("FLOW_ENCRYPTION_KEYS: entry 1 is not 32 bytes in base64") for x in lines)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"FLOW_JWT_SECRET": "x" * 31}, "32 bytes"),
        ({"FLOW_JWT_SECRET": "x" * 32, "FLOW_JWKS_URL": "https://k"}, "set only one"),
        ({"FLOW_JWT_PUBLIC_KEY": "k", "FLOW_JWT_ALGORITHMS": "RS256,HS256"}, "HS*"),
        ({"FLOW_JWT_ALGORITHMS": "None"}, "not allowed"),
        ({"FLOW_MONGO_URL": "mongodb://h"}, "FLOW_REDIS_URL is missing"),
        ({"FLOW_SOCKET_TRANSPORTS": "pigeon"}, "websocket, polling, or both"),
        ({"FLOW_STATE_TTL": "PT0S"}, "longer than zero"),
        ({"FLOW_JWT_ROLES_CLAIM": ""}, "FLOW_JWT_ROLES_CLAIM: '' is not the name of a claim"),
        ({"FLOW_JWT_ROLES_CLAIM": ".roles"}, "is not the name of a claim"),
        ({"FLOW_JWT_SCOPE_CLAIM": "a."}, "is not the name of a claim"),
        ({"FLOW_JWT_USER_CLAIM": "a b"}, "is not the name of a claim"),
        ({"FLOW_JWT_USER_CLAIM": "roles"}, "different claims"),
        ({"FLOW_JWT_SCOPE_CLAIM": "roles.scope"}, "none inside another"),
        ({"FLOW_JWT_GROUPS_CLAIM": "sub"}, "different claims"),
        ({"FLOW_JWT_GROUPS_CLAIM": "roles.groups"}, "none inside another"),
        ({"FLOW_JWT_GROUPS_CLAIM": "a b"}, "FLOW_JWT_GROUPS_CLAIM: 'a b' is not the name of a claim"),
        ({"FLOW_JWT_SERVICE_CLAIM": "sub"}, "different claims"),
        ({"FLOW_JWT_SERVICE_CLAIM": "scope.service"}, "none inside another"),
        ({"FLOW_JWT_SERVICE_CLAIM": "a b"}, "FLOW_JWT_SERVICE_CLAIM: 'a b' is not the name of a claim"),
        ({"FLOW_JWT_ROLE_CLAIM": "roles"}, "did you mean FLOW_JWT_ROLES_CLAIM"),
        ({"FLOW_MONGO_DATABASE": "a.b"}, "FLOW_MONGO_DATABASE"),
        ({"FLOW_DEFINITIONS": "database,ftp://h"}, "FLOW_DEFINITIONS: must be database, file:PATH or https"),
        ({"FLOW_DEFINITIONS": "file:"}, "must be database, file:PATH"),
        ({"FLOW_DEFINITIONS": "file:a,database,file:a"}, "contains a source twice"),
        ({"FLOW_DEFINITIONS": "https://"}, "must be a URL such as"),
        ({"FLOW_DEFINITIONS": "https://h:port/x"}, "contains an invalid URL"),
        ({"FLOW_DEFINITIONS": "https://h/#part"}, "without the part after '#'"),
        ({"FLOW_DEFINITIONS": "https://h/a b"}, "without spaces"),
        ({"FLOW_DEFINITIONS_AUTH": "bearer:t"}, "FLOW_DEFINITIONS_AUTH: requires an https:// source"),
        ({"FLOW_DEFINITIONS_PRIVATE_REDIRECTS": "perhaps"}, "FLOW_DEFINITIONS_PRIVATE_REDIRECTS"),
        ({"FLOW_SERVICES_PRIVATE_ADDRESSES": "perhaps"}, "FLOW_SERVICES_PRIVATE_ADDRESSES: 'perhaps' is not"),
        ({"FLOW_SERVICES_PRIVATE_ADDRESSES": ""}, "must be false, true, or networks"),
        ({"FLOW_SERVICES_PRIVATE_ADDRESSES": "true,10.0.0.0/8"}, "'true' is not a network"),
        ({"FLOW_SERVICES_PRIVATE_ADDRESSES": "10.1.0.0/8"}, "write 10.0.0.0/8, or the address alone"),
        ({"FLOW_SERVICES_PRIVATE_ADDRESSES": "10.0.0.0/33"}, "'10.0.0.0/33' is not a network"),
        ({"FLOW_SERVICES_PRIVATE_ADDRESSES": "10.0.0.1," * 101}, "at most 100 networks"),
        ({**REMOTE, "FLOW_DEFINITIONS_AUTH": "bearer:"}, "FLOW_DEFINITIONS_AUTH: must be bearer:TOKEN"),
        ({**REMOTE, "FLOW_DEFINITIONS_AUTH": "apikey:Host:x"}, "is a standard header of HTTP"),
        (
            {"FLOW_MONGO_URL": "mongodb://h", "FLOW_REDIS_URL": "redis://h", "FLOW_ENCRYPTION_REQUIRED": "1"},
            "FLOW_ENCRYPTION_REQUIRED needs FLOW_ENCRYPTION_KEYS",
        ),
        ({"FLOW_ENCRYPTION_KEYS": ""}, "FLOW_ENCRYPTION_KEYS: entry 1 is empty: create one with"),
        ({"FLOW_ENCRYPTION_KEYS": f"{WRAPPING_KEY},hidden!"}, "entry 2 is not 32 bytes in base64"),
        ({"FLOW_ENCRYPTION_KEYS": "00" * 32}, "entry 1 is 48 bytes in base64, not 32"),
        ({"FLOW_ENCRYPTION_KEYS": f"{WRAPPING_KEY},{WRAPPING_KEY[:-1]}"}, "entry 2 repeats an earlier one"),
        ({"FLOW_ENCRYPTION_KEYS": "local:0123456789abcdef"}, "entry 1 is the id of a key, not a key"),
        ({"FLOW_ENCRYPTION_KEYS": "pgp:x"}, "entry 1 begins with no known key service (awskms:, gcpkms:"),
        ({"FLOW_ENCRYPTION_KEYS": "x,,y"}, "in base64: create one with: server-flow keys generate; entry 2"),
        ({"FLOW_ENCRYPTION_KEYS": "x," * 101}, "at most 100 keys"),
        (
            {"FLOW_DEFINITIONS": "http://h/x", "FLOW_DEFINITIONS_AUTH": "bearer:t"},
            "sent over https only (or to this machine), not to http://h/x",
        ),
        (
            {"FLOW_DEFINITIONS": "https://h,https://h:444", "FLOW_DEFINITIONS_AUTH": "bearer:t"},
            "must have the same host",
        ),
    ],
)
def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], says: str) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r".*") as refusal:
        load_settings()
    assert says in str(refusal.value)


@pytest.mark.parametrize("form", [str, lambda key: key.rstrip("="), lambda key: f" {key} "])
@pytest.mark.parametrize("alphabet", ["-_", "+/"])
def test_encryption_keys_in_every_form_of_base64(
    monkeypatch: pytest.MonkeyPatch, form: Callable[[str], str], alphabet: str
) -> None:
    keys = [bytes([number]) * 32 for number in (0xFB, 0xFF)]
    entries = [b64encode(key).decode().translate(str.maketrans("+/", alphabet)) for key in keys]
    assert set(alphabet) <= set("".join(entries))
    monkeypatch.setenv("FLOW_ENCRYPTION_KEYS", ",".join(map(form, entries)))
    settings = load_settings()
    assert [entry.key for entry in settings.wrapping_keys] == keys
    mine, other = create_wrapping_key(), create_wrapping_key()
    assert len({*parse_wrapping_keys(f"{mine},{other}")}) == 2
    both = settings.encryption_keys_with([entries[1], mine])
    assert parse_wrapping_keys(both) == (*settings.wrapping_keys, *parse_wrapping_keys(mine))


def test_no_fault_of_an_encryption_key_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (
        "hidden",
        f"hidden,{WRAPPING_KEY}",
        f"{WRAPPING_KEY},{WRAPPING_KEY}",
        "vault:hidden",
        "hidden:x",
    ):
        monkeypatch.setenv("FLOW_ENCRYPTION_KEYS", value)
        with pytest.raises(SettingsError, match="FLOW_ENCRYPTION_KEYS: entry") as refusal:
            load_settings()
        assert "hidden" not in str(refusal.value)
        assert "Kio" not in str(refusal.value)


def test_there_is_no_built_in_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVERS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="FLOW_JWT_SECRET"):
        load_settings().require_token_check()


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"FLOW_JWT_SECRET": "hidden" * 10, "FLOW_ENCRYPTION_KEYS": WRAPPING_KEY}
    for name, value in {**SERVERS, **secrets}.items():
        monkeypatch.setenv(name, value)
    shown = load_settings().masked()
    for text in (str(shown), repr(load_settings())):
        assert "hidden" not in text
        assert "Kio" not in text
    assert shown["FLOW_MONGO_URL"] == "mongodb://u:***@h"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h/0", "redis://h/0"),
        ("mongodb://u:pa/ss@w@h/db", "mongodb://u:***@h/db"),
        (
            "mongodb://u:s@a:1,b:2/db?replicaSet=r&w=majority",
            "mongodb://u:***@a:1,b:2/db?replicaSet=r&w=majority",
        ),
        (
            "mongodb://h/?tls=true&tlsCertificateKeyFilePassword=s&authMechanismProperties=AWS_SESSION_TOKEN:s",
            "mongodb://h/?tls=true&tlsCertificateKeyFilePassword=***&authMechanismProperties=***",
        ),
        ("redis://h/0?password=s&db=1", "redis://h/0?password=***&db=1"),
        ("redis://s@h/0", "redis://***@h/0"),
        ("redis://:s@h/0", "redis://:***@h/0"),
        ("https://u:s@h/keys?token=s&s#s", "https://***@h/keys?token=***&***#***"),
        ("https://h/keys", "https://h/keys"),
        ("redis://:s?s@h/0", "redis://***"),
        ("redis://h/0?password=s@s", "redis://***"),
        ("s", "***"),
        ("redis://u:s/0", "redis://***/0"),
        ("mongodb://u:p@h:s/db", "mongodb://u:***@***/db"),
        ("mongodb://[::1]:27017,h:1,h/db", "mongodb://[::1]:27017,h:1,h/db"),
        ("unix:///run/redis:1.sock?password=s", "unix:///run/redis:1.sock?password=***"),
    ],
)
def test_what_is_not_known_to_be_harmless_in_a_url_is_masked(url: str, shown: str) -> None:
    assert mask_url(url) == shown


def test_every_url_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLOW_JWKS_URL", "https://h/keys?token=hidden")
    monkeypatch.setenv("FLOW_JWT_ISSUER", "https://u:hidden@h/realm")
    shown = load_settings().masked()
    assert shown["FLOW_JWKS_URL"] == "https://h/keys?token=***"
    assert shown["FLOW_JWT_ISSUER"] == "https://***@h/realm"


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://localhost:3000/", "https://a.example/x", "http://"]
)
def test_origins_are_such_as_a_browser_sends(origin: str) -> None:
    with pytest.raises(SettingsError, match="must be origins"):
        load_settings(cors_origins=f"https://app.example.org, {origin}")


def test_several_origins() -> None:
    settings = load_settings(cors_origins="https://app.example.org, http://localhost:3000")
    assert settings.cors_origins == ["https://app.example.org", "http://localhost:3000"]


def test_sources_in_their_order_and_those_before_the_database_override_it() -> None:
    settings = load_settings(definitions="https://h/a?key=k, file:x.toml, database, http://localhost:1/b")
    assert settings.definition_sources() == [
        SourceSetting("remote", "https://h/a?key=k", overrides=True),
        SourceSetting("file", "x.toml", overrides=True),
        SourceSetting("remote", "http://localhost:1/b", overrides=False),
    ]
    assert all(source.overrides for source in load_settings(definitions="file:a,file:b").definition_sources())
    assert "key=k" not in settings.masked()["FLOW_DEFINITIONS"]


@pytest.mark.parametrize(
    "auth",
    [
        "bearer hidden",
        "basic:hidden",
        "apikey:X-hidden",
        "apikey:X Y:hidden",
        "token:hidden",
        "bearer:a\nhidden",
    ],
)
def test_credentials_of_a_wrong_form_are_refused_and_not_repeated(auth: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(definitions="https://h/x", definitions_auth=auth)
    assert str(refusal.value) == f"FLOW_DEFINITIONS_AUTH: must be {AUTH_FORMS}"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("definitions", "https://u:hidden@h/x"),
        ("definitions", "ftp://u:hidden@h"),
        ("definitions", "u:hidden@h"),
        ("definitions", "mongodb://u:hidden/x"),
        ("cors_origins", "https://u:hidden@h"),
        ("cors_origins", "https://*.h@hidden"),
        ("cors_origins", "u:hidden@h"),
        ("cors_origins", "https://h/?u=a@hidden"),
    ],
)
def test_a_password_in_a_setting_is_refused_and_not_repeated(setting: str, value: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(**{setting: value})
    assert "hidden" not in str(refusal.value)


def test_credentials_are_masked_and_become_a_header() -> None:
    settings = load_settings(definitions="https://h/a,https://h:443/b", definitions_auth="basic:ann:hidden:ä")
    assert settings.masked()["FLOW_DEFINITIONS_AUTH"] == "**********"
    assert settings.definitions_auth is not None
    assert auth_header(settings.definitions_auth.get_secret_value()) == (
        "Authorization",
        "Basic YW5uOmhpZGRlbjrDpA==",
    )
    assert auth_header("Bearer:t.t") == ("Authorization", "Bearer t.t")
    assert auth_header("apikey:X-Key:a:b c") == ("X-Key", "a:b c")


@pytest.mark.parametrize(
    ("url", "readable"),
    [
        ("https://h", False),
        ("http://localhost:8000/x", False),
        ("http://127.9.9.9", False),
        ("http://[::1]:80/", False),
        ("http://h", True),
        ("http://10.0.0.1", True),
        ("http://localhost.example.org", True),
        ("http://127.0.0.1.example.org", True),
    ],
)
def test_what_can_be_read_on_the_way(url: str, readable: bool) -> None:
    assert is_interceptable(url) is readable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "false"),
        ("FALSE", "false"),
        ("True", "true"),
        (" 10.0.0.0/8, fd00::/8 ,192.168.7.12,", "10.0.0.0/8,fd00::/8,192.168.7.12/32"),
    ],
)
def test_private_addresses_of_services(
    monkeypatch: pytest.MonkeyPatch, given: str | None, shown: str
) -> None:
    if given is not None:
        monkeypatch.setenv("FLOW_SERVICES_PRIVATE_ADDRESSES", given)
    settings = load_settings()
    assert settings.masked()["FLOW_SERVICES_PRIVATE_ADDRESSES"] == shown
    assert str(settings.private_addresses) == shown
    assert settings.private_addresses.all is (shown == "true")
