"""Which keys of a JWKS document can verify tokens, and with which algorithms."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.auth.jwk_sets import MAX_KEYS, read_key_set
from app.contracts.errors import SigningKeysError
from tests.support.identity import EC_KEY, ED_KEY, OTHER_RSA_KEY, RSA_KEY, jwks, public_jwk, unpadded

ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
RSA_JWK = public_jwk(RSA_KEY, "r")


def algorithms(*keys: Any, accepted: Any = ALGORITHMS) -> dict[str, list[str]]:
    """Return the algorithms of the usable keys, by key id."""
    found = read_key_set(jwks(*keys), accepted).keys
    return {key_id: sorted(by_algorithm) for key_id, by_algorithm in found.items()}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (RSA_JWK, ["PS256", "RS256"]),
        ({**RSA_JWK, "alg": "RS256"}, ["RS256"]),
        ({**RSA_JWK, "use": "sig", "key_ops": ["verify"]}, ["PS256", "RS256"]),
        (public_jwk(EC_KEY, "r"), ["ES256"]),
        (public_jwk(ED_KEY, "r"), ["EdDSA"]),
        (public_jwk(ED_KEY, "r", alg="Ed25519"), ["EdDSA"]),
    ],
)
def test_a_key_has_the_algorithms_of_its_type_or_the_one_that_it_names(
    key: dict[str, Any], expected: list[str]
) -> None:
    assert algorithms(key) == {"r": expected}


UNUSABLE: dict[str, Any] = {
    "a text": "key",
    "for encryption": {**RSA_JWK, "use": "enc"},
    "for signing": {**RSA_JWK, "key_ops": ["sign"]},
    "operations as a text": {**RSA_JWK, "key_ops": "verify"},
    "no id": public_jwk(RSA_KEY),
    "an empty id": {**RSA_JWK, "kid": ""},
    "a long id": {**RSA_JWK, "kid": "k" * 257},
    "a number as its id": {**RSA_JWK, "kid": 7},
    "a shared secret": {"kty": "oct", "kid": "r", "k": unpadded(b"k" * 64), "alg": "HS256"},
    "an RSA key for HS256": {**RSA_JWK, "alg": "HS256"},
    "an RSA key for none": {**RSA_JWK, "alg": "none"},
    "an RSA key for an algorithm of curves": {**RSA_JWK, "alg": "ES256"},
    "a list as its algorithm": {**RSA_JWK, "alg": ["RS256"]},
    "an algorithm that is not accepted": {**RSA_JWK, "alg": "RS512"},
    "a private key": {**RSA_JWK, "d": "AQAB"},
    "a short key": public_jwk(rsa.generate_private_key(65537, 1024), "r"),
    "another curve": public_jwk(ec.generate_private_key(ec.SECP384R1()), "r"),
    "an unknown curve": {**public_jwk(EC_KEY, "r"), "crv": "P-255"},
    "a list as its curve": {**public_jwk(EC_KEY, "r"), "crv": ["P-256"]},
    "a point that is not on the curve": {**public_jwk(EC_KEY, "r"), "x": unpadded(b"\1" * 32)},
    "a number as its modulus": {**RSA_JWK, "n": 7},
    "no modulus": {name: value for name, value in RSA_JWK.items() if name != "n"},
    "an even exponent": {**RSA_JWK, "e": unpadded(b"\2")},
    "an unknown type": {**RSA_JWK, "kty": "DSA"},
    "a list as its type": {**RSA_JWK, "kty": ["RSA"]},
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_other_keys_are_left_out(name: str) -> None:
    usable = public_jwk(ED_KEY, "ed")
    found = read_key_set(jwks(UNUSABLE[name], usable), ALGORITHMS)
    assert (list(found.keys), found.unusable) == (["ed"], 1)
    with pytest.raises(SigningKeysError, match="no key that can be used"):
        read_key_set(jwks(UNUSABLE[name]), ALGORITHMS)


def test_of_two_keys_with_one_id_the_first_counts() -> None:
    other = public_jwk(OTHER_RSA_KEY, "r")
    found = read_key_set(jwks(RSA_JWK, other, public_jwk(EC_KEY, "r")), ALGORITHMS)
    assert sorted(found.keys["r"]) == ["ES256", "PS256", "RS256"]
    assert found.keys["r"]["RS256"].public_numbers() == RSA_KEY.public_key().public_numbers()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"7",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"keys": ' + b"[" * 100_000,
        jwks(*[RSA_JWK] * (MAX_KEYS + 1)),
        json.dumps({"keys": [RSA_JWK]}).encode()[:-1],
    ],
    ids=range(12),
)
def test_other_documents_are_refused(raw: bytes) -> None:
    with pytest.raises(SigningKeysError):
        read_key_set(raw, ALGORITHMS)


def test_the_digest_changes_with_the_keys_alone() -> None:
    first = read_key_set(jwks(RSA_JWK), ALGORITHMS)
    same = read_key_set(jwks(dict(reversed(RSA_JWK.items())), UNUSABLE["for encryption"]), ALGORITHMS)
    assert first.digest == same.digest
    for other in (public_jwk(OTHER_RSA_KEY, "r"), {**RSA_JWK, "alg": "RS256"}, {**RSA_JWK, "kid": "s"}):
        assert read_key_set(jwks(other), ALGORITHMS).digest != first.digest
