"""Verification of tokens, and permission to act for others."""

import itertools
import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from app.auth.claims import ClaimNames
from app.auth.policy import ADMIN, READ, SERVICE, USE, Access, Permission, named_user, require_access
from app.auth.tokens import TokenVerifier, issue_token
from app.contracts.callers import Caller
from app.contracts.errors import (
    AuthenticationRequiredError,
    InsufficientPermissionsError,
    InvalidRequestError,
)
from tests.support.log_events import LogEvents

KEY = "k" * 64


def verifier(**changes: Any) -> TokenVerifier:
    return TokenVerifier(**{"key": KEY, "algorithms": ["HS256"], **changes})


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
    assert (await verifier().verify(token(scope=["a", "b"]))).scopes == {"a", "b", USE}


@pytest.mark.parametrize("exp", [10**400, 1e308, 2**63, str(2**40), 2**40 + 0.5])
async def test_a_token_may_be_valid_for_as_long_as_json_can_say(exp: Any) -> None:
    caller = await verifier().verify(token(exp=exp))
    assert time.time() < caller.expires_at < 1e16


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
        token(exp=float("inf")),
        token(exp=float("nan")),
        token(exp=-(10**400)),
        token(exp="never"),
        token(exp=[1]),
        token(nbf=10**400),
        token(iat=float("inf")),
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


def test_who_may_read_for_whom() -> None:
    ada = Caller(user_id="ada")
    assert named_user(ada, None) == "ada"
    assert named_user(ada, "ada") == "ada"
    with pytest.raises(InsufficientPermissionsError):
        named_user(ada, "bob")
    for scope in (SERVICE, ADMIN, READ):
        trusted = Caller(user_id="svc", scopes=frozenset({scope}))
        assert named_user(trusted, "bob") == "bob"
        with pytest.raises(InvalidRequestError):
            named_user(trusted, "b\0b")
    with pytest.raises(InsufficientPermissionsError):
        require_access(Access(Permission.ADMIN), ada)


@pytest.mark.parametrize(
    ("claims", "roles", "scopes"),
    [
        ({"roles": "approver"}, {"approver"}, set()),
        ({"roles": "Team Lead"}, {"Team Lead"}, set()),
        ({"roles": ["approver", "clerk"]}, {"approver", "clerk"}, set()),
        ({"roles": [7, "clerk"]}, {"7", "clerk"}, set()),
        ({"roles": []}, set(), set()),
        ({"roles": ""}, set(), set()),
        ({"roles": None}, set(), set()),
        ({"scope": "a  b"}, set(), {"a", "b"}),
        ({"scope": ["a b", "c"]}, set(), {"a", "b", "c"}),
        ({"scope": None}, set(), set()),
        ({}, set(), set()),
    ],
)
async def test_a_text_is_one_role_and_a_scope_is_a_text_or_a_list(
    claims: dict[str, Any], roles: set[str], scopes: set[str]
) -> None:
    caller = await verifier().verify(token(**claims))
    assert caller.roles == roles
    assert caller.scopes == {*scopes, USE}


@pytest.mark.parametrize("name", ["roles", "scope"])
@pytest.mark.parametrize("value", [{"a": "b"}, [["a"]], [None], [{"a": 1}], 1.5, True, ["a", False]])
async def test_a_claim_of_another_shape_is_refused_by_name(
    name: str, value: object, log_events: LogEvents
) -> None:
    claims: dict[str, Any] = {name: value}
    with pytest.raises(
        AuthenticationRequiredError, match=f"'{name}' claim must be a text or a list of texts"
    ):
        await verifier().verify(token(**claims))
    logged = log_events.named("token refused")
    assert [(each["reason"], each["error"]) for each in logged] == [
        ("claim", f"The token's '{name}' claim must be a text or a list of texts")
    ]


@pytest.mark.parametrize(
    ("claims", "reason"), [({"exp": 1}, "time"), ({"exp": None}, "claim"), ({"sub": None}, "claim")]
)
async def test_every_refused_token_has_a_reason(claims: dict[str, Any], reason: str) -> None:
    with pytest.raises(AuthenticationRequiredError) as refused:
        await verifier().verify(token(**claims))
    assert refused.value.details == {"reason": reason}


@pytest.mark.parametrize(
    ("names", "claims"),
    [
        (
            ClaimNames(user="email", roles="realm_access.roles", scope="scp"),
            {"sub": None, "email": "a@b.example", "realm_access": {"roles": "clerk"}, "scp": ["x", "y"]},
        ),
        (
            ClaimNames(roles="resource_access.my.app.roles", scope="auth.scope", user="preferred_username"),
            {
                "preferred_username": "a@b.example",
                "resource_access": {"my": {"other": 1}, "my.app": {"roles": ["clerk"]}},
                "auth": {"scope": "x y"},
            },
        ),
        (
            ClaimNames(
                roles="https://app.example/roles", user="https://app.example/user", scope="permissions"
            ),
            {
                "https://app.example/roles": ["clerk"],
                "https://app.example/user": "a@b.example",
                "permissions": ["x", "y"],
            },
        ),
        (
            ClaimNames("sub.id", "cognito:groups"),
            {"sub": {"id": "a@b.example"}, "cognito:groups": ["clerk"], "scope": "x y"},
        ),
    ],
)
async def test_claims_have_the_names_that_identity_providers_give_them(
    names: ClaimNames, claims: dict[str, Any]
) -> None:
    checks = verifier(claims=names)
    expected = Caller("a@b.example", frozenset({"clerk"}), frozenset({"x", "y", USE}))
    for made in (
        token(**claims),
        issue_token(
            KEY, "a@b.example", ttl=timedelta(seconds=60), roles=["clerk"], scopes=["x", "y"], names=names
        ),
    ):
        assert structs.replace(await checks.verify(made), expires_at=0.0) == expected


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("finance", {"finance"}),
        (["finance", "", 7], {"finance", "7"}),
        (None, set()),
        ([{"id": "finance"}], set()),
        ({"names": ["finance"]}, set()),
        (["finance", True], set()),
        (["finance", "two\nlines", "\ud800", "x" * 257], {"finance"}),
    ],
)
async def test_groups_are_read_like_roles_but_refuse_no_token(claim: Any, expected: set[str]) -> None:
    assert (await verifier().verify(token(groups=claim))).groups == expected


@pytest.mark.parametrize(
    ("names", "roles", "groups"),
    [
        (ClaimNames(groups="realm_access.groups", roles="realm_access.roles"), {"clerk"}, {"finance", "it"}),
        (ClaimNames(groups="roles"), {"clerk", "finance", "it"}, {"clerk", "finance", "it"}),
    ],
)
async def test_an_issued_token_names_the_groups(names: ClaimNames, roles: set[str], groups: set[str]) -> None:
    made = issue_token(
        KEY, "ada", ttl=timedelta(hours=1), roles=["clerk"], groups=["finance", "it"], names=names
    )
    caller = await verifier(claims=names).verify(made)
    assert (caller.roles, caller.groups) == (frozenset(roles), frozenset(groups))


@pytest.mark.parametrize("claims", [{}, {"email": None}, {"profile": "x"}, {"profile": {"mail": "x"}}])
async def test_a_missing_user_claim_is_named(claims: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationRequiredError, match=r"no 'profile\.email' claim"):
        await verifier(claims=ClaimNames(user="profile.email")).verify(token(**claims))


@pytest.mark.parametrize(
    ("made", "changes", "reason", "message", "logged"),
    [
        ({"key": "o" * 64}, {}, "signature", "The token's signature does not match", {}),
        (
            {"algorithm": "HS512"},
            {},
            "algorithm",
            "not accepted here",
            {"expected": ["HS256"], "given": "HS512"},
        ),
        (
            {"aud": "other"},
            {"audience": "flows"},
            "audience",
            "for another audience",
            {"expected": "flows", "given": "other"},
        ),
        (
            {"aud": ["other", "more"]},
            {"audience": "flows"},
            "audience",
            "for another audience",
            {"expected": "flows", "given": "['other', 'more']"},
        ),
        (
            {"iss": "them"},
            {"issuer": "us"},
            "issuer",
            "from another issuer",
            {"expected": "us", "given": "them"},
        ),
        ({"nbf": 2**31}, {}, "time", "not valid yet", {}),
        ({"iat": "never"}, {}, "time", "'iat'", {}),
    ],
)
async def test_a_refusal_names_the_mismatch(
    log_events: LogEvents,
    made: dict[str, Any],
    changes: dict[str, Any],
    reason: str,
    message: str,
    logged: dict[str, Any],
) -> None:
    bad = token(**made)
    checks = verifier(**changes)
    with pytest.raises(AuthenticationRequiredError) as refusal:
        await checks.verify(bad)
    assert message in refusal.value.message
    assert refusal.value.details == {"reason": reason}
    for expected in changes.values():
        assert expected not in refusal.value.message
    (event,) = log_events.named("token refused")
    assert event["log_level"] == "info"
    assert event["reason"] == reason
    assert {name: event[name] for name in ("expected", "given") if name in event} == logged
    assert bad not in str(event)


async def test_the_log_of_refusals_is_bounded(log_events: LogEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    checks = verifier()
    for bad in [
        "nonsense",
        "a.b.c",
        token(key="o" * 64),
        *[token(key="o" * 64, jti=str(n)) for n in range(9)],
    ]:
        with pytest.raises(AuthenticationRequiredError):
            await checks.verify(bad)
    moment += 1
    with pytest.raises(AuthenticationRequiredError):
        await checks.verify(token(key="o" * 64))
    reported = [(entry["reason"], entry["unlogged"]) for entry in log_events.named("token refused")]
    assert reported == [("format", 0), ("signature", 0), ("signature", 9)]
