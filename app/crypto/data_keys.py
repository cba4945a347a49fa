"""The data keys of users and of the service, as a process uses them."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from hashlib import blake2b
from hmac import compare_digest
from os import urandom
from time import monotonic

import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from app.contracts.errors import KeyServiceUnavailableError, StoreUnavailableError
from app.contracts.ports.ciphers import Unopened
from app.contracts.ports.clock import Clock
from app.contracts.ports.keys import (
    DataKeyRing,
    DataKeyStore,
    DestroyedKey,
    KeyWrapping,
    WrappedKey,
    user_owner,
)

log = structlog.get_logger("encryption")

KEY_BYTES = 32
KEY_ID_BYTES = 8
DIGEST_BYTES = 12
MAX_OWNERS = 10_000
MAX_AGE_SECONDS = 300.0
MAX_CREATE_ATTEMPTS = 5
_DERIVED_BYTES = 160
_CONTEXT = b"server-flow data key: content, comparable, commitment"

KeyPlace = tuple[str, bytes]
"""An owner, and the id of one of its data keys."""


class DataKey:
    """A data key, ready for use.

    From the random bytes that are stored wrapped, HKDF derives a key for AES-256-GCM, one for AES-SIV, and
    the commitment, which is stored beside them: no other bytes pass for the key.

    Args:
        key_id: The id.
        material: The random bytes.
    """

    __slots__ = ("_comparable", "_comparable_key", "_digest_key", "commitment", "content", "id")

    def __init__(self, key_id: bytes, material: bytes) -> None:
        derived = HKDFExpand(SHA256(), _DERIVED_BYTES, _CONTEXT).derive(material)
        self.id = key_id
        self.content = AESGCM(derived[:32])
        self._comparable_key = derived[32:96]
        self._comparable: AESSIV | None = None
        self.commitment = derived[96:128]
        self._digest_key = derived[128:]

    def digest(self, content: bytes) -> str:
        """Return a keyed digest, in hexadecimal."""
        return blake2b(content, key=self._digest_key, digest_size=DIGEST_BYTES).hexdigest()

    @property
    def comparable(self) -> AESSIV:
        """The cipher of texts that are looked up."""
        if self._comparable is None:
            self._comparable = AESSIV(self._comparable_key)
        return self._comparable


class _CachedRing:
    """The keys of an owner as they were read; those that were used are unwrapped."""

    __slots__ = ("current", "destroyed", "expires_at", "keys", "stored")

    def __init__(self, stored: DataKeyRing, expires_at: float) -> None:
        self.stored = stored
        self.expires_at = expires_at
        self.current: DataKey | None = None
        self.keys: dict[bytes, DataKey] = {}
        self.destroyed = frozenset(bytes.fromhex(key.id) for key in stored.destroyed)

    def add(self, key: DataKey) -> None:
        """Add an unwrapped key."""
        self.keys[key.id] = key
        current = self.stored.current
        if current is not None and bytes.fromhex(current.id) == key.id:
            self.current = key


class DataKeys:
    """Finds, creates and caches data keys; also the UserKeys port.

    A key in the cache needs no waiting. The cache is bounded, and reads the keys of an owner again after a
    while; keys that it has unwrapped are not unwrapped again then.

    Args:
        store: The stored keys.
        wrapping: Wraps and unwraps them.
        clock: For the times of creation.
        max_owners: The largest number of owners in the cache.
        max_age_seconds: The longest time until the keys of an owner are read again.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        store: DataKeyStore,
        wrapping: KeyWrapping,
        clock: Clock,
        *,
        max_owners: int = MAX_OWNERS,
        max_age_seconds: float = MAX_AGE_SECONDS,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._wrapping = wrapping
        self._clock = clock
        self._max_owners = max_owners
        self._max_age = max_age_seconds
        self._now = now
        self._rings: dict[str, _CachedRing] = {}
        self._forgotten = 0
        self._missing: set[str] = set()

    def sealing_key(self, owner: str) -> DataKey | None:
        """Return the key that seals, if it is in the cache."""
        ring = self._rings.get(owner)
        return ring.current if ring is not None and ring.expires_at > self._now() else None

    def opening_key(self, owner: str, key_id: bytes) -> DataKey | Unopened | None:
        """Return a key, or ERASED if it was destroyed; None if the cache does not have it."""
        ring = self._rings.get(owner)
        if ring is None or ring.expires_at <= self._now():
            return None
        found = ring.keys.get(key_id)
        if found is None and key_id in ring.destroyed:
            return Unopened.ERASED
        return found

    async def load_sealing(self, owners: Collection[str]) -> dict[str, DataKey]:
        """Read the keys that seal, and create those that are missing.

        Raises:
            StoreUnavailableError: The keys cannot be read or unwrapped.
        """
        found: dict[str, DataKey] = {}
        left = list(owners)
        stored = await self._load(left)
        for _ in range(MAX_CREATE_ATTEMPTS):
            present = [
                owner for owner in left if owner in stored and stored[owner].stored.current is not None
            ]
            keys = await asyncio.gather(*(self._sealing_of(owner, stored[owner]) for owner in present))
            found.update(zip(present, keys, strict=True))
            left = [owner for owner in left if owner not in found]
            if not left:
                return found
            stored = await self._create(left)
        raise StoreUnavailableError("data keys are destroyed as fast as they are created")

    async def load_opening(self, places: Iterable[KeyPlace]) -> dict[KeyPlace, DataKey | Unopened]:
        """Read keys; those that were destroyed are ERASED, unknown and changed ones DAMAGED.

        Raises:
            StoreUnavailableError: The keys cannot be read, or not unwrapped now.
        """
        wanted = list(places)
        rings = await self._load({owner: None for owner, _ in wanted})
        keys = await asyncio.gather(*(self._opening_of(place, rings.get(place[0])) for place in wanted))
        return dict(zip(wanted, keys, strict=True))

    def forget(self, user_id: str) -> None:
        """Forget the keys of a user. Keys that are being read meanwhile do not get into the cache."""
        self._forgotten += 1
        self._rings.pop(user_owner(user_id), None)

    def forget_all(self) -> None:
        """Forget all keys, after events of other workers were lost."""
        self._forgotten += 1
        self._rings.clear()

    async def retire(self, user_id: str) -> None:
        """Let no later change use the present data key of a user. Raises StoreUnavailableError."""
        try:
            await self._store.retire(user_owner(user_id))
        finally:
            self.forget(user_id)

    async def destroy(self, user_id: str, at: datetime, by: str) -> list[str]:
        """Destroy the retired data keys of a user; return the ids of all that were ever destroyed.

        Raises:
            StoreUnavailableError: The store does not respond.
        """
        try:
            return list(await self._store.destroy_retired(user_owner(user_id), at, by))
        finally:
            self.forget(user_id)

    async def digest(self, user_id: str, content: bytes) -> str:
        """Return a digest that only the data key of a user makes. Raises StoreUnavailableError."""
        owner = user_owner(user_id)
        key = self.sealing_key(owner) or (await self.load_sealing([owner]))[owner]
        return key.digest(content)

    async def last_destroyed(self, user_id: str) -> DestroyedKey | None:
        """Return the data key of a user that was destroyed last. Raises StoreUnavailableError."""
        found = await self._store.load_many([user_owner(user_id)])
        return max(
            (key for ring in found.values() for key in ring.destroyed), key=_destroyed_at, default=None
        )

    async def _load(self, owners: Collection[str]) -> dict[str, _CachedRing]:
        forgotten = self._forgotten
        stored = await self._store.load_many(list(owners))
        return self._cache(stored, forgotten)

    async def _create(self, owners: Collection[str]) -> dict[str, _CachedRing]:
        forgotten = self._forgotten
        created = dict(await asyncio.gather(*(self._new_key(owner) for owner in owners)))
        stored = await self._store.create_many({owner: wrapped for owner, (wrapped, _) in created.items()})
        rings = self._cache(stored, forgotten)
        for owner, ring in rings.items():
            wrapped, key = created[owner]
            if ring.stored.current == wrapped:
                ring.add(key)
        return rings

    async def _new_key(self, owner: str) -> tuple[str, tuple[WrappedKey, DataKey]]:
        key_id, material = urandom(KEY_ID_BYTES), urandom(KEY_BYTES)
        key = DataKey(key_id, material)
        wrapped_by = self._wrapping.current
        wrapped = await self._wrapping.wrap(material, owner)
        stored = WrappedKey(key_id.hex(), wrapped, wrapped_by, key.commitment, self._clock.now())
        return owner, (stored, key)

    def _cache(self, stored: Mapping[str, DataKeyRing], forgotten: int) -> dict[str, _CachedRing]:
        """Put rings into the cache, unless keys were forgotten since they were requested."""
        expires_at = self._now() + self._max_age
        rings = {owner: _CachedRing(ring, expires_at) for owner, ring in stored.items()}
        for owner, ring in rings.items():
            before = self._rings.pop(owner, None)  # the order of the cache is that of the reads
            if before is not None:
                _retain_unwrapped(before, ring)
            if forgotten == self._forgotten:
                self._rings[owner] = ring
        while len(self._rings) > self._max_owners:
            del self._rings[next(iter(self._rings))]
        return rings

    async def _sealing_of(self, owner: str, ring: _CachedRing) -> DataKey:
        if ring.current is not None:
            return ring.current
        stored = ring.stored.current
        key = None if stored is None else await self._unwrap(owner, stored)
        if key is None:
            raise KeyServiceUnavailableError("A data key was changed in the database (flow_data_keys)")
        ring.add(key)
        return key

    async def _opening_of(self, place: KeyPlace, ring: _CachedRing | None) -> DataKey | Unopened:
        owner, key_id = place
        if ring is None:
            return Unopened.DAMAGED
        if key_id in ring.keys:
            return ring.keys[key_id]
        if key_id in ring.destroyed:
            return Unopened.ERASED
        stored = next((key for key in ring.stored.usable if key.id == key_id.hex()), None)
        key = None if stored is None else await self._unwrap(owner, stored)
        if key is None:
            return Unopened.DAMAGED
        ring.add(key)
        return key

    async def _unwrap(self, owner: str, stored: WrappedKey) -> DataKey | None:
        """Return a key, None if it was changed."""
        try:
            material = await self._wrapping.unwrap(stored.wrapped, stored.wrapped_by, owner)
        except LookupError:
            if stored.wrapped_by not in self._missing:
                self._missing.add(stored.wrapped_by)
                log.error("wrapping key missing", wrapping_key=stored.wrapped_by)
            raise KeyServiceUnavailableError(
                f"FLOW_ENCRYPTION_KEYS lacks the key {stored.wrapped_by}, which stored data needs"
            ) from None
        except ValueError:
            material = b""
        key = DataKey(bytes.fromhex(stored.id), material) if len(material) == KEY_BYTES else None
        if key is None or not compare_digest(key.commitment, stored.commitment):
            log.error("data key damaged", data_key=stored.id)
            return None
        return key


def _destroyed_at(key: DestroyedKey) -> datetime:
    return key.at


def _retain_unwrapped(before: _CachedRing, ring: _CachedRing) -> None:
    """Take over the keys that are unwrapped already and still stored."""
    commitments = {bytes.fromhex(key.id): key.commitment for key in ring.stored.usable}
    for key in before.keys.values():
        if commitments.get(key.id) == key.commitment:
            ring.add(key)
