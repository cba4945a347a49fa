"""Credentials of all kinds, sound and unsound, for a verifier with a public key."""

import base64
import hmac
import json
import time
from hashlib import sha256
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)

from app.auth.tokens import TokenVerifier

AUDIENCE, ISSUER = "https://flows.example", "https://login.example"
_KEY = generate_private_key(SECP256R1())
_OTHER_KEY = generate_private_key(SECP256R1())
_PUBLIC = (
    _KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def key_verifier(service_keys: Any = None) -> TokenVerifier:
    """Return a verifier of the tokens of this module, and of API keys."""
    return TokenVerifier(
        key=_PUBLIC,
        algorithms=["ES256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        service_keys=service_keys,
    )


def signed(user: str, *, key: EllipticCurvePrivateKey = _KEY, **claims: Any) -> str:
    """Return a token of a user; a claim None is left out."""
    return jwt.encode(_claims(user, claims), key, algorithm="ES256")


def unsound_tokens() -> dict[str, str | None]:
    """Return a token for each way in which one is not valid, all with the widest scopes."""
    widest: dict[str, Any] = {"scope": "flow:use flow:service flow:read flow:admin"}
    now = int(time.time())
    good = signed("olga", **widest)
    header, body, signature = good.split(".")
    more = _encoded({**_claims("olga", widest), "sub": "root"})
    return {
        "no token": None,
        "expired": signed("olga", exp=now - 60, **widest),
        "not yet valid": signed("olga", nbf=now + 7200, **widest),
        "issued in the future": signed("olga", iat=now + 7200, **widest),
        "without an end": signed("olga", exp=None, **widest),
        "wrong signature": signed("olga", key=_OTHER_KEY, **widest),
        "changed claims": f"{header}.{more}.{signature}",
        "signature left out": f"{header}.{body}.",
        "wrong audience": signed("olga", aud="https://other.example", **widest),
        "no audience": signed("olga", aud=None, **widest),
        "wrong issuer": signed("olga", iss="https://other.example", **widest),
        "no issuer": signed("olga", iss=None, **widest),
        "HS256 with the public key": _hmac_signed(_claims("olga", widest)),
        "algorithm none": f"{_encoded({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "algorithm None": f"{_encoded({'alg': 'None', 'typ': 'JWT'})}.{body}.",
        "key in its header": _with_own_key(_claims("olga", widest)),
        "malformed": "a.b.c",
        "not a token": "olga",
        "no user": signed("olga", sub=None, **widest),
        "user without a name": signed("", **widest),
        "service that is none": signed("olga", service="*", **widest),
        "support staff of a service": signed("olga", service="desk", scope="flow:read"),
        "malformed key": "sfk_0",
    }


def _claims(user: str, changes: dict[str, Any]) -> dict[str, Any]:
    claims = {"sub": user, "exp": int(time.time()) + 7200, "aud": AUDIENCE, "iss": ISSUER, **changes}
    return {name: value for name, value in claims.items() if value is not None}


def _encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _hmac_signed(claims: dict[str, Any]) -> str:
    """Sign with the public key as the secret; PyJWT refuses to, an attacker does not."""

    text = f"{_encoded({'alg': 'HS256', 'typ': 'JWT'})}.{_encoded(claims)}"
    mac = hmac.new(_PUBLIC.encode(), text.encode(), sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _with_own_key(claims: dict[str, Any]) -> str:
    own = jwt.algorithms.ECAlgorithm.to_jwk(_OTHER_KEY.public_key(), as_dict=True)
    return jwt.encode(claims, _OTHER_KEY, algorithm="ES256", headers={"jwk": own, "kid": "../../etc/passwd"})
