"""Fakes of the ports of deliveries. Each passes the same contract suite as the real part."""

from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter

from msgspec import structs

from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    Lane,
    LaneId,
    LaneUpdate,
    LoggedDelivery,
    Mark,
    WaitingState,
)
from app.contracts.pages import Page
from app.contracts.state import StateId


class FakeDeliveryLanes:
    """Lanes in memory. ``marks`` counts the commands that marked some."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.waiting: dict[str, WaitingState] = {}
        self.marks = 0

    async def mark(self, marks: Sequence[Mark], now: datetime) -> None:
        self.marks += bool(marks)
        for mark in sorted(marks, key=attrgetter("position")):
            lane_id = LaneId(mark.alias, mark.state_id)
            lane = self.lanes.get(lane_id.key)
            if lane is None or lane.newest < mark.position:
                self._set_waiting(lane_id, mark)
            if lane is None:
                lane = Lane(id=lane_id, since=mark.since, newest=mark.position, due_at=now)
            has_work = lane.cursor is None or lane.cursor < mark.position
            due_at = now if lane.due_at is None and has_work else lane.due_at
            newest = max(lane.newest, mark.position)
            self.lanes[lane_id.key] = structs.replace(lane, newest=newest, due_at=due_at)

    async def add_jobs(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            self.lanes.setdefault(lane.id.key, lane)

    async def list_due(self, alias: str, now: datetime, limit: int) -> list[LaneId]:
        due = [(lane.due_at, lane.id.key, lane.id) for lane in self._of(alias) if _is_due(lane, now)]
        return [lane_id for _, _, lane_id in sorted(due)[:limit]]

    async def claim(self, ids: Sequence[LaneId], holder: str, now: datetime, until: datetime) -> list[Lane]:
        claimed = []
        for lane_id in ids:
            lane = self.lanes.get(lane_id.key)
            if lane is not None and _is_due(lane, now):
                claimed.append(structs.replace(lane, holder=holder, due_at=until))
                self.lanes[lane_id.key] = claimed[-1]
        return claimed

    async def release(self, updates: Sequence[LaneUpdate], now: datetime) -> None:
        for update in updates:
            key = update.lane.id.key
            lane = self.lanes.get(key)
            if lane is None or lane.holder != update.lane.holder:
                continue
            due_at = update.due_at
            if due_at is None and lane.id.job:
                del self.lanes[key]
                continue
            if due_at is None and lane.newest != update.lane.newest:
                due_at = now
            self.lanes[key] = structs.replace(
                lane,
                cursor=update.cursor,
                due_at=due_at,
                failures=update.failures,
                attempts=update.attempts,
                holder="",
            )

    async def get(self, lane_id: LaneId) -> Lane | None:
        return self.lanes.get(lane_id.key)

    async def list_failing(self, alias: str, after: str | None, limit: int) -> Page[Lane]:
        return self._page(alias, after, limit, lambda lane: bool(lane.attempts or lane.failures))

    async def list_lanes(self, alias: str, after: str | None, limit: int) -> Page[Lane]:
        return self._page(alias, after, limit, lambda lane: not lane.id.job)

    async def count_due(self, alias: str, limit: int) -> int:
        return min(limit, sum(lane.due_at is not None for lane in self._of(alias)))

    async def list_waiting(self, alias: str, after: str | None, limit: int) -> list[WaitingState]:
        mine = [place for key, place in self.waiting.items() if key.startswith(f"{alias};")]
        beyond = [one for one in mine if after is None or one.place > after]
        return sorted(beyond, key=attrgetter("place"))[:limit]

    async def end_waiting(self, alias: str, waiting: Sequence[WaitingState]) -> None:
        for one in waiting:
            key = LaneId(alias, one.state_id).key
            if self.waiting.get(key) == one:
                del self.waiting[key]

    async def make_due(self, alias: str, now: datetime) -> None:
        for lane in self._of(alias):
            if lane.due_at is not None and lane.due_at > now and not lane.holder:
                self.lanes[lane.id.key] = structs.replace(lane, due_at=now)

    async def delete_of_integration(self, alias: str) -> int:
        return self._delete(lambda lane: lane.id.alias == alias)

    async def delete_of_state(self, state_id: StateId) -> int:
        return self._delete(lambda lane: lane.id.state_id == state_id)

    def _of(self, alias: str) -> list[Lane]:
        return [lane for lane in self.lanes.values() if lane.id.alias == alias]

    def _page(self, alias: str, after: str | None, limit: int, matches: Callable[[Lane], bool]) -> Page[Lane]:
        found = sorted((lane for lane in self._of(alias) if matches(lane)), key=lambda lane: lane.id.key)
        page = [lane for lane in found if lane.id.key > (after or "")][:limit]
        return Page(page, page[-1].id.key if len(page) == limit else None)

    def _set_waiting(self, lane_id: LaneId, mark: Mark) -> None:
        since, before = mark.waits_since, self.waiting.pop(lane_id.key, None)
        if since is not None and mark.stays and before is not None:
            self.waiting[lane_id.key] = before
        elif since is not None:
            state_id = lane_id.state_id
            place = f"{lane_id.alias};{_milliseconds(since):013};{state_id.key}"
            self.waiting[lane_id.key] = WaitingState(state_id, since, place)

    def _delete(self, matches: Callable[[Lane], bool]) -> int:
        keys = [key for key, lane in self.lanes.items() if matches(lane)]
        for key in keys:
            del self.lanes[key]
            self.waiting.pop(key, None)
        return len(keys)


class FakeDeliveryLog:
    """The log in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, list[LoggedDelivery]] = {}
        self.firsts: dict[str, int] = {}
        self.lasts: dict[str, int] = {}

    async def append(self, alias: str, deliveries: Sequence[LoggedDelivery]) -> int:
        for delivery in deliveries:
            self.lasts[alias] = self.lasts.get(alias, 0) + 1
            entry = structs.replace(delivery, sequence=self.lasts[alias])
            self.entries.setdefault(alias, []).append(entry)
        return self.lasts.get(alias, 0)

    async def read(self, alias: str, after: int, limit: int) -> list[LoggedDelivery]:
        return [entry for entry in self.entries.get(alias, ()) if entry.sequence > after][:limit]

    async def first(self, alias: str) -> int:
        return self.firsts.get(alias, 1)

    async def last(self, alias: str) -> int:
        return self.lasts.get(alias, 0)

    async def find(self, event_id: str) -> LoggedDelivery | None:
        found = [entry for entries in self.entries.values() for entry in entries if entry.id == event_id]
        return max(found, key=attrgetter("delivered_at"), default=None)

    async def delete_of_integration(self, alias: str) -> int:
        return len(self.entries.pop(alias, ()))

    async def delete_of_state(self, state_id: StateId) -> int:
        count = 0
        for alias, entries in self.entries.items():
            self.entries[alias] = [entry for entry in entries if entry.state_id != state_id]
            count += len(entries) - len(self.entries[alias])
        return count

    async def remove_expired(self, before: datetime) -> int:
        count = 0
        for alias, entries in self.entries.items():
            while entries and entries[0].delivered_at < before:
                self.firsts[alias] = entries.pop(0).sequence + 1
                count += 1
        return count


class FakeDeadLetters:
    """Dead letters in memory."""

    def __init__(self) -> None:
        self.letters: dict[tuple[str, str], DeadLetter] = {}

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self.letters[letter.alias, letter.id] = letter

    async def get(self, alias: str, event_id: str) -> DeadLetter | None:
        return self.letters.get((alias, event_id))

    async def find(self, only: DeadLetterFilter, after: str | None, limit: int) -> Page[DeadLetter]:
        matching = [letter for letter in self.letters.values() if _matches(only, letter)]
        found = sorted((_place(only, letter), letter) for letter in matching)
        page = [(place, letter) for place, letter in found if place > (after or "")][:limit]
        return Page([letter for _, letter in page], page[-1][0] if len(page) == limit else None)

    async def find_of_state(self, state_id: StateId, after: str | None, limit: int) -> Page[DeadLetter]:
        keys = [key for key, letter in self.letters.items() if letter.state_id == state_id]
        page = sorted(key for key in keys if ";".join(key) > (after or ""))[:limit]
        return Page([self.letters[key] for key in page], ";".join(page[-1]) if len(page) == limit else None)

    async def count(self, only: DeadLetterFilter) -> int:
        return sum(_matches(only, letter) for letter in self.letters.values())

    async def replace(self, letter: DeadLetter) -> bool:
        if (letter.alias, letter.id) not in self.letters:
            return False
        self.letters[letter.alias, letter.id] = letter
        return True

    async def delete(self, alias: str, event_ids: Sequence[str]) -> int:
        return sum(self.letters.pop((alias, event_id), None) is not None for event_id in set(event_ids))

    async def delete_of_integration(self, alias: str) -> int:
        return self._delete(lambda letter: letter.alias == alias)

    async def delete_of_state(self, state_id: StateId) -> int:
        return self._delete(lambda letter: letter.state_id == state_id)

    async def remove_expired(self, before: datetime) -> int:
        return self._delete(lambda letter: letter.died_at < before)

    def _delete(self, matches: Callable[[DeadLetter], bool]) -> int:
        keys = [key for key, letter in self.letters.items() if matches(letter)]
        for key in keys:
            del self.letters[key]
        return len(keys)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _is_due(lane: Lane, now: datetime) -> bool:
    return lane.due_at is not None and lane.due_at <= now


def _place(only: DeadLetterFilter, letter: DeadLetter) -> str:
    """Return the place of a letter in a list: those that died first are first."""
    died = f"{_milliseconds(letter.died_at):013}"
    parts = (died, letter.alias) if only.service is None else (letter.alias, died)
    return ";".join((*parts, letter.id))


def _matches(only: DeadLetterFilter, letter: DeadLetter) -> bool:
    return (
        only.service in (None, letter.alias)
        and only.reason in (None, letter.reason)
        and only.type in (None, letter.type)
        and only.flow_id in (None, letter.state_id.flow_id)
        and only.user_id in (None, letter.state_id.user_id)
        and only.entity_id in (None, letter.state_id.instance_id)
        and (only.since is None or letter.died_at >= only.since)
        and (only.until is None or letter.died_at < only.until)
        and (only.ids is None or letter.id in only.ids)
    )
