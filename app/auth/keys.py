"""The keys of a JWKS address: they stay in use while it is away, and it is asked at a bounded rate."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.error import HTTPError, URLError

import jwt
import structlog

from app.contracts.errors import AuthenticationRequiredError, KeysUnavailableError
from config.log import describe

log = structlog.get_logger("auth")

FETCH_SECONDS = 5.0
MAX_AGE_SECONDS = 300.0
"""Older keys are read again, so that a withdrawn one ends; they stay in use while that fails."""
RETRY_SECONDS = 60.0
"""An unknown key id, or keys that are too old, have the address asked no more often."""
FIRST_RETRY_SECONDS = 1.0
"""The same as long as there are no keys at all."""
REFRESH_WAIT_SECONDS = 1.0
"""A request with a known key waits no longer for the keys to be read again."""


class SigningKeys:
    """Finds the key of a token by the key id in its header.

    Args:
        read: Reads the keys from the address. It runs in a thread, once at a time.
        now: Seconds of a clock that only goes on.
    """

    def __init__(self, read: Callable[[], Sequence[Any]], now: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._now = now
        self._keys: dict[str, Any] = {}
        self._read_at = 0.0
        self._asked_at: float | None = None
        self._missed_at: float | None = None
        self._away = False
        self._reading: asyncio.Task[None] | None = None

    async def find(self, token: str) -> Any:
        """The key that a token claims to be signed with.

        Raises:
            AuthenticationRequiredError: The issuer has no such key.
            KeysUnavailableError: The address does not answer, and the key is not known.
            jwt.InvalidTokenError: It is no token.
        """
        key_id = jwt.get_unverified_header(token).get("kid")
        if key_id is None:
            raise AuthenticationRequiredError("The token's header has no key id ('kid')")
        if key_id in self._keys:
            if self._now() - self._read_at >= MAX_AGE_SECONDS and self._waited(self._asked_at, RETRY_SECONDS):
                await asyncio.wait([self._refresh()], timeout=REFRESH_WAIT_SECONDS)
        elif self._may_ask_for_unknown():
            await asyncio.wait([self._refresh()])
            if self._keys and key_id not in self._keys:
                self._missed_at = self._now()
        if key_id in self._keys:
            return self._keys[key_id]
        if self._away:
            raise KeysUnavailableError
        raise AuthenticationRequiredError("The token is signed with a key that its issuer does not publish")

    def _may_ask_for_unknown(self) -> bool:
        if self._reading is not None:
            return True  # waits for what is asked already
        if not self._keys:
            return self._waited(self._asked_at, FIRST_RETRY_SECONDS)
        return self._waited(self._missed_at, RETRY_SECONDS)

    def _waited(self, since: float | None, seconds: float) -> bool:
        return since is None or self._now() - since >= seconds

    def _refresh(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._asked_at = self._now()
            self._reading = asyncio.create_task(self._read_keys())
        return self._reading

    async def _read_keys(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys = await asyncio.to_thread(self._read)
        except Exception as error:  # noqa: BLE001 - whatever the address answers: it gives no keys
            if not self._away:
                log.warning(
                    "signing keys unavailable",
                    setting="FLOW_JWKS_URL",
                    reason=_reason(error),
                    **describe(error),
                )
            self._away = True
        else:
            self._keys = {key.key_id: key for key in reversed(keys)}
            self._read_at = self._now()
            if self._away:
                log.info("signing keys available again")
            self._away = False
        finally:
            self._reading = None


def _reason(error: BaseException) -> str:
    """Why there are no keys, without the address, which may have a password in it."""
    cause = error.__cause__ or error
    if isinstance(cause, HTTPError):
        return f"HTTP status {cause.code}"
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return f"no answer in {FETCH_SECONDS:g} s"
    if isinstance(cause, URLError):
        return str(cause.reason)
    return "its answer has no keys"
