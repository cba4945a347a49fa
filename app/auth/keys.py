"""The signing keys of an identity provider, cached for outages and requested at a bounded rate."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import jwt
import structlog
from msgspec import Struct

from app.auth.jwk_sets import KeySet
from app.auth.key_sources import KeySource
from app.contracts.errors import AuthenticationRequiredError, KeysUnavailableError, SigningKeysError
from config.log import describe

log = structlog.get_logger("auth")

FETCH_SECONDS = 8.0
"""Limit of one refresh, which may be two requests."""
MAX_AGE_SECONDS = 300.0
"""Older keys are requested again, so that a withdrawn one is dropped; they stay in use while that fails."""
RETRY_SECONDS = 60.0
"""Interval of requests for an unknown key id, or for keys that are too old."""
FIRST_RETRY_SECONDS = 1.0
"""Interval of requests while there are no keys at all."""
REFRESH_WAIT_SECONDS = 1.0
"""Time that a request with a known key waits for the keys to be read again."""
_NO_KEYS = KeySet({}, frozenset(), "", 0)


class SigningKey(Struct, frozen=True):
    """A public key and the algorithm that it verifies."""

    key: Any
    algorithm: str


class SigningKeys:
    """Finds the key of a token by the key id and the algorithm in its header.

    Args:
        source: Reads the keys. One call runs at a time, and is cancelled after ``FETCH_SECONDS``.
        now: A monotonic clock, in seconds.

    Attributes:
        generation: Changes when keys are added, replaced or dropped.
    """

    def __init__(self, source: KeySource, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._set = _NO_KEYS
        self._read_at = 0.0
        self._requested_at: float | None = None
        self._missed_at: float | None = None
        self._unavailable = False
        self._reading: asyncio.Task[None] | None = None
        self.generation = 0

    async def find(self, token: str) -> SigningKey:
        """Return the key that a token claims to be signed with.

        Raises:
            AuthenticationRequiredError: The issuer has no such key.
            KeysUnavailableError: The address does not respond, and the key is not known.
            jwt.InvalidTokenError: It is not a token, or its algorithm is not accepted.
        """
        header = jwt.get_unverified_header(token)
        key_id, algorithm = header.get("kid"), header.get("alg")
        if key_id is None:
            raise AuthenticationRequiredError("The token's header has no key id ('kid')", reason="key")
        if key_id in self._set.keys:
            await self.refresh_old()
        elif self._may_request_unknown():
            await asyncio.wait([self._refresh()])
            if self._set.keys and key_id not in self._set.keys:
                self._missed_at = self._now()
        if key_id in self._set.keys:
            return self._key(key_id, algorithm)
        if self._unavailable:
            raise KeysUnavailableError
        raise AuthenticationRequiredError(
            "The token is signed with a key that its issuer does not publish", reason="key"
        )

    async def refresh_old(self) -> None:
        """Request the keys again if they are too old, and wait a moment for them.

        Requests that come meanwhile do not wait, so that a slow provider delays one in a minute.
        """
        is_old = bool(self._set.keys) and self._now() - self._read_at >= MAX_AGE_SECONDS
        if is_old and self._has_waited(self._requested_at, RETRY_SECONDS):
            await asyncio.wait([self._refresh()], timeout=REFRESH_WAIT_SECONDS)

    def _key(self, key_id: str, algorithm: object) -> SigningKey:
        by_algorithm = self._set.keys[key_id]
        if not isinstance(algorithm, str) or algorithm not in by_algorithm:
            raise jwt.InvalidAlgorithmError("The key is not one for this algorithm")
        return SigningKey(by_algorithm[algorithm], algorithm)

    def _may_request_unknown(self) -> bool:
        if self._reading is not None:
            return True  # joins the request that is under way
        if not self._set.keys:
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
                found = await self._source.read()
        except Exception as error:  # noqa: BLE001 - whatever the response is, it has no keys
            if not self._unavailable:
                log.warning(
                    "signing keys unavailable",
                    setting=self._source.setting,
                    reason=_reason(error),
                    **describe(error),
                )
            self._unavailable = True
        else:
            self._accept(found)
        finally:
            self._reading = None

    def _accept(self, found: KeySet) -> None:
        if found.digest != self._set.digest:
            self.generation += 1
            log.info("signing keys read", keys=len(found.keys), unusable=found.unusable)
        self._set = found
        self._read_at = self._now()
        if self._unavailable:
            log.info("signing keys available again")
        self._unavailable = False


def _reason(error: BaseException) -> str:
    """Return the reason why there are no keys, without the address."""
    if isinstance(error, SigningKeysError):
        return str(error)
    return (
        f"no answer in {FETCH_SECONDS:g} s" if isinstance(error, TimeoutError) else "its answer has no keys"
    )
