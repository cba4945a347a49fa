"""Tokens are verified, and who may act for whom."""

import itertools
import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.auth.permissions import ADMIN, SERVICE, acting_for, require_scope
from app.auth.tokens import TokenVerifier, issue_token
from app.contracts.command import Caller
from app.contracts.errors import (
    AuthenticationRequiredError,
    InsufficientPermissionsError,
    InvalidRequestError,
)

KEY = "k" * 64


def verifier(**changes: Any) -> TokenVerifier:
    return TokenVerifier(**{"key": KEY, "jwks_url": None, "algorithms": ["HS256"], **changes})


def token(key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    whole = {"sub": "ada", "exp": int(time.time()) + 60, **claims}
    return jwt.encode({k: v for k, v in whole.items() if v is not None}, key, algorithm=algorithm)


async def test_claims_become_the_caller() -> None:
    made = issue_token(KEY, "ada", ttl=timedelta(hours=1), roles=["editor"], scopes=[ADMIN, SERVICE])
    caller = await verifier().verify(made)
    assert caller.user_id == "ada"
    assert caller.roles == {"editor"}
    assert caller.scopes == {ADMIN, SERVICE}
    assert caller.expires_at == pytest.approx(time.time() + 3605, abs=5)
    assert (await verifier().verify(token(scope=["a", "b"]))).scopes == {"a", "b"}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "nonsense",
        "a.b.c",
        token(key="o" * 64),
        token(exp=int(time.time()) - 60),
        token(exp=None),
        token(sub=None),
        token(sub=""),
        token(sub="a\nb"),
        token(sub="x" * 257),
        token(nbf=int(time.time()) + 600),
        jwt.encode({"sub": "ada", "exp": int(time.time()) + 60}, "", algorithm="none"),
        token(algorithm="HS512"),
    ],
    ids=itertools.count(),  # not the tokens: they have the time in them
)
async def test_anything_else_is_refused_without_repeating_it(bad: str | None) -> None:
    with pytest.raises(AuthenticationRequiredError) as refusal:
        await verifier().verify(bad)
    if bad:
        assert bad not in refusal.value.message


async def test_a_remembered_token_expires_too(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = verifier()
    made = token(exp=int(time.time()) + 1)
    await checks.verify(made)
    later = time.time() + 7
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(AuthenticationRequiredError):
        await checks.verify(made)


async def test_audience_and_issuer() -> None:
    checks = verifier(audience="flows", issuer="us")
    made = issue_token(KEY, "ada", ttl=timedelta(hours=1), audience="flows", issuer="us")
    assert (await checks.verify(made)).user_id == "ada"
    for wrong in ({"aud": "other", "iss": "us"}, {"aud": "flows", "iss": "them"}, {}):
        with pytest.raises(AuthenticationRequiredError):
            await checks.verify(token(**wrong))


async def test_a_public_key_checks_and_is_no_shared_secret() -> None:
    private = Ed25519PrivateKey.generate()
    public = (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    checks = verifier(key=public, algorithms=["EdDSA"])
    claims = {"sub": "ada", "exp": int(time.time()) + 60}
    assert (await checks.verify(jwt.encode(claims, private, algorithm="EdDSA"))).user_id == "ada"
    with pytest.raises(AuthenticationRequiredError):
        await checks.verify(token())


def test_who_may_act_for_whom() -> None:
    ada = Caller(user_id="ada")
    assert acting_for(ada, None) == "ada"
    assert acting_for(ada, "ada") == "ada"
    with pytest.raises(InsufficientPermissionsError):
        acting_for(ada, "bob")
    for scope in (SERVICE, ADMIN):
        trusted = Caller(user_id="svc", scopes=frozenset({scope}))
        assert acting_for(trusted, "bob") == "bob"
        with pytest.raises(InvalidRequestError):
            acting_for(trusted, "b\0b")
    with pytest.raises(InsufficientPermissionsError):
        require_scope(ada, ADMIN)
