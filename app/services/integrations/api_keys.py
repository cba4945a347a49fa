"""API keys of integrations: created, listed, revoked and verified."""

import asyncio
import hmac
import time
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from msgspec import UNSET, Struct

from app.auth.policy import require_manager
from app.contracts.callers import Caller, service_caller
from app.contracts.errors import (
    ApiKeyNotFoundError,
    AuthenticationRequiredError,
    BusUnavailableError,
    Fault,
    InvalidRequestError,
    RateLimitedError,
    ServiceNotFoundError,
    StoreUnavailableError,
)
from app.contracts.events import EVERYONE, Event, Gap, IntegrationChanged, Topic
from app.contracts.integration import ApiKey
from app.contracts.integration_commands import ApiKeyCommand
from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.integrations import ApiKeyStore, IntegrationStore
from app.services.audit.log import AuditLog
from app.services.integrations.key_cache import KeyCache
from app.services.integrations.key_text import KeyText, is_key_id, new_key, read_key

log = structlog.get_logger("auth")

MAX_VALID_KEYS = 20
"""Valid keys of one integration."""
TRUST_SECONDS = 60.0
"""The time for which a connection trusts a key while the store is unavailable (``Caller.expires_at``)."""
USE_INTERVAL = timedelta(minutes=1)
"""The interval in which a worker stores the last use of a key."""
MAX_NOTED_USES = 10_000
LOG_INTERVAL_SECONDS = 1.0
_NO_KEY = "0" * 64


class NewApiKey(Struct, frozen=True):
    """A new key with its text, which nobody can read again."""

    key: ApiKey
    text: str


class ApiKeys:
    """Use cases of API keys, for administrators and for the integration itself, and their verification.

    A revocation is in effect on all workers at once, without Redis within ``FRESH_SECONDS`` of the cache.
    """

    def __init__(
        self,
        keys: ApiKeyStore,
        registrations: IntegrationStore,
        bus: EventBus,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._keys = keys
        self._registrations = registrations
        self._bus = bus
        self._audit = audit
        self._clock = clock
        self._cache = KeyCache(keys)
        self._noted: dict[str, datetime] = {}
        self._noting: set[asyncio.Task[None]] = set()
        self._logged_at: dict[str, float] = {}
        bus.subscribe(self._on_event)
        bus.on_gap(self._on_gap)

    async def create(self, alias: str, command: ApiKeyCommand, caller: Caller) -> NewApiKey:
        """Create a key of an integration.

        Raises:
            InsufficientPermissionsError: The caller is neither an administrator nor the integration.
            ServiceNotFoundError: There is no such integration.
            InvalidRequestError: It has too many valid keys.
        """
        require_manager(caller, alias)
        now = self._clock.now()
        valid = [key for key in await self._of(alias) if key.is_valid_at(now)]
        if len(valid) >= MAX_VALID_KEYS:
            fault = f"the service has {MAX_VALID_KEYS} valid keys, the maximum; revoke one first"
            raise InvalidRequestError([Fault("", fault)])
        text, parts = new_key()
        seconds = command.expires_in
        key = ApiKey(
            id=parts.id,
            alias=alias,
            hashed=parts.hashed,
            name=command.name,
            created_at=now,
            created_by=caller.user_id,
            expires_at=UNSET if seconds is None else now + timedelta(seconds=seconds),
        )
        async with self._audit.act("api-key.create", f"service:{alias}", caller, details={"key": key.id}):
            await self._keys.add(key)
        log.info("api key created", service=alias, key=key.id, user=caller.user_id)
        return NewApiKey(key, text)

    async def list_keys(self, alias: str, caller: Caller) -> list[ApiKey]:
        """Return the keys of an integration, oldest first, also revoked ones of the last 90 days.

        Raises:
            InsufficientPermissionsError: The caller is neither an administrator nor the integration.
            ServiceNotFoundError: There is no such integration.
        """
        require_manager(caller, alias)
        return await self._of(alias)

    async def revoke(self, alias: str, key_id: str, caller: Caller) -> None:
        """Revoke a key.

        Raises:
            ApiKeyNotFoundError: The integration has no key by this id, or it was revoked before.
            InsufficientPermissionsError: The caller is neither an administrator nor the integration.
        """
        require_manager(caller, alias)
        if not is_key_id(key_id):
            raise ApiKeyNotFoundError(alias)
        async with self._audit.act("api-key.revoke", f"service:{alias}", caller, details={"key": key_id}):
            if not await self._keys.revoke(alias, key_id, self._clock.now()):
                raise ApiKeyNotFoundError(alias)
        log.info("api key revoked", service=alias, key=key_id, user=caller.user_id)
        await self._announce(alias)

    async def verify(self, text: str) -> Caller:
        """Return the caller that a key is a credential of.

        Raises:
            AuthenticationRequiredError: The text is no valid key. The error does not say why.
            StoreUnavailableError: The key must be read, and cannot be.
            RateLimitedError: Too many unknown keys were sent.
        """
        parts = read_key(text)
        if parts is None:
            raise self._refusal("format", "")
        key = await self._cache.find(parts.id)
        if not _is_of(key, parts) or key is None:
            raise self._refusal("unknown" if key is None else "secret", parts.id)
        return self._caller(key)

    def knows(self, text: str) -> bool:
        """Return true if this worker has read the key lately, and its secret is right."""
        parts = read_key(text)
        return parts is not None and _is_of(self._cache.known(parts.id), parts)

    async def renew(self, caller: Caller) -> Caller:
        """Return the caller of a connection with a later ``expires_at``, if its key is still valid.

        While the store is unavailable the caller is returned as it is.

        Raises:
            AuthenticationRequiredError: The key was revoked, or has expired.
        """
        try:
            key = await self._cache.find(caller.credential)
        except (StoreUnavailableError, RateLimitedError):
            return caller
        if key is None or key.alias != caller.service:
            raise self._refusal("unknown", caller.credential)
        return self._caller(key)

    async def _of(self, alias: str) -> list[ApiKey]:
        if await self._registrations.get(alias) is None:
            raise ServiceNotFoundError(alias)
        return [*await self._keys.of_integration(alias)]

    def _caller(self, key: ApiKey) -> Caller:
        now = self._clock.now()
        if not key.is_valid_at(now):
            raise self._refusal("expired" if key.revoked_at is UNSET else "revoked", key.id)
        self._note_use(key, now)
        until = now.timestamp() + TRUST_SECONDS
        if key.expires_at is not UNSET:
            until = min(until, key.expires_at.timestamp())
        return service_caller(key.alias, expires_at=until, credential=key.id)

    def _note_use(self, key: ApiKey, now: datetime) -> None:
        """Store the use of a key, which its request does not wait for."""
        known = [at for at in (self._noted.get(key.id), key.last_used_at) if isinstance(at, datetime)]
        if known and now - max(known) < USE_INTERVAL:
            return
        if len(self._noted) >= MAX_NOTED_USES:
            self._noted.clear()
        self._noted[key.id] = now
        task = asyncio.ensure_future(self._store_use(key.id, now))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _store_use(self, key_id: str, now: datetime) -> None:
        with suppress(StoreUnavailableError):  # the next use is stored
            await self._keys.note_use(key_id, now)

    def _refusal(self, reason: str, key_id: str) -> AuthenticationRequiredError:
        """Log why a key is refused, once a second for each reason; the error does not say it."""
        now = time.monotonic()
        if now - self._logged_at.get(reason, -LOG_INTERVAL_SECONDS) >= LOG_INTERVAL_SECONDS:
            self._logged_at[reason] = now
            log.info("api key refused", reason=reason, key=key_id)
        return AuthenticationRequiredError("The API key is not valid here", reason="api-key")

    async def _announce(self, alias: str) -> None:
        self._cache.invalidate(alias)
        try:
            await self._bus.publish([IntegrationChanged(alias)])
        except BusUnavailableError:
            log.warning("registration change not announced", service=alias)

    def _on_event(self, _: Topic, event: Event) -> None:
        if isinstance(event, IntegrationChanged):
            self._cache.invalidate(event.alias)

    def _on_gap(self, gap: Gap) -> None:
        if gap.concerns(EVERYONE):
            self._cache.invalidate()


def _is_of(key: ApiKey | None, parts: KeyText) -> bool:
    """Return whether a text has the secret of a key, in constant time."""
    same = hmac.compare_digest(parts.hashed, _NO_KEY if key is None else key.hashed)
    return same and key is not None
