"""The fakes of the stored data keys and of the keys that wrap them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from msgspec import structs

from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.keys import DataKeyRing, DestroyedKey, WrappedKey


class FakeDataKeyStore:
    """``broken``: the store is unavailable. ``loads`` has the owners of each read."""

    def __init__(self) -> None:
        self.rings: dict[str, DataKeyRing] = {}
        self.broken = False
        self.loads: list[list[str]] = []

    def _check(self) -> None:
        if self.broken:
            raise StoreUnavailableError

    async def load_many(self, owners: Sequence[str]) -> Mapping[str, DataKeyRing]:
        self.loads.append(list(owners))
        self._check()
        return {owner: self.rings[owner] for owner in owners if owner in self.rings}

    async def create_many(self, keys: Mapping[str, WrappedKey]) -> Mapping[str, DataKeyRing]:
        self._check()
        for owner, key in keys.items():
            ring = self.rings.get(owner, DataKeyRing(owner))
            if ring.current is None:
                self.rings[owner] = structs.replace(ring, current=key)
        return {owner: self.rings[owner] for owner in keys}

    async def retire(self, owner: str) -> DataKeyRing | None:
        self._check()
        ring = self.rings.get(owner)
        if ring is not None and ring.current is not None:
            self.rings[owner] = structs.replace(ring, current=None, retired=(ring.current, *ring.retired))
        return self.rings.get(owner)

    async def destroy_retired(self, owner: str, at: datetime, by: str) -> Sequence[str]:
        self._check()
        if owner not in self.rings:
            return []
        ring = self.rings[owner]
        destroyed = (*ring.destroyed, *(DestroyedKey(key.id, at, by) for key in ring.retired))
        self.rings[owner] = structs.replace(ring, retired=(), destroyed=destroyed)
        return [key.id for key in destroyed]

    async def rewrap(self, owner: str, before: WrappedKey, after: WrappedKey) -> bool:
        self._check()
        ring = self.rings.get(owner)
        if ring is None or before not in ring.usable:
            return False
        self.rings[owner] = structs.replace(
            ring,
            current=after if ring.current == before else ring.current,
            retired=tuple(after if key == before else key for key in ring.retired),
        )
        return True

    async def wrapped_by_others(self, wrapping: str, after: str, limit: int) -> Sequence[DataKeyRing]:
        self._check()
        found = [
            ring
            for owner, ring in sorted(self.rings.items())
            if owner > after and any(key.wrapped_by != wrapping for key in ring.usable)
        ]
        return found[:limit]

    async def other_wrappings(self, known: Collection[str]) -> Sequence[str]:
        return sorted((await self.count_by_wrapping()).keys() - set(known))

    async def count_by_wrapping(self) -> Mapping[str, int]:
        self._check()
        counts: Counter[str] = Counter()
        for ring in self.rings.values():
            counts.update({key.wrapped_by for key in ring.usable})
        return counts


class FakeKeyWrapping:
    """Wraps visibly. The first of ``names`` wraps; ``broken``: the key service does not respond."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self.broken = False
        self.unwrapped = 0

    @property
    def current(self) -> str:
        return self._names[0]

    @property
    def known(self) -> Collection[str]:
        return self._names

    async def wrap(self, key: bytes, owner: str) -> bytes:
        self._check()
        return f"{self.current}|{owner}|{key.hex()}".encode()

    async def unwrap(self, wrapped: bytes, wrapped_by: str, owner: str) -> bytes:
        self._check()
        self.unwrapped += 1
        if wrapped_by not in self._names:
            raise LookupError(wrapped_by)
        name, _, rest = wrapped.decode().partition("|")
        of, _, key = rest.partition("|")
        if (name, of) != (wrapped_by, owner):
            raise ValueError("wrapped for another owner")
        return bytes.fromhex(key)

    def _check(self) -> None:
        if self.broken:
            raise StoreUnavailableError("the key service does not respond")
