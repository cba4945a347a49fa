"""Signing keys against real servers: rotated, withdrawn, unknown, slow, broken and hostile ones."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from app.auth.key_sources import DISCOVERY_PATH, JwksAddress, OidcIssuer
from app.auth.keys import MAX_AGE_SECONDS, RETRY_SECONDS, SigningKeys
from app.auth.tokens import TokenVerifier
from app.contracts.errors import AuthenticationRequiredError, FlowError, KeysUnavailableError
from app.outbound import key_documents
from app.outbound.key_documents import MAX_DOCUMENT_BYTES, KeyDocuments
from tests.support.certificates import write_certificate
from tests.support.doors import Doors, Request
from tests.support.identity import EC_KEY, ED_KEY, RSA_KEY, jwks, public_jwk, signed, unpadded
from tests.support.log_events import LogEvents
from tests.support.remotes import RemoteServer, giving, redirecting
from tests.support.rig import Rig

ALGORITHMS = ["RS256", "ES256", "EdDSA"]
ED = public_jwk(ED_KEY, "ed")
RSA = public_jwk(RSA_KEY, "rsa")
HANGING = "no answer in 0.1 s"
UNAVAILABLE = "signing keys unavailable"


@pytest.fixture
async def provider() -> AsyncIterator[RemoteServer]:
    server = await RemoteServer().start()
    server.gives(jwks(ED), "/keys")
    yield server
    await server.stop()


class Verifying:
    """A verifier of tokens with the keys of a server, on a clock of its own."""

    def __init__(self, source: Any, **options: Any) -> None:
        self.now = 1000.0
        keys = SigningKeys(source, lambda: self.now)
        self.verifier = TokenVerifier(key=None, algorithms=ALGORITHMS, signing_keys=keys, **options)

    async def user(self, token: str) -> str:
        return (await self.verifier.verify(token)).user_id

    async def code(self, token: str) -> str:
        with pytest.raises(FlowError) as refused:
            await self.verifier.verify(token)
        return refused.value.code


def with_keys(url: str, read: KeyDocuments | None = None) -> Verifying:
    return Verifying(JwksAddress(url, ALGORITHMS, read or KeyDocuments()))


def of_issuer(issuer: str, read: KeyDocuments | None = None) -> Verifying:
    source = OidcIssuer(issuer, ALGORITHMS, read or KeyDocuments())
    return Verifying(source, issuer=issuer, audience="flows")


def token(user: str = "ada", **options: Any) -> str:
    return signed({"sub": user}, **options)


async def test_keys_rotate_without_a_refused_token(provider: RemoteServer) -> None:
    checks = with_keys(provider.url("/keys"))
    assert await checks.user(token()) == "ada"
    provider.gives(jwks(ED, RSA), "/keys")
    checks.now += 1
    new = token("bob", key=RSA_KEY, key_id="rsa", algorithm="RS256")
    assert await checks.user(new) == "bob"
    assert await checks.user(token("eve")) == "eve"
    assert len(provider.requests) == 2


async def test_tokens_of_a_withdrawn_key_end_with_the_age_of_the_keys(provider: RemoteServer) -> None:
    provider.gives(jwks(ED, RSA), "/keys")
    checks = with_keys(provider.url("/keys"))
    old, lasting = token(), token("bob", key=RSA_KEY, key_id="rsa", algorithm="RS256")
    assert await checks.user(old) == "ada"
    assert await checks.user(lasting) == "bob"
    provider.gives(jwks(RSA), "/keys")
    checks.now += MAX_AGE_SECONDS - 1
    assert await checks.user(old) == "ada"
    checks.now += 1
    assert await checks.code(old) == "AUTHENTICATION_REQUIRED", "also one that was verified before"
    assert await checks.user(lasting) == "bob"


async def test_a_replaced_key_with_the_same_id_ends_its_tokens(provider: RemoteServer) -> None:
    checks = with_keys(provider.url("/keys"))
    old = token()
    assert await checks.user(old) == "ada"
    provider.gives(jwks(public_jwk(EC_KEY, "ed")), "/keys")
    checks.now += MAX_AGE_SECONDS
    assert await checks.code(old) == "AUTHENTICATION_REQUIRED"
    assert await checks.user(token(key=EC_KEY, algorithm="ES256")) == "ada"


async def test_a_flood_of_unknown_ids_through_both_interfaces_is_one_request_a_minute(
    provider: RemoteServer,
) -> None:
    checks = with_keys(provider.url("/keys"))
    doors = Doors(Rig(), checks.verifier)
    assert await checks.user(token()) == "ada"
    numbers = iter(range(10_000))

    async def flood() -> None:
        unknown = [token(key_id=f"unknown-{next(numbers)}") for _ in range(60)]
        asking = [doors.send(each, Request("GET", "/api/flows", {}, None, {})) for each in unknown[:30]]
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {401}
        connecting = [doors.call(each) for each in unknown[30:]]
        refusals = await asyncio.gather(*connecting, return_exceptions=True)
        assert {each and each.args[0] for each in refusals} == {"AUTHENTICATION_REQUIRED"}
        assert await checks.user(token()) == "ada"

    for minute in range(3):
        await flood()
        checks.now += RETRY_SECONDS - 1
        await flood()
        checks.now += 1
        assert len(provider.requests) == 2 + minute


@pytest.mark.expected_logs(UNAVAILABLE)
async def test_an_outage_is_for_now_and_known_keys_stay_in_use(
    provider: RemoteServer, log_events: LogEvents
) -> None:
    port, url = provider.port, provider.url("/keys")
    checks = with_keys(url)
    await provider.stop()
    assert await checks.code(token()) == "KEYS_UNAVAILABLE"
    await provider.start(port)
    checks.now += 1
    known = token()
    assert await checks.user(known) == "ada"
    await provider.stop()
    for _ in range(3):
        checks.now += MAX_AGE_SECONDS
        assert await checks.user(known) == "ada"
        assert await checks.user(token("bob")) == "bob"
        assert await checks.code(token(key_id="unknown")) == "KEYS_UNAVAILABLE"
    assert [entry["reason"] for entry in log_events.named(UNAVAILABLE)] == ["Connection refused"] * 2
    await provider.start(port)
    checks.now += RETRY_SECONDS
    assert await checks.code(token(key_id="unknown")) == "AUTHENTICATION_REQUIRED"


async def _hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(jwks(ED)[:20])
    assert request.transport is not None
    request.transport.close()
    return response


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65_536)


BAD: dict[str, tuple[Callable[[web.Request], Awaitable[web.StreamResponse]], str]] = {
    "an error": (giving(jwks(ED), status=500), "HTTP status 500"),
    "not there": (giving(b"", status=404), "HTTP status 404"),
    "no content": (giving(b"", status=204), "HTTP status 204"),
    "a redirect": (redirecting("/other"), "it redirects (HTTP status 302); name the final address"),
    "a hanging server": (_hang, HANGING),
    "a slow server": (_trickle, HANGING),
    "an end in the middle": (_cut, "it does not answer in valid HTTP"),
    "an endless document": (_endless, f"its document has more than {MAX_DOCUMENT_BYTES} bytes"),
    "a document that is too large": (
        giving(jwks(ED) + b" " * MAX_DOCUMENT_BYTES),
        f"its document has more than {MAX_DOCUMENT_BYTES} bytes",
    ),
    "a page": (giving(b"<html>", kind="text/html"), "its document is not a JSON object"),
    "deep nesting": (giving(b"[" * 200_000), "its document is not a JSON object"),
    "no keys": (giving({"keys": []}), "its document has no key that can be used"),
    "keys in another form": (giving({"keys": "ed"}), "its document has no list of keys"),
}


@pytest.mark.expected_logs(UNAVAILABLE)
@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_is_an_outage(
    name: str, provider: RemoteServer, log_events: LogEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_documents, "TIMEOUT_SECONDS", 0.1 if BAD[name][1] == HANGING else 5.0)
    provider.gives(jwks(ED), "/other")
    provider.answers["/keys"], reason = BAD[name]
    checks = with_keys(provider.url("/keys"))
    assert await checks.code(token()) == "KEYS_UNAVAILABLE"
    (entry,) = log_events.named(UNAVAILABLE)
    assert entry["reason"] == reason
    assert provider.origin not in str(entry)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("kind", ["application/jwk-set+json", "text/plain", "application/octet-stream"])
async def test_the_media_type_does_not_matter(provider: RemoteServer, kind: str) -> None:
    provider.gives(jwks(ED), "/keys", kind=kind)
    assert await with_keys(provider.url("/keys")).user(token()) == "ada"


def _forgeries() -> dict[str, str]:
    """Tokens by people who know the public keys."""
    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = {"sub": "root", "exp": int(time.time()) + 600}

    def hmac_signed(secret: bytes, key_id: str, algorithm: str = "HS256") -> str:
        header = {"alg": algorithm, "kid": key_id, "typ": "JWT"}
        parts = [unpadded(json.dumps(part).encode()) for part in (header, claims)]
        content = ".".join(parts).encode()
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(content, secret)
        return f"{content.decode()}.{unpadded(signature)}"

    own = public_jwk(EC_KEY, "rsa")
    return {
        "the public key as a shared secret": hmac_signed(pem, "rsa"),
        "the JWK as a shared secret": hmac_signed(json.dumps(RSA).encode(), "rsa"),
        "none": jwt.encode(claims, "", "none", headers={"kid": "rsa"}),
        "a key in the header": jwt.encode(claims, EC_KEY, "ES256", headers={"kid": "rsa", "jwk": own}),
        "another key": jwt.encode(claims, EC_KEY, "ES256", headers={"kid": "rsa"}),
        "the algorithm of another key": hmac_signed(pem, "rsa", "EdDSA"),
        "a key for encryption": jwt.encode(claims, EC_KEY, "ES256", headers={"kid": "enc"}),
        "a shared secret of the document": hmac_signed(b"k" * 64, "oct"),
        "no id": jwt.encode(claims, RSA_KEY, "RS256"),
        "an empty id": jwt.encode(claims, RSA_KEY, "RS256", headers={"kid": ""}),
        "an algorithm of the key that is not accepted": jwt.encode(
            claims, RSA_KEY, "RS512", headers={"kid": "rsa"}
        ),
        "a critical header": jwt.encode(
            claims, RSA_KEY, "RS256", headers={"kid": "rsa", "crit": ["x"], "x": 1}
        ),
    }


@pytest.mark.parametrize("name", _forgeries())
async def test_forged_tokens_are_refused(provider: RemoteServer, name: str) -> None:
    encryption = public_jwk(EC_KEY, "enc", use="enc")
    shared = {"kty": "oct", "kid": "oct", "k": "a2s" * 30, "alg": "HS256"}
    provider.gives(jwks(RSA, encryption, shared, public_jwk(EC_KEY)), "/keys")
    checks = with_keys(provider.url("/keys"))
    assert await checks.user(token(key=RSA_KEY, key_id="rsa", algorithm="RS256")) == "ada"
    assert await checks.code(_forgeries()[name]) == "AUTHENTICATION_REQUIRED"


@pytest.mark.expected_logs(UNAVAILABLE)
async def test_keys_come_over_https_from_a_trusted_server_alone(
    tmp_path: Path, log_events: LogEvents
) -> None:
    certificate, secret = write_certificate(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate, secret)
    server = await RemoteServer().start(tls=serving)
    server.gives(jwks(ED), "/keys")
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert server.origin.startswith("https://")
    assert await with_keys(server.url("/keys"), KeyDocuments(tls=trusting)).user(token()) == "ada"
    assert await with_keys(server.url("/keys")).code(token()) == "KEYS_UNAVAILABLE"
    assert log_events.named(UNAVAILABLE)[0]["reason"] == "there is no trusted TLS connection to it"
    await server.stop()


# OpenID Connect discovery


def configuration(server: RemoteServer, path: str = "", **changes: Any) -> dict[str, Any]:
    whole = {
        "issuer": server.origin + path,
        "jwks_uri": server.url("/keys"),
        "id_token_signing_alg_values_supported": ["EdDSA", "RS256", "HS256", "none"],
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def of(issuer: str, aud: Any = "flows", **options: Any) -> str:
    return signed({"sub": "ada", "iss": issuer, "aud": aud}, **options)


@pytest.mark.parametrize("path", ["", "/", "/realms/shop", "/tenant/v2.0/"])
async def test_an_issuer_names_its_keys_and_its_algorithms(provider: RemoteServer, path: str) -> None:
    issuer = provider.origin + path
    provider.gives(configuration(provider, path), path.rstrip("/") + DISCOVERY_PATH)
    provider.gives(jwks(ED, public_jwk(EC_KEY, "ec")), "/keys")
    checks = of_issuer(issuer)
    assert await checks.user(of(issuer)) == "ada"
    refused = [
        of(issuer + "x"),
        of(issuer.rstrip("/") if path.endswith("/") else issuer + "/"),
        signed({"sub": "ada", "aud": "flows"}),
        of(issuer, aud="others"),
        signed({"sub": "ada", "iss": issuer}),
        of(issuer, key=EC_KEY, key_id="ec", algorithm="ES256"),  # an algorithm that the issuer does not use
    ]
    for each in refused:
        assert await checks.code(each) == "AUTHENTICATION_REQUIRED"
    assert len(provider.requests) == 4, "two of them for the unknown key"


async def test_the_configuration_is_read_again_with_the_keys(provider: RemoteServer) -> None:
    provider.gives(configuration(provider), DISCOVERY_PATH)
    checks = of_issuer(provider.origin)
    old = of(provider.origin)
    assert await checks.user(old) == "ada"
    provider.gives(configuration(provider, jwks_uri=provider.url("/moved")), DISCOVERY_PATH)
    provider.gives(jwks(RSA), "/moved")
    checks.now += MAX_AGE_SECONDS
    assert await checks.code(old) == "AUTHENTICATION_REQUIRED"
    assert await checks.user(of(provider.origin, key=RSA_KEY, key_id="rsa", algorithm="RS256")) == "ada"


METADATA = "http://169.254.169.254/keys"
MISCONFIGURED: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"issuer": "https://login.example.org"}, "its configuration names another issuer"),
    "no issuer": ({"issuer": None}, "its configuration names another issuer"),
    "no address": ({"jwks_uri": None}, "its configuration has no jwks_uri"),
    "a number": ({"jwks_uri": 7}, "its configuration has no jwks_uri"),
    "no algorithms": (
        {"id_token_signing_alg_values_supported": None},
        "its configuration has no id_token_signing_alg_values_supported",
    ),
    "shared secrets": (
        {"id_token_signing_alg_values_supported": ["HS256", "none"]},
        "it supports none of the algorithms in FLOW_JWT_ALGORITHMS",
    ),
    "plain http elsewhere": ({"jwks_uri": METADATA}, "its keys are at an address that is not https://"),
    "a private address": (
        {"jwks_uri": METADATA.replace("http:", "https:")},
        "its keys are at an address that is not public",
    ),
    "this machine": ({"jwks_uri": "https://localhost/keys"}, "its keys are at an address that is not public"),
    "a file": ({"jwks_uri": "file:///etc/passwd"}, "its keys are at an address that is not https://"),
    "no URL": ({"jwks_uri": "https://[::1"}, "its keys are at an address that is not https://"),
    "a password": ({"jwks_uri": "https://a:b@c.org/"}, "its keys are at an address that is not https://"),
}


@pytest.mark.expected_logs(UNAVAILABLE)
@pytest.mark.parametrize("name", MISCONFIGURED)
async def test_a_bad_configuration_is_an_outage(
    name: str, provider: RemoteServer, log_events: LogEvents
) -> None:
    changes, reason = MISCONFIGURED[name]
    provider.gives(configuration(provider, **changes), DISCOVERY_PATH)
    assert await of_issuer(provider.origin).code(of(provider.origin)) == "KEYS_UNAVAILABLE"
    (entry,) = log_events.named(UNAVAILABLE)
    assert (entry["reason"], entry["setting"]) == (reason, "FLOW_OIDC_ISSUER")
    assert len(provider.requests) == 1


@pytest.mark.expected_logs(UNAVAILABLE)
async def test_keys_on_another_server_of_the_own_network_are_not_requested(
    provider: RemoteServer, log_events: LogEvents
) -> None:
    other = await RemoteServer().start()
    other.gives(jwks(ED), "/keys")
    provider.gives(configuration(provider, jwks_uri=other.url("/keys")), DISCOVERY_PATH)
    assert await of_issuer(provider.origin).code(of(provider.origin)) == "KEYS_UNAVAILABLE"
    assert log_events.named(UNAVAILABLE)[0]["reason"] == "its keys are at an address that is not public"
    assert not other.requests
    await other.stop()


@pytest.mark.expected_logs(UNAVAILABLE)
async def test_known_keys_stay_in_use_while_the_issuer_is_away(provider: RemoteServer) -> None:
    provider.gives(configuration(provider), DISCOVERY_PATH)
    issuer = provider.origin
    checks = of_issuer(issuer)
    assert await checks.user(of(issuer)) == "ada"
    await provider.stop()
    checks.now += MAX_AGE_SECONDS
    assert await checks.user(of(issuer)) == "ada"
    with pytest.raises(KeysUnavailableError):
        await checks.verifier.verify(of(issuer, key_id="unknown"))
    with pytest.raises(AuthenticationRequiredError):
        await checks.verifier.verify(of(issuer, aud="others"))
