"""Fakes of the ports, for pure logic. Each passes the same contract suite as the real part."""

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from secrets import token_bytes
from typing import Any

from msgspec import UNSET, json, structs

from app.contracts.definition import FlowDefinition, VersionInfo
from app.contracts.errors import BusUnavailableError, FlowStateCorruptionError
from app.contracts.events import EVERYONE, Event, Gap, Topic
from app.contracts.pages import Page, take_page
from app.contracts.people import Participant
from app.contracts.ports.ciphers import PayloadText, SealedText, Unopened
from app.contracts.ports.leases import Lease
from app.contracts.ports.states import (
    REMEMBERED_REQUESTS,
    DamagedState,
    ListedStatus,
    RunningStates,
    StateFilter,
    StatePage,
    StoredState,
)
from app.contracts.pseudonyms import named_people, pseudonyms_of, without_person
from app.contracts.record import (
    ERASABLE,
    ERASABLE_AFTER,
    EVERYTHING,
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    UnreadableRecord,
    as_stored,
    payload_place,
    position_of,
    remembered_request,
)
from app.contracts.state import TERMINAL_STATUSES, FlowState, StateId, StatePosition, id_from_key
from app.contracts.statistics import FlowStatistics, PerformanceMetrics, StepCount

MILLISECOND = timedelta(milliseconds=1)


class FakeClock:
    """A clock that only ``advance`` moves."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


class FakeStateStore:
    """``damaged`` are states that cannot be loaded."""

    busy = False

    def __init__(self) -> None:
        self.stored: dict[str, StoredState] = {}
        self.damaged: dict[str, DamagedState] = {}
        self.aside: list[DamagedState] = []
        self.terms: dict[str, tuple[str, ...]] = {}

    async def load(self, state_id: StateId) -> StoredState | None:
        key = state_id.key
        if key in self.damaged:
            raise FlowStateCorruptionError(state_id.user_id, state_id.flow_id, self.damaged[key].reason)
        return self.stored.get(key)

    async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
        after = record.after
        assert isinstance(after, FlowState)
        present = self.stored.get(after.key)
        if before is None:
            if present is not None:
                return False
        elif present is None or (present.state.epoch, present.state.revision) != (
            before.epoch,
            before.revision,
        ):
            return False
        record, after = self._take_terms(record)
        pending = (*(present.pending if present else ()), as_stored(record))
        request = remembered_request(record)
        recent = (*(present.recent if present else ()), *([request] if request else []))[
            -REMEMBERED_REQUESTS:
        ]
        recent = () if record.kind in ("erased", "pseudonymised") else recent
        head = "" if record.hash is UNSET else record.hash
        place = payload_place(record, present.payload_at if present else None)
        self.stored[after.key] = StoredState(after, pending, recent, head, place)
        return True

    def _take_terms(self, record: HistoryRecord) -> tuple[HistoryRecord, FlowState]:
        """Store the terms of a state; neither it nor its record has them afterwards."""
        after = record.after
        assert isinstance(after, FlowState)
        self.terms[after.key] = after.search_terms or ()
        after = structs.replace(after, search_terms=UNSET)
        return structs.replace(record, after=after), after

    async def load_or_salvage(self, state_id: StateId) -> StoredState | DamagedState | None:
        key = state_id.key
        return self.damaged.get(key) or self.stored.get(key)

    async def replace(self, damaged: DamagedState, record: HistoryRecord) -> bool:
        after = record.after
        assert isinstance(after, FlowState)
        if self.damaged.get(after.key) == damaged:
            self.aside.append(self.damaged.pop(after.key))
        elif after.key in self.stored and self.stored[after.key].state.position == damaged.position:
            self.aside.append(damaged)
        else:
            return False
        head = "" if record.hash is UNSET else record.hash
        request = remembered_request(record)
        recent = (*damaged.recent, *([request] if request else []))[-REMEMBERED_REQUESTS:]
        place = payload_place(record, None)
        record, after = self._take_terms(record)
        self.stored[after.key] = StoredState(after, (record,), recent, head, place)
        return True

    async def drop_damaged(self, state_id: StateId) -> None:
        self.aside = [d for d in self.aside if d.position.key != state_id.key]

    async def find(self, only: StateFilter, after: str | None, limit: int, now: datetime) -> StatePage:
        wanted = [
            k.state
            for key, k in self.stored.items()
            if key > (after or "")
            and not k.state.is_gone_at(now)
            and only.flow_id in (None, k.state.flow)
            and only.user_id in (None, k.state.user_id)
            and only.entity_id in (None, k.state.id.instance_id)
            and only.step in (None, k.state.step)
            and only.status in (None, k.state.status)
        ]
        in_order = sorted(wanted, key=lambda state: state.key)
        page, full = take_page(in_order, limit, lambda state: len(json.encode(state)))
        return StatePage(page, page[-1].key if full else None)

    async def list_instances(
        self,
        flow_id: str,
        user_id: str,
        *,
        status: ListedStatus | None,
        after: str | None,
        limit: int,
        now: datetime,
    ) -> StatePage:
        mine = [
            k.state
            for k in self.stored.values()
            if (k.state.flow, k.state.user_id) == (flow_id, user_id)
            and k.state.instance_id is not UNSET
            and not k.state.is_gone_at(now)
            and status in (None, k.state.status)
            and k.state.place_in_list > (after or "")
        ]
        in_order = sorted(mine, key=lambda state: state.place_in_list)
        page, full = take_page(in_order, limit, lambda state: len(json.encode(state)))
        return StatePage(page, page[-1].place_in_list if full else None)

    async def list_awaiting(
        self, roles: Sequence[Participant], *, after: str | None, limit: int, now: datetime
    ) -> StatePage:
        waiting = [
            k.state
            for k in self.stored.values()
            if k.state.status == "active"
            and not k.state.is_gone_at(now)
            and k.state.key > (after or "")
            and any(one in roles and one.role in (k.state.awaits or ()) for one in k.state.participants or ())
        ]
        in_order = sorted(waiting, key=lambda state: state.key)
        page, full = take_page(in_order, limit, lambda state: len(json.encode(state)))
        return StatePage(page, page[-1].key if full else None)

    async def find_by_terms(
        self, terms: Sequence[str], *, after: str | None, limit: int, now: datetime
    ) -> StatePage:
        found = [
            k.state
            for key, k in self.stored.items()
            if key > (after or "")
            and not k.state.is_gone_at(now)
            and any(term in terms for term in self.terms.get(key, ()))
        ]
        in_order = sorted(found, key=lambda state: state.key)
        page, full = take_page(in_order, limit, lambda state: len(json.encode(state)))
        return StatePage(page, page[-1].key if full else None)

    async def ids_of_user(self, user_id: str) -> list[StateId]:
        keys = sorted({*self.stored, *self.damaged})
        return [found for key in keys if (found := id_from_key(key)).user_id == user_id]

    async def count_running_by_step(
        self, flow_id: str, version: int, shown: int, now: datetime
    ) -> list[RunningStates]:
        alike: dict[Any, list[StateId]] = {}
        for state in self._running(flow_id, version, now):
            alike.setdefault((state.step, state.status, state.previous), []).append(state.id)
        return [
            RunningStates(step, status, previous, len(found), tuple(found[:shown]))
            for (step, status, previous), found in alike.items()
        ]

    async def list_running(
        self, flow_id: str, version: int, without: Sequence[str], limit: int, now: datetime
    ) -> list[StateId]:
        found = self._running(flow_id, version, now)
        return [state.id for state in found if state.step not in without][:limit]

    def _running(self, flow_id: str, version: int, now: datetime) -> list[FlowState]:
        states = [self.stored[key].state for key in sorted(self.stored)]
        here = [s for s in states if (s.flow, s.version) == (flow_id, version)]
        return [s for s in here if s.status in ("active", "paused") and not s.is_gone_at(now)]

    async def expired(self, now: datetime) -> AsyncIterator[FlowState]:
        states = [k.state for k in self.stored.values() if k.state.status not in TERMINAL_STATUSES]
        late = [(s.expires_at, s) for s in states if s.expires_at is not UNSET and s.expires_at <= now]
        for _, state in sorted(late, key=itemgetter(0)):
            yield state

    async def timed_out(self, now: datetime) -> AsyncIterator[FlowState]:
        active = [k.state for k in self.stored.values() if k.state.status == "active"]
        late = [(s.timeout_at, s) for s in active if s.timeout_at is not UNSET and s.timeout_at <= now]
        for _, state in sorted(late, key=itemgetter(0)):
            yield state

    async def changed_since(self, user_ids: Sequence[str], since: datetime) -> list[FlowState]:
        states = [k.state for k in self.stored.values()]
        found = [s for s in states if s.user_id in user_ids and s.updated_at >= since]
        return [structs.replace(state, payload=UNSET) for state in found]

    async def ids_naming(self, user_id: str) -> list[StateId]:
        naming = [
            stored.state.id
            for stored in self.stored.values()
            if user_id in pseudonyms_of(stored.state.people)
        ]
        return sorted(naming, key=lambda state_id: state_id.key)

    async def random_key(self) -> str | None:
        return random.choice([*self.stored, *self.damaged]) if self.stored or self.damaged else None

    async def walk(self, after: str, limit: int) -> list[StoredState | DamagedState]:
        stored: dict[str, StoredState | DamagedState] = {**self.stored, **self.damaged}
        return [stored[key] for key in sorted(stored) if key > after][:limit]

    async def list_undelivered(
        self, before: datetime, limit: int, without: Sequence[str] = ()
    ) -> list[StoredState]:
        candidates = (found for key, found in self.stored.items() if key not in without)
        waiting = [k for k in candidates if any(p.timestamp < before for p in k.pending)]
        return sorted(waiting, key=lambda found: found.pending[0].timestamp)[:limit]

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        for record in records:
            key = record.state_key
            present = self.stored.get(key)
            if present is None:
                continue
            left = tuple(
                p for p in present.pending if p.epoch != record.epoch or p.revision > record.revision
            )
            self.stored[key] = structs.replace(present, pending=left)


class FakeEntityReservations:
    def __init__(self) -> None:
        self.reserved: dict[str, str] = {}

    async def reserve(self, request: str, entity_id: str, now: datetime) -> str:
        return self.reserved.setdefault(request, entity_id)


class FakeHistoryStore:
    def __init__(self) -> None:
        self.records: dict[str, HistoryRecord] = {}

    async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
        present = {r.id: self.records.setdefault(r.id, as_stored(r)) for r in records}
        return {r.id for r in records if present[r.id].commit_id != r.commit_id}

    async def read(
        self,
        state_id: StateId,
        after: HistoryPosition | None,
        limit: int,
        only: HistoryFilter = EVERYTHING,
    ) -> Page[HistoryRecord]:
        here = [r for r in self.records.values() if r.state_key == state_id.key]
        mine = [r for r in here if only.matches(r)]
        rest = [r for r in mine if after is None or position_of(r) > after]
        return self._page(sorted(rest, key=position_of), limit)

    def _page(self, records: list[HistoryRecord], limit: int) -> Page[Any]:
        shown, full = take_page(records, limit, lambda record: len(json.encode(record)))
        return Page(shown, shown[-1].id if full else None)

    async def scan(
        self,
        state_id: StateId,
        start: HistoryPosition | None,
        limit: int,
        *,
        backwards: bool = False,
    ) -> Page[HistoryRecord | UnreadableRecord]:
        here = [r for r in self.records.values() if r.state_key == state_id.key]
        if start is not None:
            here = [r for r in here if (position_of(r) < start if backwards else position_of(r) > start)]
        return self._page(sorted(here, key=position_of, reverse=backwards), limit)

    async def newest(self, state_id: StateId) -> HistoryRecord | UnreadableRecord | None:
        here = [r for r in self.records.values() if r.state_key == state_id.key and r.success]
        return max(here, key=position_of, default=None)

    async def ids_of_user(self, flow_id: str, user_id: str) -> list[StateId]:
        found = {id_from_key(record.state_key) for record in self.records.values()}
        mine = [one for one in found if (one.flow_id, one.user_id) == (flow_id, user_id)]
        return sorted(mine, key=lambda one: one.key)

    async def erase(self, state_id: StateId, until: HistoryPosition) -> int:
        old = [r for r in self.records.values() if r.state_key == state_id.key and position_of(r) < until]
        for r in old:
            absent_after = dict.fromkeys(ERASABLE_AFTER, UNSET)
            after = r.after if r.after is UNSET else structs.replace(r.after, **absent_after)
            if r.kind == "refused":
                del self.records[r.id]
                continue
            absent = dict.fromkeys((*ERASABLE, "salt"), UNSET)
            self.records[r.id] = structs.replace(r, **absent, after=after)
        return len(old)

    async def ids_naming(self, user_id: str) -> list[StateId]:
        keys = {r.state_key for r in self.records.values() if user_id in named_people(r)}
        return [id_from_key(key) for key in sorted(keys)]

    async def replace_person(self, state_id: StateId, user_id: str, until: HistoryPosition) -> int:
        old = [
            r
            for r in self.records.values()
            if r.state_key == state_id.key and position_of(r) < until and user_id in named_people(r)
        ]
        for r in old:
            self.records[r.id] = without_person(r, user_id)
        return len(old)

    async def get(self, record_id: str) -> HistoryRecord | None:
        return self.records.get(record_id)

    async def get_many(self, record_ids: Sequence[str]) -> list[HistoryRecord]:
        return [self.records[record_id] for record_id in record_ids if record_id in self.records]

    async def find_request(
        self, state_id: StateId, actor: str, request_id: str, since: datetime
    ) -> HistoryRecord | None:
        wanted = (state_id.key, actor, request_id)
        for r in self.records.values():
            if (r.state_key, r.actor, r.request_id) == wanted and r.success and r.timestamp > since:
                return r
        return None


class FakeDefinitionStore:
    def __init__(self) -> None:
        self.published: dict[tuple[str, int], FlowDefinition] = {}
        self.reads = 0

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        self.reads += 1
        found = self._of(flow_id)
        return found[0] if found else None

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        self.reads += 1
        return self.published.get((flow_id, version))

    async def versions(
        self, flow_id: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionInfo]:
        return [
            VersionInfo(flow_id, d.version, d.published_at, d.published_by, d.source, d.retired)
            for d in self._of(flow_id)
            if before is None or d.version < before
        ][:limit]

    def _of(self, flow_id: str) -> list[FlowDefinition]:
        mine = [d for (slug, _), d in self.published.items() if slug == flow_id]
        return sorted(mine, key=lambda d: -d.version)

    async def list_flow_ids(self) -> list[str]:
        return sorted({slug for slug, _ in self.published})

    async def list_latest(self, after_flow: str | None, limit: int) -> Page[FlowDefinition]:
        slugs = sorted({slug for slug, _ in self.published if slug > (after_flow or "")})
        newest = [self._of(slug)[0] for slug in slugs]
        present = [d for d in newest if not d.retired]
        shown, full = take_page(present, limit, lambda definition: len(json.encode(definition.flow)))
        return Page(shown, shown[-1].flow.flow if full else None)

    async def publish(self, definition: FlowDefinition) -> bool:
        key = (definition.flow.flow, definition.version)
        if key in self.published:
            return False
        self.published[key] = definition
        return True


class FakeLeaseStore:
    def __init__(self) -> None:
        self.held: dict[str, Lease] = {}

    async def acquire(self, name: str, holder: str, now: datetime, seconds: float) -> Lease | None:
        held = self.held.get(name)
        fence = 1 if held is None else held.fence
        if held is not None and held.holder != holder:
            if now < held.until <= now + timedelta(seconds=2 * seconds):
                return None
            fence += 1
        self.held[name] = Lease(name, holder, fence, now + timedelta(seconds=seconds))
        return self.held[name]

    async def renew(self, lease: Lease, now: datetime, seconds: float) -> Lease | None:
        return self._set_end(lease, now + timedelta(seconds=seconds))

    async def release(self, lease: Lease) -> None:
        self._set_end(lease, datetime(1970, 1, 1, tzinfo=UTC))

    def _set_end(self, lease: Lease, until: datetime) -> Lease | None:
        held = self.held.get(lease.name)
        if held is None or (held.holder, held.fence) != (lease.holder, lease.fence):
            return None
        self.held[lease.name] = structs.replace(held, until=until)
        return self.held[lease.name]


class FakeCorruptionReports:
    def __init__(self) -> None:
        self.findings: dict[str, tuple[datetime, str]] = {}

    async def report(self, key: str, reason: str, now: datetime) -> bool:
        if key in self.findings:
            return False
        self.findings[key] = (now, reason)
        return True

    async def withdraw(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.findings.pop(key, None)

    async def list_reasons(self, limit: int) -> dict[str, str]:
        keys = sorted(self.findings, key=lambda key: self.findings[key])[:limit]
        return {key: self.findings[key][1] for key in keys}


class FakeBus:
    """``broken``: publishing fails, as when Redis is away. ``all_users``: their topics are followed from
    the start."""

    worker = "fake"
    worker_count = 1

    def __init__(self, *, all_users: bool = False) -> None:
        self.all_users = all_users
        self.handlers: list[Callable[[Topic, Event], None]] = []
        self.gap_handlers: list[Callable[[Gap], None]] = []
        self.worker_lost_handlers: list[Callable[[str], None]] = []
        self.followed: Counter[Topic] = Counter({EVERYONE: 1})
        self.broken = False

    async def publish(self, events: Sequence[Event]) -> int:
        if self.broken:
            raise BusUnavailableError
        for event in events:
            for topic in event.topics:
                if self.followed[topic] or (self.all_users and topic.kind == "user"):
                    for handler in self.handlers:
                        handler(topic, event)
        return min((self.followed[event.topics[0]] > 0 for event in events), default=0)

    async def follow(self, topic: Topic) -> None:
        self.followed[topic] += 1

    def unfollow(self, topic: Topic) -> None:
        self.followed[topic] -= 1

    def subscribe(self, handler: Callable[[Topic, Event], None]) -> None:
        self.handlers.append(handler)

    def on_gap(self, handler: Callable[[Gap], None]) -> None:
        self.gap_handlers.append(handler)

    def on_worker_lost(self, handler: Callable[[str], None]) -> None:
        self.worker_lost_handlers.append(handler)

    def mend(self, since: datetime) -> None:
        """End the outage: events after ``since`` may have been missed."""
        self.broken = False
        for handler in self.gap_handlers:
            handler(Gap(since))

    def report_worker_lost(self, worker: str) -> None:
        """Report that another worker has stopped."""
        for handler in self.worker_lost_handlers:
            handler(worker)


class FakeSecretStore:
    """Secrets made on first request."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}

    async def secret(self, name: str) -> bytes:
        return self.secrets.setdefault(name, token_bytes(32))


class FakeCipher:
    """Reverses texts and marks them with their owner, document and field.

    ``calls`` counts the texts of each call, ``fresh`` the calls with fresh keys. After ``erase``, texts of
    before have no key.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.fresh = 0
        self._generations: dict[str | None, int] = {}

    def erase(self, user_id: str) -> None:
        self._generations[user_id] = self._generations.get(user_id, 0) + 1

    async def seal_many(self, texts: Sequence[PayloadText], *, fresh: bool = False) -> list[bytes]:
        self.calls.append(len(texts))
        self.fresh += fresh
        return [self._mark(text) + text.text[::-1].encode() for text in texts]

    async def open_many(self, texts: Sequence[SealedText]) -> list[str | Unopened]:
        self.calls.append(len(texts))
        return [self._open(text) for text in texts]

    async def seals_with(self, user_id: str, sealed: bytes) -> bool:
        return sealed[1:9] == b"%08d" % self._generations.get(user_id, 0)

    def _open(self, text: SealedText) -> str | Unopened:
        mark = self._mark(text)
        if text.sealed.startswith(mark):
            return text.sealed.removeprefix(mark).decode()[::-1]
        generation = int(text.sealed[1:9].decode()) if text.sealed[1:9].isdigit() else -1
        is_erased = 0 <= generation < self._generations.get(text.user_id, 0)
        return Unopened.ERASED if is_erased else Unopened.DAMAGED

    def _mark(self, text: PayloadText | SealedText) -> bytes:
        generation = self._generations.get(text.user_id, 0)
        return f"\1{generation:08d}<{text.user_id}|{text.document_id}|{text.field}>".encode()


class FakeStatistics:
    """Figures counted over the other fakes."""

    def __init__(
        self, states: FakeStateStore, history: FakeHistoryStore, reports: FakeCorruptionReports
    ) -> None:
        self._states = states
        self._history = history
        self._reports = reports

    async def statistics(self, now: datetime) -> FlowStatistics:
        states = [stored.state for stored in self._states.stored.values()]
        states = [state for state in states if not state.is_gone_at(now)]
        completed = [state for state in states if state.status == "completed"]
        lasted = [(state.updated_at - state.created_at) / MILLISECOND for state in completed]
        records = list(self._history.records.values())
        attempts = [record for record in records if record.kind != "expired"]
        failed = [record for record in attempts if not record.success]
        return FlowStatistics(
            total_flows=len(states),
            active_users=len({state.user_id for state in states if state.status != "completed"}),
            completion_rate=100 * len(completed) / len(states) if states else 0.0,
            average_flow_duration=sum(lasted) / len(lasted) if lasted else 0.0,
            popular_steps=_popular_steps(records),
            error_rate=len(failed) / len(attempts) if attempts else 0.0,
            corrupted_states=len(self._reports.findings),
            performance_metrics=_performance(records, now),
        )


def _popular_steps(records: Sequence[HistoryRecord]) -> list[StepCount]:
    kinds = ("started", "transitioned", "reset", "set")
    entered = Counter((r.flow_id, r.to_step) for r in records if r.success and r.kind in kinds)
    ordered = sorted(entered.items(), key=lambda item: (-item[1], item[0]))
    return [StepCount(flow, step, count) for (flow, step), count in ordered[:20]]


def _performance(records: Sequence[HistoryRecord], now: datetime) -> PerformanceMetrics:
    recent = [record for record in records if record.timestamp >= now - timedelta(hours=1)]
    times = sorted(record.duration_ms for record in recent if record.duration_ms is not UNSET)
    last_minute = [record for record in recent if record.timestamp >= now - timedelta(minutes=1)]
    return PerformanceMetrics(
        average_response_time=sum(times) / len(times) if times else 0.0,
        p95_response_time=times[max(0, math.ceil(0.95 * len(times)) - 1)] if times else 0.0,
        throughput_per_second=len(last_minute) / 60,
    )
