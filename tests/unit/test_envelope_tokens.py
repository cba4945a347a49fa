"""Envelope tokens of the base system: strict forms, a checked expiry, and the caller that they name."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from app.auth.envelope_tokens import MAX_ENVELOPE_CHARACTERS, EnvelopeVerifier, signed_bytes
from app.auth.schemes import credential_in
from app.auth.tokens import TokenVerifier
from app.contracts.callers import SERVICE, USE
from app.contracts.errors import AuthenticationRequiredError
from config.settings import SettingsError, load_settings
from config.tokens import MAX_ED25519_KEYS, read_ed25519_key
from tests.support.envelopes import KEY, PUBLIC_KEY, auth, envelope, envelope_token, packed, signed, unpadded
from tests.support.log_events import LogEvents
from tests.support.long_form import examples

KEYS = [read_ed25519_key(PUBLIC_KEY)]
CHECKS = EnvelopeVerifier(KEYS)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
OFTEN = examples(2000, fraction=20)


def refusal(token: str, checks: EnvelopeVerifier = CHECKS) -> tuple[str, str]:
    with pytest.raises(AuthenticationRequiredError) as refused:
        checks.verify(token)
    assert len(token) < 20 or token not in refused.value.message
    return refused.value.details["reason"], refused.value.message


def at(seconds: float) -> str:
    """Return a time from now as JavaScript writes it."""
    moment = datetime.fromtimestamp(time.time() + seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_the_record_becomes_the_caller() -> None:
    record = auth(
        scopes=["*", "flow:use"],
        groups=["finance", "/eu", "two\nlines"],
        permissions=[
            {"scope": "orders", "permissions": {"approve": True, "refuse": False, "count": 1, "all": None}},
            {"scope": "orders", "permissions": {"ship": True}, "resources": ["order-1"]},
            {"scope": "reports", "title": "R", "permissions": {"read": True}, "resources": None},
        ],
        entityId="acme",
        profileId="p-1",
        attributes=[],
        permissioned=True,
    )
    caller = CHECKS.verify(envelope_token(record))
    assert caller.user_id == "ada"
    assert caller.roles == {"user", "orders:approve", "reports:read"}
    assert caller.scopes == {"*", "flow:use"}
    assert caller.groups == {"finance", "/eu"}
    assert caller.expires_at == pytest.approx(time.time() + 305, abs=5)
    assert (caller.service, caller.credential, caller.trusted) == ("", "", False)


@pytest.mark.parametrize(
    ("role", "is_user", "scopes"),
    [
        ("guest", True, {USE}),
        ("user", True, {USE}),
        ("user", False, {USE}),
        ("service", False, {SERVICE}),
        ("service", True, {USE}),
        ("system", False, {SERVICE}),
        ("system", True, {USE}),
        ("admin", True, {USE}),
        ("admin", False, {USE}),
        ("superuser", True, {USE}),
        ("superuser", False, {USE}),
    ],
)
def test_a_role_is_a_role_and_only_programs_get_a_scope_by_it(
    role: str, is_user: bool, scopes: set[str]
) -> None:
    caller = CHECKS.verify(envelope_token(auth(role=role, isUser=is_user, scopes=[])))
    assert (set(caller.roles), set(caller.scopes)) == ({role}, scopes)


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "blocked"},
        {"role": "Admin"},
        {"role": None},
        {"role": ["admin"]},
        {"isUser": None},
        {"isUser": 1},
        {"type": "ed25519-basic-signature"},
        {"type": None},
        {"userId": None},
        {"userId": ""},
        {"userId": "a\nb"},
        {"userId": "\ud800"},
        {"userId": "x" * 257},
        {"userId": 7},
        {"userId": "__guest", "role": "guest"},
        {"scopes": None},
        {"scopes": "flow:admin"},
        {"scopes": ["a", 7]},
        {"scopes": [""]},
        {"scopes": ["x" * 257]},
        {"scopes": ["x"] * 257},
        {"groups": "finance"},
        {"groups": [["finance"]]},
        {"permissions": {"scope": "a"}},
        {"permissions": ["a"]},
        {"permissions": [{"scope": "a"}]},
        {"permissions": [{"scope": 7, "permissions": {}}]},
        {"permissions": [{"permissions": {"a": True}}]},
        {"permissions": [{"scope": "a", "permissions": ["b"]}]},
        {"expiresAt": "soon"},
        {"expiresAt": 2**40},
        {"expiresAt": True},
        {"expiresAt": "2026-13-01T00:00:00Z"},
        {"expiresAt": "2099-01-01T00:00:00"},
        {"expiresAt": "2099-01-01T00:00:00+00:00"},
        {"expiresAt": "2099-01-01"},
        {"expiresAt": "٢٠٩٩-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_records_that_name_no_caller_are_refused(changes: dict[str, Any]) -> None:
    assert refusal(envelope_token(auth(**changes)))[0] == "claim"


@pytest.mark.parametrize("content", [7, "text", None, [], [auth()], True])
def test_a_content_that_is_no_record_is_refused(content: Any) -> None:
    assert refusal(envelope_token(json.dumps(content).encode()))[0] == "format"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"ada",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"userId": "ada", "userId": "root"}',
        b'{"userId": NaN}',
        b'{"a": ' + b"[" * 5000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_content_that_is_not_strict_json_is_refused(raw: bytes) -> None:
    assert refusal(envelope_token(raw))[0] == "format"


@pytest.mark.parametrize(
    ("ttl", "age", "expires", "max_age", "expected"),
    [
        (300_000, 0, None, None, 300),
        (300_000, 200, None, None, 100),
        (300_000, 0, 60, None, 60),
        (None, 0, 60, None, 60),
        (None, 10_000, 60, None, 60),
        (300_000, 0, 600, None, 300),
        (None, 0, None, 120, 120),
        (None, 100, None, 120, 20),
        (300_000, 0, None, 120, 120),
        (300_000, 0, 60, 120, 60),
        (0, 0, None, None, 0),
        (1000, 4, None, None, -3),
    ],
)
def test_the_earliest_expiry_counts(
    ttl: int | None, age: float, expires: float | None, max_age: int | None, expected: float
) -> None:
    limit = None if max_age is None else timedelta(seconds=max_age)
    record = auth(expiresAt=None if expires is None else at(expires))
    made = envelope_token(record, dt=int((time.time() - age) * 1000), ttl=ttl)
    caller = EnvelopeVerifier(KEYS, max_age=limit).verify(made)
    assert caller.expires_at == pytest.approx(time.time() + expected + 5, abs=2)


@pytest.mark.parametrize(
    ("ttl", "age", "expires", "max_age", "reason"),
    [
        (None, 0, None, None, "claim"),
        (300_000, 306, None, None, "time"),
        (0, 6, None, None, "time"),
        (300_000, 0, -6, None, "time"),
        (None, 0, -6, None, "time"),
        (None, 130, None, 120, "time"),
        (300_000, 130, None, 120, "time"),
        (2**53 - 1, 130, 600, 120, "time"),
        (300_000, -10, None, None, "time"),
        (300_000, -(10**9), None, None, "time"),
    ],
)
def test_a_token_that_is_not_valid_now_or_for_ever_is_refused(
    ttl: int | None, age: float, expires: float | None, max_age: int | None, reason: str
) -> None:
    limit = None if max_age is None else timedelta(seconds=max_age)
    record = auth(expiresAt=None if expires is None else at(expires))
    made = envelope_token(record, dt=int((time.time() - age) * 1000), ttl=ttl)
    assert refusal(made, EnvelopeVerifier(KEYS, max_age=limit))[0] == reason


def _spaced(token: str) -> str:
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    content["msg"] = content["msg"][:8] + "\n" + content["msg"][8:]
    return packed(content)


def _changed(token: str, **changes: Any) -> str:
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return packed({name: value for name, value in {**content, **changes}.items() if value != "absent"})


def _loose_bits(token: str) -> str:
    """Return the same bytes in a form of base64url that no encoder writes."""
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    while len(raw) % 3 != 1:
        raw += b" "
    good = unpadded(raw)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return good[:-1] + alphabet[alphabet.index(good[-1]) + 1]


def _twice(token: str) -> str:
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return unpadded(raw[:-1] + b',"ttl":null}')


GOOD = envelope_token(ttl=10**11)
MALFORMED = {
    "empty": "",
    "text": "token",
    "a JWT": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.",
    "padded": GOOD + "=",
    "standard base64": unpadded(b'{"\xff\xfe\xfb').replace("-", "+").replace("_", "/"),
    "spaces": f" {GOOD}",
    "a line": f"{GOOD}\n",
    "not ASCII": f"{GOOD}é",
    "loose bits": _loose_bits(GOOD),
    "a member twice": _twice(GOOD),
    "another member": packed(signed({**envelope(auth()), "alg": "none"})),
    "another member, unsigned": _changed(GOOD, kid="a"),
    "no signature": _changed(GOOD, sig="absent"),
    "a signature of null": _changed(GOOD, sig=None),
    "an empty signature": _changed(GOOD, sig=""),
    "a short signature": _changed(GOOD, sig=unpadded(b"s" * 63)),
    "a long signature": _changed(GOOD, sig=unpadded(b"s" * 65)),
    "no ttl": _changed(GOOD, ttl="absent"),
    "a ttl as text": packed(signed(envelope(auth(), ttl="300000"))),
    "a negative ttl": packed(signed(envelope(auth(), ttl=-1))),
    "a fraction": packed(signed(envelope(auth(), ttl=0.5))),
    "a ttl of true": packed(signed(envelope(auth(), ttl=True))),
    "a ttl beyond doubles": packed(signed(envelope(auth(), ttl=2**53))),
    "a time as text": packed(signed(envelope(auth(), dt=at(0)))),
    "a message as an object": packed(signed(envelope(auth(), msg=auth()))),
    "a message with a line": _spaced(GOOD),
    "a message in base64url": packed(signed(envelope(auth(), msg=unpadded(b"\xff\xfe\xfb")))),
    "a message that is not ASCII": packed(signed(envelope(auth(), msg="żółć"))),
    "a list": unpadded(json.dumps([envelope(auth())]).encode()),
    "deep": unpadded(b"[" * 10_000),
    "long": "A" * (MAX_ENVELOPE_CHARACTERS + 4),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_other_forms_are_refused(name: str) -> None:
    assert refusal(MALFORMED[name])[0] == "format"


def test_a_lone_surrogate_is_refused() -> None:
    raw = json.dumps({**signed(envelope(auth())), "msg": "\ud800"}).encode()
    assert refusal(unpadded(raw))[0] == "format"
    raw = json.dumps({**signed(envelope(auth())), "t": "\ud800"}).encode()
    assert refusal(unpadded(raw))[0] == "claim"


def test_only_trusted_keys_count() -> None:
    foreign = envelope_token(key=OTHER)
    assert refusal(foreign)[0] == "signature"
    both = EnvelopeVerifier([OTHER.public_key().public_bytes_raw(), *KEYS])
    assert both.verify(foreign).user_id == both.verify(GOOD).user_id == "ada"


@pytest.mark.parametrize("kind", ["", "one-time-token", "basic-ed25519", "ED25519-BASIC-TOKEN", "auth-token"])
def test_other_envelopes_by_the_same_key_authorise_nothing(kind: str) -> None:
    assert refusal(envelope_token(t=kind))[0] == "claim"


@OFTEN
@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(GOOD) - 1))
    character = data.draw(st.sampled_from("ABab01-_+/=. \n\x00é"))
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    if changed != GOOD:
        refusal(changed)
    length = data.draw(st.integers(0, len(GOOD) - 1))
    refusal(GOOD[:length])


@OFTEN
@given(
    st.sampled_from(["t", "msg", "dt", "ttl", "sig"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary().map(unpadded),
)
def test_no_member_can_be_changed(name: str, value: Any) -> None:
    whole = signed(envelope(auth()))
    if whole[name] != value or isinstance(value, bool):
        refusal(unpadded(json.dumps({**whole, name: value}).encode()))


def test_the_canonical_form_is_that_of_rfc_8785() -> None:
    """Its example of texts (section 3.2.2), and integers that a double has exactly."""
    text = "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/"
    expected = '{"dt":9007199254740991,"t":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/","ttl":null}'
    given_ = {"ttl": None, "sig": "left out", "t": text, "dt": 2**53 - 1}
    assert signed_bytes(given_) == expected.encode()
    controls = signed_bytes({"t": "\b\t\n\f\r\x1f\x7f\u2028😀"}).decode()
    assert controls == '{"t":"\\b\\t\\n\\f\\r\\u001f\x7f\u2028😀"}'


# The verifier of all tokens


def verifier(**changes: Any) -> TokenVerifier:
    return TokenVerifier(**{"key": "k" * 32, "algorithms": ["HS256"], "envelopes": CHECKS, **changes})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("ED25519-BASIC-TOKEN abc", "ED25519-BASIC-TOKEN abc"),
        ("ED25519-BASIC-TOKEN  abc ", "ED25519-BASIC-TOKEN abc"),
        ("Ed25519-Basic-Token abc", None),
        ("ed25519-basic-token abc", None),
        ("ED25519-BASIC-SIGNATURE Credential=a Signature=b", None),
        ("Bearer ED25519-BASIC-TOKEN abc", None),
        ("Bearer abc", "abc"),
        ("bearer  abc", "abc"),
        ("Basic YTpi", None),
        ("", None),
    ],
)
def test_the_scheme_of_an_envelope_is_case_sensitive(header: str, expected: str | None) -> None:
    assert credential_in(header) == expected


async def test_envelopes_are_verified_beside_other_tokens(log_events: LogEvents) -> None:
    checks = verifier()
    for _ in range(2):
        assert (await checks.verify(f"ED25519-BASIC-TOKEN {GOOD}")).user_id == "ada"
    assert not checks.names_user_by_subject
    for bad in (GOOD, f"ED25519-BASIC-TOKEN {GOOD}x", f"ed25519-basic-token {GOOD}"):
        with pytest.raises(AuthenticationRequiredError):
            await checks.verify(bad)
    assert {entry["reason"] for entry in log_events.named("token refused")} == {"format"}
    assert GOOD not in str(log_events.named("token refused"))


async def test_an_envelope_in_the_cache_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = verifier()
    made = f"ED25519-BASIC-TOKEN {envelope_token(ttl=1000)}"
    await checks.verify(made)
    later = time.time() + 7
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(AuthenticationRequiredError, match="expired"):
        await checks.verify(made)


async def test_a_kind_of_token_without_keys_is_refused() -> None:
    with pytest.raises(AuthenticationRequiredError, match="Envelope tokens are not accepted") as refused:
        await verifier(envelopes=None).verify(f"ED25519-BASIC-TOKEN {GOOD}")
    assert refused.value.details == {"reason": "scheme"}
    with pytest.raises(AuthenticationRequiredError, match="JSON Web Tokens are not accepted"):
        await verifier(key=None).verify("a.b.c")
    assert (await verifier(key=None).verify(f"ED25519-BASIC-TOKEN {GOOD}")).user_id == "ada"


# The settings


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_the_keys_of_the_settings(env: pytest.MonkeyPatch) -> None:
    other = "ed25519:" + base64.b64encode(OTHER.public_key().public_bytes_raw()).decode()
    env.setenv("FLOW_ED25519_KEYS", f"{PUBLIC_KEY}, {other}")
    env.setenv("FLOW_ED25519_MAX_AGE", "PT8H")
    settings = load_settings()
    assert read_ed25519_key(settings.ed25519_keys[0]) == KEY.public_key().public_bytes_raw()
    assert settings.ed25519_max_age == timedelta(hours=8)
    assert settings.has_token_keys
    assert not settings.has_jwt_keys
    assert settings.masked()["FLOW_ED25519_KEYS"] == f"{PUBLIC_KEY},{other}"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (PUBLIC_KEY.removeprefix("ed25519:"), "must be public keys such as ed25519:"),
        (PUBLIC_KEY.replace("ed25519", "xchacha"), "must be public keys"),
        (PUBLIC_KEY[:-1], "must be public keys"),
        (PUBLIC_KEY[:-4] + "=", "must be public keys"),
        (PUBLIC_KEY.replace("+", "-"), "must be public keys"),
        (f"{PUBLIC_KEY},{PUBLIC_KEY}", "contains a key twice"),
        (",".join([PUBLIC_KEY] * (MAX_ED25519_KEYS + 1)), "at most 16 keys"),
        ("ed25519:" + "A" * 43 + "=", "anybody can sign"),
        ("ed25519:" + base64.b64encode(b"\1" + b"\0" * 31).decode(), "anybody can sign"),
    ],
)
def test_keys_that_are_refused(env: pytest.MonkeyPatch, keys: str, fault: str) -> None:
    env.setenv("FLOW_ED25519_KEYS", keys)
    with pytest.raises(SettingsError, match=fault) as refused:
        load_settings()
    assert str(refused.value).count("\n") == 0


def test_a_maximum_age_needs_keys(env: pytest.MonkeyPatch) -> None:
    env.setenv("FLOW_ED25519_MAX_AGE", "PT8H")
    with pytest.raises(SettingsError, match="requires FLOW_ED25519_KEYS"):
        load_settings()


def test_a_weak_key_would_accept_a_signature_by_anybody() -> None:
    weak = EnvelopeVerifier([b"\1" + b"\0" * 31])
    members = envelope(auth())
    anybody = unpadded(b"\1" + b"\0" * 63)
    assert weak.verify(packed({**members, "sig": anybody})).user_id == "ada", "so the settings refuse it"
