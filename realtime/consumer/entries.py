"""Entries that a consumer has read and not handled yet, in order for each state."""

import heapq
from collections import deque

from realtime.consumer.events import StateKey, StreamEvent

Position = tuple[int, int]


class _StateEntries:
    """The entries of one state, oldest first. ``failures`` is that of the first one."""

    __slots__ = ("busy", "entries", "failures")

    def __init__(self) -> None:
        self.entries: deque[str] = deque()
        self.failures = 0
        self.busy = False


class PendingEntries:
    """Gives out entries in the order of the stream, those of one state one after the other.

    A state whose first entry failed waits, and the others go on. Of its entries only the identifiers stay in
    memory; Redis has the rest.
    """

    def __init__(self) -> None:
        self._states: dict[StateKey, _StateEntries] = {}
        self._state_of: dict[str, StateKey] = {}
        self._loaded: dict[str, StreamEvent] = {}
        self._ready: list[tuple[Position, StateKey]] = []
        self._delayed: list[tuple[float, int, StateKey]] = []
        self._delays = 0

    @property
    def loaded(self) -> int:
        """The number of events in memory."""
        return len(self._loaded)

    @property
    def held_back(self) -> int:
        """The number of entries of which only the identifiers are in memory."""
        return len(self._state_of) - len(self._loaded)

    def __contains__(self, entry: str) -> bool:
        return entry in self._state_of

    def add(self, event: StreamEvent) -> None:
        """Add an entry, which is later than those of its state; one that is known is passed over."""
        if event.entry in self._state_of:
            return
        state = self._states.setdefault(event.state, _StateEntries())
        state.entries.append(event.entry)
        self._state_of[event.entry] = event.state
        if not state.failures:
            self._loaded[event.entry] = event
        if len(state.entries) == 1:
            self._make_ready(event.state, state)

    def take(self, now: float) -> tuple[str, StreamEvent | None] | None:
        """Return the next entry that can be handled; None if there is none.

        Of an entry whose event is not in memory only the identifier is returned. The state of the entry waits
        until ``succeeded`` or ``failed``.
        """
        while self._delayed and self._delayed[0][0] <= now:
            _, _, key = heapq.heappop(self._delayed)
            if key in self._states:
                self._make_ready(key, self._states[key])
        while self._ready:
            _, key = heapq.heappop(self._ready)
            state = self._states.get(key)
            if state is not None and not state.busy:
                state.busy = True
                return state.entries[0], self._loaded.get(state.entries[0])
        return None

    def succeeded(self, entry: str) -> None:
        """Remove an entry that was handled."""
        key = self._state_of.pop(entry, None)
        self._loaded.pop(entry, None)
        if key is None:
            return
        state = self._states[key]
        state.entries.popleft()
        state.busy, state.failures = False, 0
        if state.entries:
            self._make_ready(key, state)
        else:
            del self._states[key]

    def failed(self, entry: str, retry_at: float) -> None:
        """Hold a state back until a time at which its first entry is given out again."""
        key = self._state_of.get(entry)
        if key is None:
            return
        state = self._states[key]
        state.busy = False
        state.failures += 1
        for held in state.entries:
            self._loaded.pop(held, None)
        self._delays += 1
        heapq.heappush(self._delayed, (retry_at, self._delays, key))

    def failures(self, entry: str) -> int:
        """Return the number of failures of the first entry of a state."""
        key = self._state_of.get(entry)
        return 0 if key is None else self._states[key].failures

    def next_retry_at(self) -> float | None:
        """Return the earliest time at which a state that waits can go on."""
        return self._delayed[0][0] if self._delayed else None

    def reset(self) -> None:
        """Remove all entries but those that are being handled: they may belong to another consumer now."""
        busy = {key: state for key, state in self._states.items() if state.busy}
        self._states, self._state_of = {}, {}
        self._ready, self._delayed = [], []
        loaded, self._loaded = self._loaded, {}
        for key, state in busy.items():
            first = state.entries[0]
            state.entries = deque([first])
            self._states[key] = state
            self._state_of[first] = key
            if first in loaded:
                self._loaded[first] = loaded[first]

    def _make_ready(self, key: StateKey, state: _StateEntries) -> None:
        heapq.heappush(self._ready, (position_of(state.entries[0]), key))


def position_of(entry: str) -> Position:
    """Return the identifier of an entry as numbers, which have the order of the stream."""
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence or 0)


def entry_before(entry: str) -> str:
    """Return the identifier right before an entry."""
    milliseconds, _, sequence = entry.partition("-")
    if int(sequence):
        return f"{milliseconds}-{int(sequence) - 1}"
    return f"{int(milliseconds) - 1}-{2**64 - 1}"
