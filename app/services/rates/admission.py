"""Authentication of requests within the limits of failures and of requests."""

from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller
from app.contracts.errors import AuthenticationRequiredError, RateLimitedError
from app.services.rates.request_limits import RequestLimits


class Admission:
    """Verifies the tokens of requests, and counts their callers."""

    def __init__(self, limits: RequestLimits, verifier: TokenVerifier) -> None:
        self._limits = limits
        self._verifier = verifier

    async def admit(self, token: str | None, address: str) -> Caller:
        """Return the caller of a request, and count it.

        From an address with too many failures only tokens are accepted that this worker has verified before:
        others who share the address go on.

        Raises:
            AuthenticationRequiredError: The token is refused.
            RateLimitedError: The request is one too many.
            KeysUnavailableError, StoreUnavailableError: The token cannot be verified now.
        """
        if token:
            self._require_few_failures(token, address)
        try:
            caller = await self._verifier.verify(token)
        except AuthenticationRequiredError:
            if token:
                self._limits.count_failure(address)
            raise
        self._limits.admit_caller(caller)
        return caller

    def _require_few_failures(self, token: str, address: str) -> None:
        try:
            self._limits.require_few_failures(address)
        except RateLimitedError:
            if not self._verifier.knows(token):
                raise
