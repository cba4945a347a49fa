"""Refusals of tokens: the reason for the operator's log, and as far as it is safe for the caller."""

import time
from typing import Any

import jwt

from app.contracts.errors import AuthenticationRequiredError

_LOG_INTERVAL_SECONDS = 1.0
_MAX_SHOWN_CHARACTERS = 200
_REASONS = {
    "InvalidSignatureError": ("signature", "The token's signature does not match the key of this service"),
    "InvalidAlgorithmError": ("algorithm", "The token is signed with an algorithm that is not accepted here"),
    "InvalidAudienceError": ("audience", "The token is for another audience"),
    "InvalidIssuerError": ("issuer", "The token is from another issuer"),
    "ImmatureSignatureError": ("time", "The token is not valid yet"),
    "InvalidIssuedAtError": ("time", "The token's 'iat' claim is not a time"),
    "PyJWKClientError": ("key", "The token is signed with a key that this service does not know"),
    "PyJWKError": ("key", "The token is signed with a key that this service cannot use"),
    "InvalidKeyError": ("key", "The token cannot be checked with the key of this service"),
    "DecodeError": ("format", "The token is not a JSON Web Token"),
}
"""Reasons by the names of the library's errors, so that the library is not loaded for it."""
_CLAIMS = {"audience": "aud", "issuer": "iss"}


class TokenRefusals:
    """Makes the errors for refused tokens, and logs at most one a second for each reason.

    Audience and issuer are compared after the signature is verified, so that naming them discloses nothing to
    somebody who cannot sign.
    """

    def __init__(self, *, algorithms: list[str], audience: str | None, issuer: str | None) -> None:
        self._expected: dict[str, Any] = {"algorithm": algorithms, "audience": audience, "issuer": issuer}
        self._logged_at: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def refuse(self, error: Exception, token: str) -> AuthenticationRequiredError:
        """Log why the library refused a token, and return the error for its caller."""
        names = (kind.__name__ for kind in type(error).__mro__)
        reason, message = next(
            (_REASONS[name] for name in names if name in _REASONS), ("other", "The token is not valid here")
        )
        self._log(reason, error, token)
        return AuthenticationRequiredError(message, reason=reason)

    def note(self, error: AuthenticationRequiredError) -> AuthenticationRequiredError:
        """Log a refusal that was found here, such as of a missing claim, and return the same error."""
        self._log(str(error.details.get("reason", "other")), error, "")
        return error

    def _log(self, reason: str, error: Exception, token: str) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(reason, -_LOG_INTERVAL_SECONDS) < _LOG_INTERVAL_SECONDS:
            self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
            return
        self._logged_at[reason] = now
        named = error.message if isinstance(error, AuthenticationRequiredError) else type(error).__name__
        fields: dict[str, Any] = {"reason": reason, "error": named}
        if self._expected.get(reason) is not None and token:
            fields["expected"] = self._expected[reason]
        if reason in _CLAIMS and token:
            claims = jwt.decode(token, options={"verify_signature": False})
            fields["given"] = str(claims.get(_CLAIMS[reason]))[:_MAX_SHOWN_CHARACTERS]
        elif reason == "algorithm" and token:
            fields["given"] = str(jwt.get_unverified_header(token).get("alg"))[:_MAX_SHOWN_CHARACTERS]
        import structlog  # noqa: PLC0415 - the command that issues tokens does not need it

        structlog.get_logger("auth").info("token refused", **fields, unlogged=self._unlogged.pop(reason, 0))
