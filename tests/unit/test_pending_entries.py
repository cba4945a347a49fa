"""The order in which a consumer handles the entries of a stream."""

import random

import pytest

from realtime.consumer.entries import PendingEntries, Position, position_of
from realtime.consumer.events import MalformedEntryError, StateKey, StreamEvent, event_of, event_of_entry
from realtime.redis.entry_seals import EntryOpener


def event(entry: str, user: str, entity: str | None = None) -> StreamEvent:
    """Return the event of an entry about a state."""
    data = {"flowId": "f", "userId": user} | ({} if entity is None else {"entityId": entity})
    return StreamEvent(id=f"evt_{entry}", type="flow.transition", data=data, entry=entry)


def taken(entries: PendingEntries, now: float = 0.0) -> str | None:
    """Return the identifier of the next entry."""
    found = entries.take(now)
    return None if found is None else found[0]


def test_entries_are_given_out_in_the_order_of_the_stream() -> None:
    entries = PendingEntries()
    for entry, user in (("9-0", "ada"), ("9-10", "bob"), ("10-0", "eve")):
        entries.add(event(entry, user))
    assert [taken(entries) for _ in range(4)] == ["9-0", "9-10", "10-0", None]


def test_a_state_has_one_entry_in_hand() -> None:
    entries = PendingEntries()
    for entry, user in (("1-0", "ada"), ("1-1", "ada"), ("1-2", "bob")):
        entries.add(event(entry, user))
    assert [taken(entries) for _ in range(3)] == ["1-0", "1-2", None]
    entries.succeeded("1-0")
    assert taken(entries) == "1-1"


def test_states_of_many_entities_are_apart() -> None:
    entries = PendingEntries()
    for entry, entity in (("1-0", "one"), ("1-1", "two"), ("1-2", None)):
        entries.add(event(entry, "ada", entity))
    assert [taken(entries) for _ in range(3)] == ["1-0", "1-1", "1-2"]


def test_a_failed_state_waits_and_its_events_are_not_in_memory() -> None:
    entries = PendingEntries()
    for entry, user in (("1-0", "ada"), ("1-1", "ada"), ("1-2", "bob")):
        entries.add(event(entry, user))
    assert taken(entries) == "1-0"
    entries.failed("1-0", retry_at=5.0)
    entries.add(event("1-3", "ada"))
    assert (entries.loaded, entries.held_back, entries.next_retry_at()) == (1, 3, 5.0)
    assert [taken(entries, 4.9), taken(entries, 4.9)] == ["1-2", None]
    assert entries.take(5.0) == ("1-0", None), "the event is to be read again"
    assert entries.failures("1-0") == 1
    entries.succeeded("1-0")
    assert [entries.take(5.0), taken(entries, 5.0)] == [("1-1", None), None]
    entries.succeeded("1-1")
    entries.add(event("1-4", "ada"))
    assert taken(entries, 5.0) == "1-3"
    entries.succeeded("1-3")
    assert entries.take(5.0) == ("1-4", event("1-4", "ada"))
    entries.succeeded("1-4")
    entries.succeeded("1-2")
    assert (entries.loaded, entries.held_back) == (0, 0)


def test_an_entry_is_added_once() -> None:
    entries = PendingEntries()
    for _ in range(2):
        entries.add(event("1-0", "ada"))
    assert "1-0" in entries
    assert [taken(entries), taken(entries)] == ["1-0", None]
    entries.succeeded("1-0")
    entries.succeeded("1-0")
    assert "1-0" not in entries


def test_a_reset_leaves_the_entries_in_hand() -> None:
    entries = PendingEntries()
    for entry, user in (("1-0", "ada"), ("1-1", "ada"), ("1-2", "bob")):
        entries.add(event(entry, user))
    assert taken(entries) == "1-0"
    entries.reset()
    assert taken(entries) is None
    for entry, user in (("1-0", "ada"), ("1-1", "ada"), ("1-2", "bob")):
        entries.add(event(entry, user))
    assert [taken(entries), taken(entries)] == ["1-2", None], "the first one of ada is in hand"
    entries.succeeded("1-0")
    assert taken(entries) == "1-1"


@pytest.mark.parametrize("seed", range(20))
def test_every_entry_succeeds_once_and_in_order_whatever_fails(seed: int) -> None:
    draw = random.Random(seed)
    entries, now = PendingEntries(), 0.0
    done: dict[StateKey, list[Position]] = {}
    unread = [event(f"{n // 3}-{n % 3}", draw.choice("abcde")) for n in range(200)]
    states = {each.entry: each.state for each in unread}
    in_hand: list[str] = []
    while unread or entries.loaded or entries.held_back:
        action = draw.random()
        if action < 0.3 and unread and entries.loaded < 10:
            entries.add(unread.pop(0))
        elif action < 0.6 and (entry := taken(entries, now)) is not None:
            in_hand.append(entry)
            assert len({states[each] for each in in_hand}) == len(in_hand)
        elif in_hand:
            entry = in_hand.pop(draw.randrange(len(in_hand)))
            if draw.random() < 0.3:
                entries.failed(entry, now + draw.random() * 3)
            else:
                entries.succeeded(entry)
                done.setdefault(states[entry], []).append(position_of(entry))
        assert entries.loaded <= 10
        now += draw.random()
    assert sum([len(found) for found in done.values()]) == 200
    assert all(order == sorted(order) for order in done.values())


def test_events_are_decoded() -> None:
    text = b'{"specversion": "1.0", "id": "evt_1", "type": "flow.started", "replay": true, "x": 1, '
    text += b'"data": {"flowId": "f", "userId": "ada", "entityId": "e"}}'
    found = event_of_entry("1-0", {b"event": text}, 2, EntryOpener("stream", []))
    assert (found.id, found.type, found.replay, found.redelivered) == ("evt_1", "flow.started", True, True)
    assert found.state == ("f", "ada", "e")
    assert not event_of(text).redelivered


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"\xff", b"{}", b'{"id": "a", "type": "b", "data": []}',
     b'{"id": "a", "type": "b", "data": {}}',
     b'{"id": "a", "type": "b", "data": {"flowId": "f", "userId": 1}}',
     b'{"id": "a", "type": "b", "data": {"flowId": "f", "userId": "u", "entityId": 1}}'],
)  # fmt: skip
def test_malformed_events_are_refused(text: bytes) -> None:
    with pytest.raises(MalformedEntryError):
        event_of(text)
    with pytest.raises(MalformedEntryError):
        event_of_entry("1-0", {b"other": text}, 1, EntryOpener("stream", []))
