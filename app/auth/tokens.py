"""Signed tokens (JWT): issued for development and services, verified at both doors."""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import jwt

from app.contracts.command import Caller
from app.contracts.errors import AuthenticationRequiredError
from app.contracts.ids import is_id

_LEEWAY_SECONDS = 5
_CACHE_SIZE = 4096


class TokenVerifier:
    """Verifies bearer tokens with one of: a shared secret, a public key, a JWKS address.

    A verified token is remembered until it expires, so that its signature is checked once.
    """

    def __init__(
        self,
        *,
        key: str | None,
        jwks_url: str | None,
        algorithms: Sequence[str],
        audience: str | None = None,
        issuer: str | None = None,
    ) -> None:
        self._key = key
        self._jwks = jwt.PyJWKClient(jwks_url, timeout=5) if jwks_url else None
        self._algorithms = list(algorithms)
        self._audience = audience
        self._issuer = issuer
        self._known: dict[str, Caller] = {}

    @staticmethod
    def warm_up() -> None:
        """Load the library, so that the first token does not wait for it. For a thread."""
        _ = jwt.decode

    async def verify(self, token: str | None) -> Caller:
        """The caller that a token names. Raises AuthenticationRequiredError, which says why but
        never repeats the token."""
        if not token:
            raise AuthenticationRequiredError("A bearer token is required")
        caller = self._known.get(token)
        if caller is None:
            caller = self._caller_of(await self._claims_of(token))
            if len(self._known) >= _CACHE_SIZE:
                self._known.clear()
            self._known[token] = caller
        if caller.expires_at <= time.time():
            self._known.pop(token, None)
            raise AuthenticationRequiredError("The token has expired; get a new one")
        return caller

    async def _claims_of(self, token: str) -> dict[str, Any]:
        try:
            key: Any = self._key
            if self._jwks is not None:
                key = (await asyncio.to_thread(self._jwks.get_signing_key_from_jwt, token)).key
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationRequiredError("The token has expired; get a new one") from None
        except jwt.MissingRequiredClaimError as refusal:
            raise AuthenticationRequiredError(f"The token has no '{refusal.claim}' claim") from None
        except jwt.InvalidAudienceError:
            raise AuthenticationRequiredError("The token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise AuthenticationRequiredError("The token is from another issuer") from None
        except jwt.PyJWKClientConnectionError:
            raise AuthenticationRequiredError("The keys to check the token are out of reach") from None
        except (jwt.PyJWTError, ValueError):
            raise AuthenticationRequiredError("The token is not valid here") from None
        return claims

    def _caller_of(self, claims: dict[str, Any]) -> Caller:
        if not is_id(claims["sub"]):
            raise AuthenticationRequiredError("The token's 'sub' cannot name a user")
        roles = claims.get("roles", [])
        scope = claims.get("scope", "")
        if isinstance(scope, list):
            scope = " ".join(str(part) for part in scope)
        return Caller(
            user_id=claims["sub"],
            roles=frozenset(str(role) for role in roles) if isinstance(roles, list) else frozenset(),
            scopes=frozenset(scope.split()) if isinstance(scope, str) else frozenset(),
            expires_at=float(claims["exp"]) + _LEEWAY_SECONDS,
        )


def issue_token(
    secret: str,
    user_id: str,
    *,
    ttl: timedelta,
    roles: Sequence[str] = (),
    scopes: Sequence[str] = (),
    audience: str | None = None,
    issuer: str | None = None,
) -> str:
    """A token for ``user_id`` signed with the shared secret (HS256)."""
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user_id, "iat": now, "exp": now + int(ttl.total_seconds())}
    if roles:
        claims["roles"] = list(roles)
    if scopes:
        claims["scope"] = " ".join(scopes)
    if audience:
        claims["aud"] = audience
    if issuer:
        claims["iss"] = issuer
    return jwt.encode(claims, secret, algorithm="HS256")
