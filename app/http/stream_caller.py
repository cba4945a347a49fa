"""The caller of an endless answer, whose token or key is checked while the answer lasts."""

import time

from app.auth.service_keys import RENEWAL_SECONDS
from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller


class StreamCaller:
    """A caller that is checked again: a token when it has expired, a key every ``RENEWAL_SECONDS``."""

    def __init__(self, verifier: TokenVerifier, caller: Caller) -> None:
        self._verifier = verifier
        self._check_at = time.monotonic() + RENEWAL_SECONDS
        self.now = caller
        """The caller as it was checked last."""

    @property
    def seconds_left(self) -> float:
        """The time until the next check; zero or less if it is due."""
        left = self.now.expires_at - time.time()
        return min(left, self._check_at - time.monotonic()) if self.now.credential else left

    async def check(self) -> None:
        """Check the caller if that is due. Raises AuthenticationRequiredError."""
        if self.seconds_left > 0:
            return
        self.now = await self._verifier.renew(self.now)
        self._check_at = time.monotonic() + RENEWAL_SECONDS
