"""Fakes of the stores of registered integrations."""

from msgspec import structs

from app.contracts.integration import Heartbeat, Integration, IntegrationHealth

BREAKER_MEMBERS = (
    "breaker",
    "failures",
    "failing",
    "openings",
    "next_probe_at",
    "allowed",
    "reason",
    "revision",
)


class FakeIntegrationStore:
    """``reads`` counts the reads of all registrations. Every method raises ``failure``, if it is set."""

    def __init__(self) -> None:
        self.integrations: dict[str, Integration] = {}
        self.health: dict[str, IntegrationHealth] = {}
        self.reads = 0
        self.failure: Exception | None = None

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def list_all(self) -> list[Integration]:
        self._check()
        self.reads += 1
        return [self.integrations[alias] for alias in sorted(self.integrations)]

    async def get(self, alias: str) -> Integration | None:
        self._check()
        return self.integrations.get(alias)

    async def put(self, integration: Integration, expected_revision: int | None) -> bool:
        self._check()
        stored = self.integrations.get(integration.alias)
        if (None if stored is None else stored.revision) != expected_revision:
            return False
        if stored is not None:
            integration = structs.replace(integration, heartbeat=stored.heartbeat)
        self.integrations[integration.alias] = integration
        self.health.setdefault(integration.alias, IntegrationHealth(alias=integration.alias))
        return True

    async def put_heartbeat(self, alias: str, heartbeat: Heartbeat) -> bool:
        self._check()
        if alias not in self.integrations:
            return False
        self.integrations[alias] = structs.replace(self.integrations[alias], heartbeat=heartbeat)
        return True

    async def delete(self, alias: str) -> bool:
        self._check()
        self.health.pop(alias, None)
        return self.integrations.pop(alias, None) is not None

    async def list_health(self) -> list[IntegrationHealth]:
        self._check()
        return [self.health[alias] for alias in sorted(self.health)]

    async def put_health(self, health: IntegrationHealth) -> bool:
        self._check()
        stored = self.health.get(health.alias)
        if stored is None or stored.revision != health.revision - 1:
            return False
        changed = {name: getattr(health, name) for name in BREAKER_MEMBERS}
        self.health[health.alias] = structs.replace(stored, **changed)
        return True

    async def count(self, alias: str, *, delivered: int = 0, failed: int = 0, internal: int = 0) -> None:
        self._check()
        stored = self.health.get(alias)
        if stored is not None:
            self.health[alias] = structs.replace(
                stored,
                delivered=stored.delivered + delivered,
                failed=stored.failed + failed,
                internal=stored.internal + internal,
            )

    async def take_rate(self, alias: str, second: int, wanted: int, limit: int) -> int:
        self._check()
        stored = self.health.get(alias)
        if stored is None:
            return 0
        window, used = stored.window, stored.used
        if not second <= window <= second + 5:
            window, used = second, 0
        taken = max(0, min(wanted, limit - used))
        self.health[alias] = structs.replace(stored, window=window, used=used + taken)
        return taken
