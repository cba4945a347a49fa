"""Fakes of the ports, for pure logic. Each passes the same contract suite as the real part."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from app.contracts.definition import FlowDefinition
from app.contracts.events import Event
from app.contracts.ports import REMEMBERED, BusUnavailableError, StoredState
from app.contracts.record import (
    EVERYTHING,
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    position_of,
    remembered,
)
from app.contracts.state import ENDED, FlowState, state_key


class FakeClock:
    """Time that goes on when told."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


class FakeStateStore:
    def __init__(self) -> None:
        self.kept: dict[str, StoredState] = {}

    async def load(self, flow_id: str, user_id: str) -> StoredState | None:
        return self.kept.get(state_key(flow_id, user_id))

    async def commit(self, before: FlowState | None, record: HistoryRecord) -> bool:
        after = record.after
        assert isinstance(after, FlowState)
        kept = self.kept.get(after.key)
        if before is None:
            if kept is not None:
                return False
        elif kept is None or (kept.state.epoch, kept.state.revision) != (before.epoch, before.revision):
            return False
        pending = (*(kept.pending if kept else ()), record)
        request = remembered(record)
        recent = (*(kept.recent if kept else ()), *([request] if request else []))[-REMEMBERED:]
        self.kept[after.key] = StoredState(state=after, pending=pending, recent=recent)
        return True

    async def set_aside(self, flow_id: str, user_id: str) -> None:
        self.kept.pop(state_key(flow_id, user_id), None)

    async def list_by_user(
        self, user_id: str, after_flow: str | None, limit: int, now: datetime
    ) -> list[FlowState]:
        mine = [k.state for k in self.kept.values() if k.state.user_id == user_id]
        present = [s for s in mine if not s.absent_at(now) and s.flow > (after_flow or "")]
        return sorted(present, key=lambda state: state.flow)[:limit]

    async def list_expired(self, now: datetime, limit: int) -> list[FlowState]:
        late = [k.state for k in self.kept.values() if k.state.status not in ENDED and k.state.absent_at(now)]
        return sorted(late, key=lambda state: state.expires_at)[:limit]

    async def list_undelivered(self, before: datetime, limit: int) -> list[StoredState]:
        waiting = [k for k in self.kept.values() if k.pending and k.state.updated_at < before]
        return sorted(waiting, key=lambda kept: kept.state.updated_at)[:limit]

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        for record in records:
            key = state_key(record.flow_id, record.user_id)
            kept = self.kept.get(key)
            if kept is None:
                continue
            left = tuple(p for p in kept.pending if p.epoch != record.epoch or p.revision > record.revision)
            self.kept[key] = StoredState(state=kept.state, pending=left, recent=kept.recent)


class FakeHistoryStore:
    def __init__(self) -> None:
        self.kept: dict[str, HistoryRecord] = {}

    async def append(self, records: Sequence[HistoryRecord]) -> None:
        for record in records:
            self.kept.setdefault(record.id, record)

    async def read(
        self,
        flow_id: str,
        user_id: str,
        after: HistoryPosition | None,
        limit: int,
        only: HistoryFilter = EVERYTHING,
    ) -> list[HistoryRecord]:
        here = [r for r in self.kept.values() if (r.flow_id, r.user_id) == (flow_id, user_id)]
        mine = [r for r in here if only.takes(r)]
        rest = [r for r in mine if after is None or position_of(r) > after]
        return sorted(rest, key=position_of)[:limit]

    async def get(self, record_id: str) -> HistoryRecord | None:
        return self.kept.get(record_id)

    async def find_request(
        self, flow_id: str, user_id: str, actor: str, request_id: str, since: datetime
    ) -> HistoryRecord | None:
        wanted = (flow_id, user_id, actor, request_id)
        for r in self.kept.values():
            if (r.flow_id, r.user_id, r.actor, r.request_id) == wanted and r.success and r.timestamp > since:
                return r
        return None


class FakeDefinitionStore:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], FlowDefinition] = {}
        self.reads = 0

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        self.reads += 1
        found = await self.versions(flow_id)
        return found[0] if found else None

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        self.reads += 1
        return self.kept.get((flow_id, version))

    async def versions(self, flow_id: str) -> list[FlowDefinition]:
        mine = [d for (slug, _), d in self.kept.items() if slug == flow_id]
        return sorted(mine, key=lambda d: -d.version)

    async def list_latest(self, after_flow: str | None, limit: int) -> list[FlowDefinition]:
        slugs = sorted({slug for slug, _ in self.kept if slug > (after_flow or "")})
        newest = [(await self.versions(slug))[0] for slug in slugs]
        return [d for d in newest if not d.retired][:limit]

    async def publish(self, definition: FlowDefinition) -> bool:
        key = (definition.flow.flow, definition.version)
        if key in self.kept:
            return False
        self.kept[key] = definition
        return True


class FakeBus:
    """``broken``: publishing fails, as when Redis is away."""

    def __init__(self) -> None:
        self.handlers: list[Callable[[Event], None]] = []
        self.resumed: list[Callable[[], None]] = []
        self.broken = False

    async def publish(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise BusUnavailableError
        for event in events:
            for handler in self.handlers:
                handler(event)

    def subscribe(self, handler: Callable[[Event], None]) -> None:
        self.handlers.append(handler)

    def on_resume(self, handler: Callable[[], None]) -> None:
        self.resumed.append(handler)
