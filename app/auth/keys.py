"""The signing keys of a JWKS address, cached for outages and requested at a bounded rate."""

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
"""Older keys are requested again, so that a withdrawn one is dropped; they stay in use while that fails."""
RETRY_SECONDS = 60.0
"""Interval of requests for an unknown key id, or for keys that are too old."""
FIRST_RETRY_SECONDS = 1.0
"""Interval of requests while there are no keys at all."""
REFRESH_WAIT_SECONDS = 1.0
"""Time that a request with a known key waits for the keys to be read again."""


class SigningKeys:
    """Finds the key of a token by the key id in its header.

    Args:
        read: Reads the keys from the address. It runs in a thread, one call at a time.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, read: Callable[[], Sequence[Any]], now: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._now = now
        self._keys: dict[str, Any] = {}
        self._read_at = 0.0
        self._requested_at: float | None = None
        self._missed_at: float | None = None
        self._unavailable = False
        self._reading: asyncio.Task[None] | None = None

    async def find(self, token: str) -> Any:
        """Return the key that a token claims to be signed with.

        Raises:
            AuthenticationRequiredError: The issuer has no such key.
            KeysUnavailableError: The address does not respond, and the key is not known.
            jwt.InvalidTokenError: It is not a token.
        """
        key_id = jwt.get_unverified_header(token).get("kid")
        if key_id is None:
            raise AuthenticationRequiredError("The token's header has no key id ('kid')")
        if key_id in self._keys:
            if self._now() - self._read_at >= MAX_AGE_SECONDS and self._has_waited(
                self._requested_at, RETRY_SECONDS
            ):
                await asyncio.wait([self._refresh()], timeout=REFRESH_WAIT_SECONDS)
        elif self._may_request_unknown():
            await asyncio.wait([self._refresh()])
            if self._keys and key_id not in self._keys:
                self._missed_at = self._now()
        if key_id in self._keys:
            return self._keys[key_id]
        if self._unavailable:
            raise KeysUnavailableError
        raise AuthenticationRequiredError("The token is signed with a key that its issuer does not publish")

    def _may_request_unknown(self) -> bool:
        if self._reading is not None:
            return True  # joins the request that is under way
        if not self._keys:
            return self._has_waited(self._requested_at, FIRST_RETRY_SECONDS)
        return self._has_waited(self._missed_at, RETRY_SECONDS)

    def _has_waited(self, since: float | None, seconds: float) -> bool:
        return since is None or self._now() - since >= seconds

    def _refresh(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._requested_at = self._now()
            self._reading = asyncio.create_task(self._read_keys())
        return self._reading

    async def _read_keys(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys = await asyncio.to_thread(self._read)
        except Exception as error:  # noqa: BLE001 - whatever the response is, it has no keys
            if not self._unavailable:
                log.warning(
                    "signing keys unavailable",
                    setting="FLOW_JWKS_URL",
                    reason=_reason(error),
                    **describe(error),
                )
            self._unavailable = True
        else:
            self._keys = {key.key_id: key for key in reversed(keys)}
            self._read_at = self._now()
            if self._unavailable:
                log.info("signing keys available again")
            self._unavailable = False
        finally:
            self._reading = None


def _reason(error: BaseException) -> str:
    """Return the reason why there are no keys, without the address, which may contain a password."""
    cause = error.__cause__ or error
    if isinstance(cause, HTTPError):
        return f"HTTP status {cause.code}"
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return f"no answer in {FETCH_SECONDS:g} s"
    if isinstance(cause, URLError):
        return str(cause.reason)
    return "its answer has no keys"
