"""Tokens for HTTP and Socket.IO: signed ones (JWT), which are issued here too, API keys, and envelopes."""

import hashlib
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import jwt

from app.auth.claims import ClaimNames, put_claim
from app.auth.refusals import TokenRefusals
from app.auth.schemes import envelope_in
from app.auth.service_keys import KeyVerifier, is_api_key
from app.contracts.callers import Caller
from app.contracts.errors import AuthenticationRequiredError

if TYPE_CHECKING:  # they load libraries that the command line does not need for tokens
    from app.auth.envelope_tokens import EnvelopeVerifier
    from app.auth.keys import SigningKeys

DEFAULT_CLAIMS = ClaimNames()
LEEWAY_SECONDS = 5
MAX_TOKEN_CHARACTERS = 20_000
_MAX_CACHED_TOKENS = 4096
_MAX_EXPIRY = 2**53
"""Seconds since 1970; a token that expires later counts as one that expires then."""


class TokenVerifier:
    """Verifies tokens of all kinds.

    A verified token is cached until it expires, so that its signature is checked once, but not longer than
    the keys of its issuer are the same.

    Args:
        key: The shared secret or the public key of signed tokens, unless ``signing_keys`` are given.
        algorithms: Accepted signature algorithms.
        signing_keys: The keys of an identity provider.
        audience: The expected ``aud`` (None: any).
        issuer: The expected ``iss`` (None: any).
        claims: The names of the claims.
        service_keys: Verifies API keys; without it none is accepted.
        envelopes: Verifies envelope tokens; without it none is accepted.
    """

    def __init__(
        self,
        *,
        key: str | None,
        algorithms: Sequence[str],
        signing_keys: "SigningKeys | None" = None,
        audience: str | None = None,
        issuer: str | None = None,
        claims: ClaimNames = DEFAULT_CLAIMS,
        service_keys: KeyVerifier | None = None,
        envelopes: "EnvelopeVerifier | None" = None,
    ) -> None:
        self._key = key
        self._signing_keys = signing_keys
        self._service_keys = service_keys
        self._envelopes = envelopes
        self._algorithms = list(algorithms)
        self._audience = audience
        self._issuer = issuer
        self._claims = claims
        self._refusals = TokenRefusals(algorithms=self._algorithms, audience=audience, issuer=issuer)
        self._known: dict[bytes, Caller] = {}
        self._known_generation = 0

    @property
    def names_user_by_subject(self) -> bool:
        """True if the user is in the standard claim of every token, where clients can read it."""
        return self._claims.user == DEFAULT_CLAIMS.user and self._envelopes is None

    @staticmethod
    def warm_up() -> None:
        """Load the library in a thread, so that the first token does not wait for it."""
        _ = jwt.decode

    async def verify(self, token: str | None) -> Caller:
        """Return the caller that a credential names: a bearer token, or an envelope with its scheme.

        Raises:
            AuthenticationRequiredError: The token is refused; the message has the reason and never the token.
            KeysUnavailableError: The signing keys cannot be read.
            StoreUnavailableError, RateLimitedError: An API key must be read, and cannot be.
        """
        if not token:
            raise AuthenticationRequiredError("A bearer token is required")
        if is_api_key(token):
            return await self._require_service_keys().verify(token)
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise AuthenticationRequiredError("The token is not a JSON Web Token", reason="format")
        await self._forget_withdrawn()
        digest = hashlib.sha256(token.encode()).digest()
        caller = self._known.get(digest)
        if caller is None:
            caller = await self._verified(token)
            if len(self._known) >= _MAX_CACHED_TOKENS:
                self._known.clear()
            self._known[digest] = caller
        if caller.expires_at <= time.time():
            self._known.pop(digest, None)
            raise AuthenticationRequiredError("The token has expired; get a new one", reason="time")
        return caller

    def knows(self, token: str) -> bool:
        """Return true if the token was verified lately, so that to verify it again costs nothing."""
        if is_api_key(token):
            return self._service_keys is not None and self._service_keys.knows(token)
        return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest() in self._known

    async def _forget_withdrawn(self) -> None:
        """Clear the cache if the issuer's keys have changed: one of its tokens may have a withdrawn key."""
        if self._signing_keys is None:
            return
        await self._signing_keys.refresh_old()
        if self._known_generation != self._signing_keys.generation:
            self._known_generation = self._signing_keys.generation
            self._known.clear()

    async def _verified(self, token: str) -> Caller:
        envelope = envelope_in(token)
        if envelope is None:
            return self._caller_of(await self._claims_of(token))
        if self._envelopes is None:
            raise AuthenticationRequiredError("Envelope tokens are not accepted here", reason="scheme")
        try:
            return self._envelopes.verify(envelope)
        except AuthenticationRequiredError as refusal:
            raise self._refusals.note(refusal) from None

    async def renew(self, caller: Caller) -> Caller:
        """Return the caller of a connection that outlives ``expires_at``, or is to be checked again.

        Raises:
            AuthenticationRequiredError: The token has expired, or the API key is not valid any more.
        """
        if caller.credential:
            caller = await self._require_service_keys().renew(caller)
        if caller.expires_at <= time.time():
            raise AuthenticationRequiredError("The token has expired; connect with a new one")
        return caller

    def _require_service_keys(self) -> KeyVerifier:
        if self._service_keys is None:
            raise AuthenticationRequiredError("The API key is not valid here", reason="api-key")
        return self._service_keys

    async def _claims_of(self, token: str) -> dict[str, Any]:
        key: Any = self._key
        algorithms = self._algorithms
        if key is None and self._signing_keys is None:
            raise AuthenticationRequiredError("JSON Web Tokens are not accepted here", reason="scheme")
        try:
            if self._signing_keys is not None:
                found = await self._signing_keys.find(token)
                key, algorithms = found.key, [found.algorithm]
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={
                    "require": ["exp"],
                    "verify_aud": self._audience is not None,
                    "verify_sub": False,
                },
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationRequiredError("The token has expired; get a new one", reason="time") from None
        except jwt.MissingRequiredClaimError as refusal:
            missing = AuthenticationRequiredError(f"The token has no '{refusal.claim}' claim", reason="claim")
            raise self._refusals.note(missing) from None
        except (jwt.PyJWTError, ValueError) as refusal:
            raise self._refusals.refuse(refusal, token) from None
        return claims

    def _caller_of(self, claims: dict[str, Any]) -> Caller:
        last = float(min(int(claims["exp"]), _MAX_EXPIRY))  # PyJWT has checked that it is a number
        try:
            return self._claims.caller(claims, last + LEEWAY_SECONDS)
        except AuthenticationRequiredError as refusal:
            raise self._refusals.note(refusal) from None


def issue_token(
    secret: str,
    user_id: str,
    *,
    ttl: timedelta,
    roles: Sequence[str] = (),
    scopes: Sequence[str] = (),
    groups: Sequence[str] = (),
    service: str | None = None,
    audience: str | None = None,
    issuer: str | None = None,
    names: ClaimNames = DEFAULT_CLAIMS,
) -> str:
    """Return a token for ``user_id``, signed with the shared secret (HS256)."""
    now = int(time.time())
    claims: dict[str, Any] = {"iat": now, "exp": now + int(ttl.total_seconds())}
    put_claim(claims, names.user, user_id)
    if roles:
        put_claim(claims, names.roles, list(roles))
    if groups:
        shared = roles if names.groups == names.roles else ()
        put_claim(claims, names.groups, list(dict.fromkeys([*shared, *groups])))
    if service is not None:
        put_claim(claims, names.service, service)
    if scopes:
        put_claim(claims, names.scope, " ".join(scopes))
    if audience:
        claims["aud"] = audience
    if issuer:
        claims["iss"] = issuer
    return jwt.encode(claims, secret, algorithm="HS256")
