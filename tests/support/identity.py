"""Identity providers: their keys, as they publish them, and the tokens that they sign."""

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = Ed25519PrivateKey.generate()

_WRITERS = (
    (rsa.RSAPrivateKey, jwt.algorithms.RSAAlgorithm),
    (ec.EllipticCurvePrivateKey, jwt.algorithms.ECAlgorithm),
    (Ed25519PrivateKey, jwt.algorithms.OKPAlgorithm),
)


def public_jwk(key: Any, key_id: str | None = None, **members: Any) -> dict[str, Any]:
    """Return the public part of a key as a JWK. A member that is None is left out."""
    writer: Any = next(writer for kind, writer in _WRITERS if isinstance(key, kind))
    whole = {**json.loads(writer.to_jwk(key.public_key())), "kid": key_id, **members}
    return {name: value for name, value in whole.items() if value is not None}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def signed(
    claims: dict[str, Any],
    key: Any = ED_KEY,
    key_id: str | None = "ed",
    algorithm: str = "EdDSA",
    **header: Any,
) -> str:
    """Return a token that is valid for ten minutes, unless ``claims`` say something else."""
    headers = {**({} if key_id is None else {"kid": key_id}), **header}
    return jwt.encode({"exp": int(time.time()) + 600, **claims}, key, algorithm, headers=headers)


def unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
