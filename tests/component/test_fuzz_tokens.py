"""Any text is a token of its caller, or is refused: signed tokens, API keys, envelopes, and headers."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import strategies as st

from app.auth.envelope_tokens import EnvelopeVerifier
from app.auth.jwk_sets import read_key_set
from app.auth.keys import SigningKeys
from app.auth.schemes import credential_in
from app.auth.tokens import TokenVerifier
from app.contracts.callers import ADMIN, Caller
from app.contracts.errors import FlowError
from app.contracts.identifiers import is_id
from app.contracts.integration import Integration
from app.contracts.integration_commands import ApiKeyCommand
from config.tokens import read_ed25519_key
from tests.support.envelopes import PUBLIC_KEY, auth, envelope, packed, signed, unpadded
from tests.support.fuzzing import Loop, fuzz, json_values
from tests.support.identity import EC_KEY, ED_KEY, RSA_KEY, jwks, public_jwk
from tests.support.rig import Rig

SECRET = "k" * 64
ALGORITHMS = ["RS256", "ES256", "EdDSA"]
KEY_SET = read_key_set(
    jwks(public_jwk(ED_KEY, "ed"), public_jwk(RSA_KEY, "rsa"), public_jwk(EC_KEY, "ec")), ALGORITHMS
)
REFUSALS = {"AUTHENTICATION_REQUIRED", "RATE_LIMITED"}
FAR = 2**40


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Published:
    """The keys of an identity provider."""

    setting = "FLOW_JWKS_URL"

    async def read(self) -> Any:
        return KEY_SET


class Checks:
    """Verifiers of tokens by a secret and by published keys, of envelopes and of API keys."""

    def __init__(self) -> None:
        rig = Rig()
        rig.clock.time = datetime.now(UTC)
        self.keys = rig.service.integrations.keys
        now = rig.clock.now()
        rig.registrations.integrations["pay"] = Integration(alias="pay", registered_at=now, updated_at=now)
        envelopes = EnvelopeVerifier([read_ed25519_key(PUBLIC_KEY)])
        common: dict[str, Any] = {"service_keys": self.keys, "envelopes": envelopes}
        self.verifiers = [
            TokenVerifier(key=SECRET, algorithms=["HS256"], **common),
            TokenVerifier(key=None, algorithms=ALGORITHMS, signing_keys=SigningKeys(Published()), **common),
        ]

    async def verify(self, token: str | None) -> None:
        for verifier in self.verifiers:
            try:
                caller = await verifier.verify(token)
            except FlowError as refused:
                refusal = refused
            else:
                assert_sound(caller)
                continue
            assert refusal.code in REFUSALS, refusal
            assert not token or len(token) < 20 or token not in refusal.message


def assert_sound(caller: Caller) -> None:
    assert is_id(caller.user_id)
    assert caller.expires_at > time.time()
    assert not caller.trusted
    for words in (caller.roles, caller.groups, caller.scopes):
        assert all(isinstance(word, str) for word in words)


headers = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["HS256", "EdDSA", "RS256", "ES256", "none", "HS512", ""]) | json_values,
        "kid": st.sampled_from(["ed", "rsa", "ec", "", "../x"]) | json_values,
        "typ": st.sampled_from(["JWT", "at+jwt"]) | json_values,
        "crit": json_values,
        "b64": json_values,
        "jwk": json_values,
    },
)
times = st.sampled_from([FAR, 0, -1, 1e308, "9" * 400, str(FAR), None, True]) | json_values
claims = st.fixed_dictionaries(
    {},
    optional={
        "sub": st.sampled_from(["ada", "", "a\nb", "\ud800", "x" * 300]) | json_values,
        "exp": times,
        "nbf": times,
        "iat": times,
        "aud": json_values,
        "iss": json_values,
        "roles": json_values,
        "scope": st.sampled_from(["flow:admin", "flow:service flow:read", " "]) | json_values,
        "groups": json_values,
        "service": st.sampled_from(["pay", "PAY", ""]) | json_values,
    },
)
usual = st.fixed_dictionaries({"sub": st.just("ada"), "exp": st.just(FAR)})
parts = st.binary(max_size=40) | headers.map(lambda found: json.dumps(found).encode())
texts = st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))


def _mixed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**base, **changes}


def _signed(header: dict[str, Any], content: Any, kind: str) -> str:
    """Return a token whose signature is right for its kind, whatever its header says."""
    given_ = {"hmac": {"alg": "HS256"}, "ed": {"alg": "EdDSA", "kid": "ed"}}[kind]
    first = unpadded(json.dumps({**given_, **header}).encode())
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    both = f"{first}.{unpadded(body)}"
    if kind == "hmac":
        signature = hmac.digest(SECRET.encode(), both.encode(), hashlib.sha256)
    else:
        signature = ED_KEY.sign(both.encode())
    return f"{both}.{unpadded(signature)}"


kinds = st.sampled_from(["hmac", "ed"])
few_headers: st.SearchStrategy[dict[str, Any]] = headers.map(
    lambda found: dict(list(found.items())[:1])
) | st.just({})
well_signed = st.builds(_signed, few_headers, st.builds(_mixed, usual, claims) | claims | parts, kinds)
assembled = st.builds(
    lambda *found: ".".join(unpadded(part) for part in found),
    parts,
    claims.map(lambda found: json.dumps(found).encode()) | parts,
    parts,
)

records = st.builds(
    lambda changes: auth(**changes),
    st.fixed_dictionaries(
        {},
        optional={
            "userId": st.sampled_from(["ada", "", "__guest", "\ud800"]) | json_values,
            "role": st.sampled_from(["service", "blocked", "superuser"]) | json_values,
            "isUser": json_values,
            "type": json_values,
            "scopes": st.lists(st.text(max_size=5)) | json_values,
            "groups": json_values,
            "permissions": json_values
            | st.lists(st.fixed_dictionaries({"scope": st.text(), "permissions": json_values}), max_size=2),
            "expiresAt": st.sampled_from(["2099-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"]) | json_values,
        },
    ),
)
members = st.fixed_dictionaries(
    {}, optional={"t": json_values, "dt": times, "ttl": times, "msg": json_values, "more": json_values}
)


def _envelope(content: Any, changes: dict[str, Any], sign_last: bool) -> str:
    whole = {**envelope(content), **changes}
    try:
        whole = signed(whole) if sign_last else {**signed(envelope(content)), **changes}
        return packed(whole)
    except UnicodeEncodeError:
        return unpadded(json.dumps(whole).encode())


envelopes = st.builds(
    _envelope, records | json_values | st.binary(max_size=40), st.just({}) | members, st.booleans()
).map(lambda text: f"ED25519-BASIC-TOKEN {text}")


@st.composite
def mutated(draw: st.DrawFn, of: st.SearchStrategy[str]) -> str:
    """A text with some characters replaced, removed, doubled or cut."""
    text = draw(of)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(text) - 1)))
        change = draw(st.sampled_from(["", ".", "=", "A", "\x00", " ", "é", "\ud800", text[at : at + 9]]))
        text = text[:at] + change + text[at + draw(st.integers(0, 2)) :]
    return text


api_keys = st.sampled_from(["sfk_", "sfk_0000", "SFK_"]).flatmap(
    lambda prefix: st.text(max_size=60).map(lambda rest: prefix + rest)
)
tokens = st.one_of(
    well_signed,
    mutated(well_signed),
    assembled,
    envelopes,
    mutated(envelopes),
    api_keys,
    texts,
    st.integers(0, 40_000).map(lambda size: "A" * size),
    st.none(),
)
authorization = st.builds(
    "{}{}{}".format,
    st.sampled_from(["Bearer", "bearer", "Basic", "ED25519-BASIC-TOKEN", "ed25519-basic-token", ""]),
    st.sampled_from([" ", "  ", "", "\t"]),
    tokens.map(str),
)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("strategy", "of_headers"), [(tokens, False), (authorization, True)])
def test_any_text_names_a_sound_caller_or_is_refused(strategy: Any, of_headers: bool, loop: Loop) -> None:
    checks = Checks()
    fuzz(strategy, lambda text: loop.wait(checks.verify(credential_in(text) if of_headers else text)))


def test_the_strategies_make_tokens_that_are_accepted(loop: Loop) -> None:
    """Without these the test above would check refusals alone."""
    checks = Checks()
    root = Caller("root", scopes=frozenset({ADMIN}))
    key = loop.wait(checks.keys.create("pay", ApiKeyCommand(), root))
    whole = f"ED25519-BASIC-TOKEN {_envelope(auth(), {}, True)}"
    for verifier, kind in zip(checks.verifiers, ["hmac", "ed"], strict=True):
        made = _signed({}, {"sub": "ada", "exp": FAR}, kind)
        for token in (made, whole, key.text):
            assert_sound(loop.wait(verifier.verify(token)))
