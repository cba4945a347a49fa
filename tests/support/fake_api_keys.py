"""The fake of the API keys of integrations."""

from datetime import datetime

from msgspec import UNSET, structs

from app.contracts.errors import StoreUnavailableError
from app.contracts.integration import ApiKey


class FakeApiKeyStore:
    """``broken``: the store is unavailable. ``reads`` counts those of single keys."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.broken = False
        self.reads = 0
        self.uses = 0

    def _check(self) -> None:
        if self.broken:
            raise StoreUnavailableError

    async def add(self, key: ApiKey) -> None:
        self._check()
        assert key.id not in self.keys
        self.keys[key.id] = key

    async def get(self, key_id: str) -> ApiKey | None:
        self.reads += 1
        self._check()
        return self.keys.get(key_id)

    async def of_integration(self, alias: str) -> list[ApiKey]:
        self._check()
        found = [key for key in self.keys.values() if key.alias == alias]
        return sorted(found, key=lambda key: (key.created_at, key.id))

    async def revoke(self, alias: str, key_id: str, at: datetime) -> bool:
        self._check()
        key = self.keys.get(key_id)
        if key is None or key.alias != alias or key.revoked_at is not UNSET:
            return False
        self.keys[key_id] = structs.replace(key, revoked_at=at)
        return True

    async def note_use(self, key_id: str, at: datetime) -> None:
        self._check()
        self.uses += 1
        key = self.keys.get(key_id)
        if key is not None and (key.last_used_at is UNSET or key.last_used_at < at):
            self.keys[key_id] = structs.replace(key, last_used_at=at)

    async def delete_of(self, alias: str) -> int:
        self._check()
        found = [key.id for key in self.keys.values() if key.alias == alias]
        for key_id in found:
            del self.keys[key_id]
        return len(found)
