"""The settings of tokens: one source of keys, over a way that nobody can change, for this service alone."""

from pathlib import Path

import pytest

from config.settings import SettingsError, load_settings

ISSUER = {"FLOW_OIDC_ISSUER": "https://login.example.org/realms/shop"}
AUDIENCE = {"FLOW_JWT_AUDIENCE": "flows"}
JWKS = "FLOW_JWKS_URL"
PLAIN = {"FLOW_JWKS_PLAIN_HTTP": "true"}
SECRET = {"FLOW_JWT_SECRET": "x" * 32}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (ISSUER, "FLOW_JWT_AUDIENCE: is missing"),
        ({**ISSUER, "FLOW_JWT_AUDIENCE": ""}, "FLOW_JWT_AUDIENCE: is missing"),
        ({**ISSUER, **AUDIENCE, "FLOW_JWT_ISSUER": "https://login.example.org"}, "FLOW_JWT_ISSUER: unset it"),
        ({**ISSUER, **AUDIENCE, **SECRET}, "set only one of FLOW_JWT_SECRET"),
        ({**ISSUER, **AUDIENCE, JWKS: "https://login.example.org/keys"}, "set only one of"),
        ({**ISSUER, **AUDIENCE, "FLOW_JWT_ALGORITHMS": "HS256"}, "HS* requires FLOW_JWT_SECRET"),
        ({**ISSUER, **AUDIENCE, "FLOW_JWT_ALGORITHMS": "none"}, "'none' is not allowed"),
        ({**AUDIENCE, "FLOW_OIDC_ISSUER": "https://h/?realm=1"}, "without '?'"),
        ({**AUDIENCE, "FLOW_OIDC_ISSUER": "https://h/#a"}, "without the part after '#'"),
        ({**AUDIENCE, "FLOW_OIDC_ISSUER": "https://a:b@h"}, "without user and password"),
        ({**AUDIENCE, "FLOW_OIDC_ISSUER": "login.example.org"}, "must be a URL such as"),
        ({**AUDIENCE, "FLOW_OIDC_ISSUER": "http://login.example.org"}, "FLOW_OIDC_ISSUER: must begin with"),
        ({JWKS: "http://keys.example.org/keys"}, "FLOW_JWKS_URL: must begin with https://"),
        ({JWKS: "http://10.0.0.7/keys"}, "FLOW_JWKS_PLAIN_HTTP=true"),
        ({JWKS: "http://127.0.0.1.example.org/keys"}, "must begin with https://"),
        ({JWKS: "file:///keys.json"}, "must be a URL such as"),
        ({JWKS: "https://h:port/"}, "is an invalid URL"),
        ({JWKS: "https://h/a b"}, "without spaces"),
        ({JWKS: "https://h/" + "a" * 2048}, "at most 2048"),
        ({"FLOW_JWT_ROLES_CLAIM": "a,b,a"}, "must name different claims"),
        ({"FLOW_JWT_ROLES_CLAIM": "a,,b"}, "is not the name of a claim"),
        ({"FLOW_JWT_ROLES_CLAIM": "a,a.b"}, "none inside another"),
        ({"FLOW_JWT_SCOPE_CLAIM": "scp,sub"}, "must name different claims"),
        ({"FLOW_JWT_SCOPE_CLAIM": "roles"}, "must name different claims"),
        ({"FLOW_JWT_USER_CLAIM": "sub,oid"}, "is not the name of a claim"),
        ({"FLOW_JWT_GROUPS_CLAIM": "groups,teams"}, "is not the name of a claim"),
    ],
)
def test_refused_settings_name_the_fault(
    env: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refusal(env, monkeypatch)
    assert says in refused
    assert refused.count("\n") == 0


@pytest.mark.parametrize(
    "env",
    [
        {**ISSUER, **AUDIENCE},
        {**AUDIENCE, "FLOW_OIDC_ISSUER": "http://localhost:8080/realms/shop"},
        {**AUDIENCE, **PLAIN, "FLOW_OIDC_ISSUER": "http://keycloak:8080/realms/shop"},
        {JWKS: "http://127.0.0.1:8080/keys"},
        {JWKS: "http://[::1]:8080/keys"},
        {JWKS: "http://keys.example.org/keys", **PLAIN},
        {JWKS: "https://10.0.0.7/keys?version=2"},
        {**SECRET, "FLOW_JWT_ROLES_CLAIM": "realm_access.roles, resource_access.my.app.roles"},
        {**SECRET, "FLOW_JWT_SCOPE_CLAIM": "scp,roles"},
        {**SECRET, "FLOW_JWT_ROLES_CLAIM": "a,b", "FLOW_JWT_GROUPS_CLAIM": "b"},
    ],
)
def test_accepted_settings(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.has_jwt_keys
    if "FLOW_OIDC_ISSUER" in env:
        assert settings.expected_issuer == env["FLOW_OIDC_ISSUER"]
    settings.require_token_check()


def test_without_any_key_the_start_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"FLOW_OIDC_ISSUER or FLOW_ED25519_KEYS"):
        load_settings().require_token_check()
