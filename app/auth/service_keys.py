"""The verifier of API keys, as the doors use it. The composition provides it."""

from typing import Protocol

from app.contracts.callers import Caller
from app.contracts.integration import KEY_PREFIX

RENEWAL_SECONDS = 3.0
"""The interval in which connections check that their keys are still valid."""


class KeyVerifier(Protocol):
    """Verifies API keys of integrations."""

    async def verify(self, text: str) -> Caller:
        """Return the caller that a key is a credential of.

        Raises:
            AuthenticationRequiredError: The text is no valid key. The error does not say why.
            StoreUnavailableError: The key must be read, and cannot be.
            RateLimitedError: Too many unknown keys were sent.
        """

    async def renew(self, caller: Caller) -> Caller:
        """Return the caller of a connection with a later ``expires_at``, if its key is still valid.

        While the store is unavailable the caller is returned as it is.

        Raises:
            AuthenticationRequiredError: The key was revoked, or has expired.
        """

    def knows(self, text: str) -> bool:
        """Return true if the key was verified lately, so that to verify it again costs nothing."""


def is_api_key(token: str) -> bool:
    """Return whether a bearer token is meant as an API key."""
    return token.startswith(KEY_PREFIX)
