"""``token``: what it refuses, and what the token says."""

from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from app.asgi import token_verifier
from app.auth.policy import SCOPES
from app.cli import main
from config.settings import load_settings

ENV = {"FLOW_JWT_SECRET": "k" * 40}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def token(*words: str, **env: str) -> Result:
    return CliRunner().invoke(main, ["token", "--user", "ada", *words], env={**ENV, **env})


@pytest.mark.parametrize(
    ("scope", "meant"),
    [
        ("flow:amdin", "flow:admin"),
        ("flow:Admin", "flow:admin"),
        ("flow-admin", "flow:admin"),
        ("admin", "flow:admin"),
        ("flows:admin", "flow:admin"),
        ("flow:sevice", "flow:service"),
        ("service", "flow:service"),
        ("flow:raed", "flow:read"),
        ("use", "flow:use"),
        ("flow:orders", "flow:use or flow:service or flow:read or flow:admin"),
        ("openid flow:amdin", "flow:admin"),
        ("flow:admin,flow:service", "flow:use or flow:service or flow:read or flow:admin"),
    ],
)
def test_a_misspelt_scope_is_refused_with_the_one_that_was_meant(scope: str, meant: str) -> None:
    refused = token("--scope", scope)
    assert refused.exit_code == 2
    assert f"did you mean {meant}?" in " ".join(refused.output.replace("│", " ").split())


@pytest.mark.parametrize("scope", [*SCOPES, "flow:admin flow:service", "openid", "orders:read"])
def test_other_scopes_are_those_of_other_services(scope: str) -> None:
    claims = jwt.decode(token("--scope", scope).output.strip(), options={"verify_signature": False})
    assert claims["scope"] == scope


@pytest.mark.parametrize("option", ["--role", "--group"])
@pytest.mark.parametrize("name", ["", " approver", "a\nb", "x" * 129])
def test_a_role_or_group_that_no_flow_can_name_is_refused(option: str, name: str) -> None:
    refused = token(option, name)
    assert refused.exit_code == 2
    assert option in refused.output


async def test_a_server_with_the_same_settings_reads_its_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {
        "FLOW_JWT_USER_CLAIM": "email",
        "FLOW_JWT_ROLES_CLAIM": "realm_access.roles",
        "FLOW_JWT_SCOPE_CLAIM": "scp",
        "FLOW_JWT_GROUPS_CLAIM": "realm_access.groups",
    }
    made = token(
        "--role", "clerk", "--group", "it", "--group", "hr", "--scope", "flow:service", **env
    ).output.strip()
    claims = jwt.decode(made, options={"verify_signature": False})
    assert (claims["email"], claims["realm_access"]) == ("ada", {"roles": ["clerk"], "groups": ["it", "hr"]})
    for name, value in {**ENV, **env}.items():
        monkeypatch.setenv(name, value)
    caller = await token_verifier(load_settings()).verify(made)
    assert caller.user_id == "ada"
    assert caller.roles == {"clerk"}
    assert caller.groups == {"it", "hr"}
    assert caller.scopes == {"flow:service"}
