"""Rules by which a client follows a state, also over a network that loses, repeats and reorders events."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from realtime.client.sync import (
    MAX_BUFFERED_EVENTS,
    Following,
    StateUpdate,
    Stats,
    SyncAnswer,
    SyncRequest,
)
from tests.support.long_form import examples

OLD, NOW, NEXT = "01890000", "01900000", "01910000"


def update(revision: int, epoch: str = NOW, status: str = "active") -> StateUpdate:
    return StateUpdate(
        flow="f",
        step=f"step-{revision}",
        service="",
        ok=True,
        user_id="ada",
        version=1,
        epoch=epoch,
        revision=revision,
        status=status,  # type: ignore[arg-type]
        created_at="2026-01-01T00:00:00.000Z",
        updated_at="2026-01-01T00:00:00.000Z",
        transitions=(),
        kind="transitioned",
    )


def one_of_many(entity_id: str, revision: int, epoch: str = NOW, status: str = "active") -> StateUpdate:
    return structs.replace(update(revision, epoch, status), instances="many", entity_id=entity_id)


def level_at(revision: int, epoch: str = NOW) -> Following:
    """A following that has read this state and is level."""
    following = Following()
    sync = following.begin()
    following.answer(sync.number, SyncAnswer(False, update(revision, epoch)), 0)
    assert not following.syncing
    return following


def positions(shown: list[Any]) -> list[tuple[str, int] | None]:
    return [None if each is None else (each.epoch, each.revision) for each in shown]


def test_it_begins_with_a_sync_without_a_position() -> None:
    following = Following()
    assert (following.needs_sync, following.syncing, following.known) == (True, True, False)
    sync = following.begin()
    assert sync == SyncRequest(1, None, None)
    assert (following.needs_sync, following.syncing) == (False, True)
    state = update(4)
    assert following.answer(sync.number, SyncAnswer(False, state), 0) == [state]
    assert (following.epoch, following.revision, following.state) == (NOW, 4, state)
    assert following.stats == Stats(syncs=1)


def test_the_next_revision_is_applied_with_its_change() -> None:
    following = level_at(4)
    (shown,) = following.event(update(5), 0)
    assert shown is following.state
    assert shown is not None
    assert (shown.revision, shown.kind) == (5, "transitioned")
    assert (following.syncing, following.stats.dropped) == (False, 0)


@pytest.mark.parametrize(
    "old", [update(4), update(3), update(9, OLD)], ids=["duplicate", "older", "old epoch"]
)
def test_an_old_event_is_dropped(old: StateUpdate) -> None:
    following = level_at(4)
    assert following.event(old, 0) == []
    assert (following.revision, following.syncing, following.stats.dropped) == (4, False, 1)


@pytest.mark.parametrize("beyond", [update(6), update(0, NEXT), update(5, NEXT)])
def test_a_gap_or_a_later_epoch_needs_a_sync_from_the_position_held(beyond: StateUpdate) -> None:
    following = level_at(4)
    assert following.event(beyond, 0) == []
    assert (following.needs_sync, following.stats.gaps) == (True, 1)
    assert following.begin() == SyncRequest(2, NOW, 4)


def test_a_complete_answer_brings_what_was_missed_once() -> None:
    following = level_at(4)
    following.event(update(7), 1.0)
    sync = following.begin()
    following.event(update(8), 1.1)
    answer = SyncAnswer(True, update(7), [update(5), update(6), update(7)])
    assert positions(following.answer(sync.number, answer, 1.25)) == [(NOW, 5), (NOW, 6), (NOW, 7), (NOW, 8)]
    assert following.syncing is False
    assert following.stats.longest_repair == pytest.approx(250)
    counted = structs.replace(following.stats, longest_repair=0)
    assert counted == Stats(gaps=1, syncs=2, repaired=2, dropped=1), "7 was not missed, only early"


def test_a_complete_answer_may_say_that_nothing_was_missed() -> None:
    following = level_at(4)
    following.want_sync(2.0)
    sync = following.begin()
    assert following.answer(sync.number, SyncAnswer(True, update(4), []), 2.5) == []
    assert (following.syncing, following.stats.repaired) == (False, 0)
    assert following.stats.longest_repair == pytest.approx(500)


def test_an_incomplete_answer_is_the_new_start() -> None:
    following = level_at(4)
    following.event(update(2, NEXT), 0)
    sync = following.begin()
    assert positions(following.answer(sync.number, SyncAnswer(False, update(2, NEXT)), 0)) == [(NEXT, 2)]
    assert (following.epoch, following.revision, following.syncing) == (NEXT, 2, False)
    assert following.stats == Stats(gaps=1, syncs=2, resets=1, dropped=1)


def test_an_incomplete_answer_never_shows_an_older_state_nor_the_same_again() -> None:
    following = level_at(4)
    for state in (update(4), update(3), update(9, OLD)):
        following.want_sync(0)
        assert following.answer(following.begin().number, SyncAnswer(False, state), 0) == []
    assert (following.epoch, following.revision, following.syncing) == (NOW, 4, False)


def test_that_there_is_no_state_is_reported_once() -> None:
    following = Following()
    assert following.answer(following.begin().number, SyncAnswer(False, None), 0) == [None]
    following.want_sync(0)
    assert following.answer(following.begin().number, SyncAnswer(False, None), 0) == []
    assert (following.known, following.state, following.syncing) == (True, None, False)
    assert following.event(update(0), 0) == []
    assert following.needs_sync
    sync = following.begin()
    assert positions(following.answer(sync.number, SyncAnswer(False, update(0)), 0)) == [(NOW, 0)]


def is_absent(following: Following) -> bool:
    """Read the property again: mypy assumes that its value is unchanged."""
    return following.absent


def test_after_no_state_an_epoch_is_shown_from_its_first_revision() -> None:
    following = Following()
    assert not is_absent(following)
    following.answer(following.begin().number, SyncAnswer(False, None), 0)
    for epoch in (NOW, NEXT):  # the second one after the end of the first
        assert is_absent(following)
        events = [update(n, epoch) for n in range(2)]
        for event in events:
            assert following.event(event, 0) == []
        sync = following.begin()
        assert following.answer(sync.number, SyncAnswer(True, events[-1], events), 0) == events
        assert not is_absent(following)
        following.event(update(2, epoch, "cleared"), 0)
    assert following.event(update(0, NOW), 0) == [], "an older epoch is over"
    assert (following.stats.gaps, following.stats.syncs, following.stats.resets) == (0, 3, 0)


def test_after_no_state_a_sync_may_bring_an_epoch_from_its_first_revision() -> None:
    for following, first in ((Following(), None), (level_at(4), update(5, status="expired"))):
        if first is None:
            following.answer(following.begin().number, SyncAnswer(False, None), 0)
        else:
            following.event(first, 0)
        following.want_sync(0)
        assert is_absent(following)
        sync = following.begin()
        following.event(update(2, NEXT), 0)
        answer = SyncAnswer(True, update(2, NEXT), [update(n, NEXT) for n in range(3)])
        assert positions(following.answer(sync.number, answer, 0)) == [(NEXT, 0), (NEXT, 1), (NEXT, 2)]
        assert (following.syncing, following.stats.gaps, following.stats.resets) == (False, 0, 0)


def test_without_a_state_the_position_stays() -> None:
    following = level_at(4)
    following.want_sync(0)
    assert following.answer(following.begin().number, SyncAnswer(False, None), 0) == [None]
    assert (following.epoch, following.revision, following.state) == (NOW, 4, None)
    assert following.event(update(3), 0) == []
    assert not following.syncing
    following.event(update(0, NEXT), 0)
    assert following.begin() == SyncRequest(3, NOW, 4)


def test_an_epoch_that_began_and_ended_unseen_needs_one_sync() -> None:
    following = Following()
    following.answer(following.begin().number, SyncAnswer(False, None), 0)
    following.event(update(0), 0)
    following.event(update(1, status="cleared"), 0)
    sync = following.begin()
    following.event(update(0, NEXT), 0)  # may be after the answer
    assert following.answer(sync.number, SyncAnswer(False, None), 0) == []
    assert following.needs_sync
    assert following.answer(following.begin().number, SyncAnswer(False, None), 0) == []
    assert not following.needs_sync


def test_events_received_during_a_sync_may_be_newer_than_no_state() -> None:
    following = Following()
    following.event(update(0, OLD), 0)
    sync = following.begin()
    for revision in range(MAX_BUFFERED_EVENTS):
        following.event(update(revision), 0)
    assert following.answer(sync.number, SyncAnswer(False, None), 0) == [None]
    assert following.needs_sync


def test_a_state_that_has_ended_is_shown_as_it_is() -> None:
    following = level_at(4)
    (shown,) = following.event(update(5, status="cleared"), 0)
    assert shown is not None
    assert shown.status == "cleared"


def test_events_wait_while_a_sync_is_needed_or_under_way() -> None:
    following = Following()
    assert following.event(update(5), 0) == []
    sync = following.begin()
    assert following.event(update(6), 0) == []
    assert positions(following.answer(sync.number, SyncAnswer(False, update(4)), 0)) == [
        (NOW, 4),
        (NOW, 5),
        (NOW, 6),
    ]


def test_a_gap_in_buffered_events_means_one_more_sync() -> None:
    following = Following()
    sync = following.begin()
    for revision in (5, 8, 9):
        following.event(update(revision), 0)
    assert positions(following.answer(sync.number, SyncAnswer(False, update(4)), 0)) == [(NOW, 4), (NOW, 5)]
    assert (following.needs_sync, following.stats.gaps) == (True, 1)
    sync = following.begin()
    assert sync == SyncRequest(2, NOW, 5)
    answer = SyncAnswer(True, update(8), [update(6), update(7), update(8)])
    assert positions(following.answer(sync.number, answer, 0)) == [(NOW, n) for n in (6, 7, 8, 9)]
    assert not following.syncing


def test_a_gap_in_a_complete_answer_means_one_more_sync() -> None:
    following = level_at(4)
    following.want_sync(0)
    answer = SyncAnswer(True, update(9), [update(5), update(7), update(8), update(9)])
    assert positions(following.answer(following.begin().number, answer, 0)) == [(NOW, 5)]
    assert (following.needs_sync, following.stats.gaps) == (True, 1)
    assert following.begin().since == 5


def test_when_the_buffer_overflows_the_last_event_still_shows_the_gap() -> None:
    following = Following()
    sync = following.begin()
    last = MAX_BUFFERED_EVENTS + 5
    for revision in range(5, last + 1):
        following.event(update(revision), 0)
    assert positions(following.answer(sync.number, SyncAnswer(False, update(4)), 0)) == [(NOW, 4)]
    assert following.needs_sync
    sync = following.begin()
    missed = [update(revision) for revision in range(5, last + 1)]
    shown = following.answer(sync.number, SyncAnswer(True, missed[-1], missed), 0)
    assert positions(shown) == [(NOW, revision) for revision in range(5, last + 1)]
    assert not following.syncing


def needs_sync(following: Following) -> bool:
    """Read the property again: mypy assumes that its value is unchanged."""
    return following.needs_sync


def test_only_the_answer_to_the_last_sync_counts_and_only_once() -> None:
    following = level_at(4)
    following.want_sync(0)
    first = following.begin()
    following.failed(first.number)
    assert needs_sync(following)
    second = following.begin()
    assert following.answer(first.number, SyncAnswer(True, update(5), [update(5)]), 0) == []
    assert following.syncing
    following.failed(first.number)
    assert not needs_sync(following), "the second one is still under way"
    shown = following.answer(second.number, SyncAnswer(True, update(5), [update(5)]), 0)
    assert positions(shown) == [(NOW, 5)]
    assert following.answer(second.number, SyncAnswer(False, update(9)), 0) == []
    assert following.revision == 5


def test_a_resync_during_a_sync_means_another_one_and_the_buffer_stays() -> None:
    following = level_at(4)
    following.want_sync(1.0)
    sync = following.begin()
    following.want_sync(2.0)
    following.event(update(7), 2.0)
    assert positions(following.answer(sync.number, SyncAnswer(True, update(5), [update(5)]), 2.5)) == [
        (NOW, 5)
    ]
    assert (following.needs_sync, following.stats.gaps, following.stats.longest_repair) == (True, 0, 0)
    sync = following.begin()
    shown = following.answer(sync.number, SyncAnswer(True, update(6), [update(6)]), 3.0)
    assert positions(shown) == [(NOW, 6), (NOW, 7)]
    assert following.stats.longest_repair == pytest.approx(2000), "from when it was first noticed"


def test_an_event_is_that_of_the_entity_only_if_it_is_a_part_of_the_identity() -> None:
    labelled = structs.replace(update(5), entity_id="e-1")
    plain, named = level_at(4), Following("e-1")
    named.answer(named.begin().number, SyncAnswer(False, one_of_many("e-1", 4)), 0)
    events = [labelled, one_of_many("e-2", 5), one_of_many("e-1", 5)]
    assert [each for event in events for each in plain.event(event, 0)] == [labelled]
    assert [each for event in events for each in named.event(event, 0)] == [one_of_many("e-1", 5)]
    assert plain.stats == named.stats == Stats(syncs=1)


def test_without_an_entity_it_becomes_the_one_that_is_found_also_when_there_are_others() -> None:
    following = Following()
    found = one_of_many("e-1", 3)
    assert following.answer(following.begin().number, SyncAnswer(False, found), 0) == [found]
    assert following.entity_id == "e-1"
    for event in (update(4), one_of_many("e-2", 4), one_of_many("e-2", 0, NEXT)):
        assert following.event(event, 0) == []
    last = one_of_many("e-1", 4, status="cleared")
    assert following.event(last, 0) == [last]
    assert following.event(one_of_many("e-2", 5), 0) == []
    assert not following.syncing, "the others do not concern it"
    assert following.stats == Stats(syncs=1)


@pytest.mark.parametrize("ended", [None, update(4, status="cleared")])
def test_where_there_is_no_state_one_of_many_needs_a_sync_that_finds_it(ended: StateUpdate | None) -> None:
    following = Following() if ended is None else level_at(3)
    if ended is None:
        following.answer(following.begin().number, SyncAnswer(False, None), 0)
    else:
        following.event(ended, 0)
    following.event(one_of_many("e-0", 9, status="cleared"), 0)
    assert not needs_sync(following), "it has ended"
    following.event(one_of_many("e-1", 0, NEXT), 0)
    assert needs_sync(following)
    sync = following.begin()
    following.event(one_of_many("e-1", 1, NEXT), 0)  # after the answer was read, but before it arrives
    first = one_of_many("e-1", 0, NEXT)
    assert following.answer(sync.number, SyncAnswer(True, first, [first]), 0) == [first]
    assert needs_sync(following), "what came before the entity was known may be missing"
    sync = following.begin()
    assert sync == SyncRequest(sync.number, NEXT, 0)
    second = one_of_many("e-1", 1, NEXT)
    assert following.answer(sync.number, SyncAnswer(True, second, [second]), 0) == [second]
    assert not following.syncing
    assert (following.stats.gaps, following.stats.resets, following.stats.dropped) == (0, 0, 0)


def test_one_of_many_that_starts_before_the_answer_arrives_that_there_is_none_needs_a_sync() -> None:
    following = Following()
    sync = following.begin()
    following.event(one_of_many("e-1", 0), 0)
    assert following.answer(sync.number, SyncAnswer(False, None), 0) == [None]
    assert needs_sync(following)
    assert following.answer(following.begin().number, SyncAnswer(False, None), 0) == []
    assert not needs_sync(following)


def test_one_of_many_that_changes_beside_the_only_state_needs_no_sync() -> None:
    following = Following()
    sync = following.begin()
    following.event(one_of_many("e-1", 0), 0)
    assert following.answer(sync.number, SyncAnswer(False, update(4)), 0) == [update(4)]
    following.event(one_of_many("e-1", 1), 0)
    assert not following.syncing


def test_the_one_that_is_found_has_a_position_of_its_own() -> None:
    following = level_at(4)
    following.want_sync(0)
    sync = following.begin()
    following.event(update(5, status="cleared"), 0)
    found = one_of_many("e-1", 2, OLD)  # it began before the other one did
    assert following.answer(sync.number, SyncAnswer(False, found), 0) == [found]
    assert not following.syncing
    assert (following.stats.dropped, following.stats.gaps) == (0, 0)


def test_counters_add_up() -> None:
    sums = Stats(1, 2, 3, 4, 5, 6.0)
    sums.add(Stats(10, 20, 30, 40, 50, 2.0))
    assert sums == Stats(11, 22, 33, 44, 55, 6.0)


class Server:
    """The truth: states of several epochs, of which the first ``count`` are committed.

    Those from the epoch ``first_of_many`` on are of one entity, the others are of none.
    """

    def __init__(self, lives: list[int], first_of_many: int) -> None:
        self.truth = []
        for n, length in enumerate(lives):
            for revision in range(length + 1):
                one = update(revision, f"epoch-{n}", "cleared" if revision == length else "active")
                if n >= first_of_many:
                    one = structs.replace(one, instances="many", entity_id="e-1")
                self.truth.append(one)
        self.count = 0

    @property
    def state(self) -> StateUpdate | None:
        if self.count == 0 or self.truth[self.count - 1].status == "cleared":
            return None
        return self.truth[self.count - 1]

    def answer(
        self, sync: SyncRequest, entity_id: str | None, *, forgetful: bool, from_start: bool = False
    ) -> SyncAnswer:
        """``forgetful``: continuity cannot be proven. ``from_start``: the follower knew of no state."""
        if entity_id is None and self.state is not None:
            entity_id = self.state.identifying_entity
        done = [each for each in self.truth[: self.count] if each.identifying_entity == entity_id]
        if from_start and not forgetful and self.state is not None and self.state.epoch != sync.epoch:
            epoch = self.state.epoch
            return SyncAnswer(True, self.state, [each for each in done if each.epoch == epoch])
        held = [n for n, each in enumerate(done) if (each.epoch, each.revision) == (sync.epoch, sync.since)]
        if forgetful or not held:
            return SyncAnswer(False, self.state)
        missed = done[held[0] + 1 :]
        if any(each.epoch != sync.epoch for each in missed):
            return SyncAnswer(False, self.state)
        return SyncAnswer(True, self.state, missed)


def synced(following: Following, server: Server) -> list[StateUpdate | None]:
    """The updates that are shown until it is level; nothing happens meanwhile, so that one sync has to do."""
    shown: list[StateUpdate | None] = []
    if following.needs_sync:
        sync = following.begin()
        answer = server.answer(sync, following.entity_id, forgetful=False, from_start=following.absent)
        shown = following.answer(sync.number, answer, 0)
    assert not following.needs_sync
    return shown


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["deliver", "double", "lose"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["resync", "begin", "fail"]), st.just(0)),
        st.tuples(st.just("other"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["read", "answer"]), st.integers(0, 1)),
    ),
    max_size=60,
)


@examples(400)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 4), STEPS)
@example([3], 1, [("begin", 0), ("read", 0), ("commit", 2), ("lose", 0), ("deliver", 0), ("answer", 0)])
@example([1, 1], 2, [("commit", 1), ("begin", 0), ("read", 0), ("answer", 0), ("commit", 2), ("deliver", 1)])
@example([3], 0, [("commit", 1), ("begin", 0), ("read", 0), ("commit", 1), ("deliver", 1), ("answer", 0)])
def test_whatever_the_network_does_it_becomes_level_and_never_shows_an_older_one(
    lives: list[int], first_of_many: int, steps: list[tuple[str, int]]
) -> None:
    server, following = Server(lives, first_of_many), Following()
    network: list[StateUpdate] = []
    shown: list[StateUpdate | None] = []
    sync: SyncRequest | None = None
    answers: list[tuple[int, SyncAnswer]] = []  # read at the server, and on their way
    now = 0.0

    for what, n in steps:
        now += 1
        if what == "commit":
            until = min(len(server.truth), server.count + n)
            network += server.truth[server.count : until]
            server.count = until
        elif what in {"deliver", "double", "lose"} and network:
            event = network[n % len(network)]
            if what != "double":
                network.remove(event)
            if what != "lose":
                shown += following.event(event, now)
        elif what == "resync":
            following.want_sync(now)
        elif what == "other":
            shown += following.event(one_of_many("e-2", n, f"epoch-{n}"), now)
        elif what == "begin" and following.needs_sync:
            sync = following.begin()
        elif what == "fail" and sync is not None:
            following.failed(sync.number)
        elif what == "read" and sync is not None:
            answer = server.answer(sync, following.entity_id, forgetful=bool(n), from_start=following.absent)
            answers.append((sync.number, answer))
        elif what == "answer" and answers:
            shown += following.answer(*answers.pop(-1 if n else 0), now)

    following.want_sync(now)
    shown += synced(following, server)
    for event in network:  # what is late
        shown += following.event(event, now)
    shown += synced(following, server)

    assert not following.syncing
    last = server.truth[server.count - 1] if server.count else None
    if last is None or last.status == "cleared":
        ends = [each for each in server.truth if each.status == "cleared"]
        # One of many that came and went unseen was never found.
        assert following.state in [None, *(ends if following.entity_id is None else [last])]
    else:
        assert following.state == last
        assert shown[-1] == last
    assert all(each in server.truth for each in shown if each is not None), "that of another entity"
    seen = [(each.epoch, each.revision) for each in shown if each is not None]
    assert all(earlier < later for earlier, later in pairwise(seen))
    assert all(not (a is None and b is None) for a, b in pairwise(shown))
