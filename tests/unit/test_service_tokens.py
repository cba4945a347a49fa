"""Tokens and keys of services: the claim that limits a token, and the command that makes one."""

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result

from app.asgi import token_verifier
from app.auth.claims import ClaimNames
from app.auth.tokens import TokenVerifier
from app.cli import main
from app.contracts.callers import ADMIN, SERVICE, Caller, service_caller
from app.contracts.errors import AuthenticationRequiredError
from app.services.integrations.key_text import new_key
from config.settings import load_settings
from tests.support.log_events import LogEvents

KEY = "k" * 40
ENV = {"FLOW_JWT_SECRET": KEY}


def verifier(**changes: Any) -> TokenVerifier:
    return TokenVerifier(**{"key": KEY, "algorithms": ["HS256"], **changes})


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "ada", "exp": int(time.time()) + 60, **claims}, KEY, algorithm="HS256")


@pytest.mark.parametrize("scope", [SERVICE, f"{SERVICE} {ADMIN}", ADMIN, f"openid {SERVICE}"])
async def test_the_claim_limits_a_token_with_a_scope_to_one_service(scope: str) -> None:
    made = token(scope=scope, service="payment", roles=["teller"], groups=["it"])
    caller = await verifier().verify(made)
    assert caller == service_caller(
        "payment", roles=frozenset({"teller"}), groups=frozenset({"it"}), expires_at=caller.expires_at
    )
    assert (caller.user_id, caller.scopes, caller.credential) == (
        "service:payment",
        frozenset({SERVICE}),
        "",
    )


@pytest.mark.parametrize("scope", ["", "openid", "service"])
async def test_the_claim_says_nothing_about_a_token_without_a_scope(scope: str) -> None:
    caller = await verifier().verify(token(scope=scope, service=["anything"]))
    assert (caller.user_id, caller.service) == ("ada", "")


@pytest.mark.parametrize(
    "alias",
    ["", " payment", "payment\n", "Payment", "a:b", "-a", "x" * 65, 7, True, ["payment"], {}, "\ud800"],
)
async def test_a_claim_that_names_no_service_is_refused_and_never_ignored(alias: Any) -> None:
    with pytest.raises(AuthenticationRequiredError, match="cannot name a service"):
        await verifier().verify(token(scope=SERVICE, service=alias))


async def test_the_name_of_the_claim_is_a_setting() -> None:
    claims = ClaimNames(service="client.alias")
    caller = await verifier(claims=claims).verify(token(scope=SERVICE, client={"alias": "payment"}))
    assert caller.service == "payment"
    caller = await verifier(claims=claims).verify(token(scope=SERVICE, service="payment"))
    assert caller.service == ""


async def test_a_token_of_a_service_expires_and_is_not_renewed() -> None:
    caller = await verifier().verify(token(scope=SERVICE, service="payment"))
    assert await verifier().renew(caller) == caller
    with pytest.raises(AuthenticationRequiredError, match="has expired"):
        await verifier().renew(Caller("ada", expires_at=time.time() - 1))


async def test_without_keys_no_key_is_accepted(log_events: LogEvents) -> None:
    text, _ = new_key()
    with pytest.raises(AuthenticationRequiredError, match="not valid here"):
        await verifier().verify(text)
    with pytest.raises(AuthenticationRequiredError, match="not valid here"):
        await verifier().renew(service_caller("payment", credential="x"))
    assert text not in repr(log_events.entries)


async def test_texts_like_a_key_are_refused_as_tokens_without_being_logged(log_events: LogEvents) -> None:
    text, _ = new_key()
    for given in (text.upper(), f" {text}", text[1:], f"Sfk{text[3:]}", text[4:]):
        with pytest.raises(AuthenticationRequiredError):
            await verifier().verify(given)
    assert text.rpartition("_")[2][:20].lower() not in repr(log_events.entries).lower()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*words: str) -> Result:
    return CliRunner().invoke(main, ["token", *words], env=ENV)


async def test_the_command_makes_a_token_of_a_service(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = command("--service", "payment", "--role", "teller").output.strip()
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    caller = await token_verifier(load_settings()).verify(made)
    assert (caller.service, caller.user_id, caller.roles) == (
        "payment",
        "service:payment",
        frozenset({"teller"}),
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "Missing option '--user', or '--service'"),
        (("--service", "payment", "--user", "ada"), "--service needs neither"),
        (("--service", "payment", "--scope", "flow:admin"), "--service needs neither"),
        (("--service", "Payment"), "lower-case letters"),
        (("--service", ""), "lower-case letters"),
    ],
)
def test_the_command_refuses_what_would_not_be_limited(
    elsewhere: None, words: tuple[str, ...], says: str
) -> None:
    refused = command(*words)
    assert refused.exit_code == 2
    assert says in " ".join(refused.output.replace("│", " ").split())
