"""The proof from a history that the rules between people were followed."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import ClaimCommand, ParticipantsCommand, PauseCommand, ResetCommand, SetCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowError
from app.contracts.flow import FlowTimeout
from app.contracts.people import TransitionBy
from app.contracts.record import HistoryRecord, Kind, commit_record_id
from app.contracts.state import FlowState
from app.flow import rules
from app.flow.people.approvals import is_decided, withdraw
from app.flow.people.assignment import assign_participants
from app.flow.people.callers import caller_on
from app.flow.people.claims import claim, release
from app.flow.people.duties import excluding_run
from app.flow.people.proof import PeopleRules
from app.flow.versions.mapping import StepMapping
from tests.support.long_form import examples
from tests.support.purchase import (
    ASSIGN,
    BACK_END,
    BOB,
    CAROL,
    DAN,
    FAY,
    OWNER,
    PURCHASE,
    ROOT,
    VOTES,
    begun,
    purchase,
    run,
    steps,
    transition,
    users,
)
from tests.support.samples import T0

TIMEOUT = FlowTimeout(timedelta(hours=1), "pay")
FLOW = purchase(
    steps={
        **PURCHASE.flow.steps,
        "payment": structs.replace(PURCHASE.flow.steps["payment"], timeout=TIMEOUT),
    }
)
LAX = purchase(
    version=2,
    steps=steps(
        draft=[transition("submit", "review", assign=ASSIGN), transition("quick", "review")],
        review=[transition("approve", "payment", roles=["approver"])],
        payment=[transition("pay", "paid", roles=["finance"])],
        paid=[],
    ),
)
"""The flow without rules between people: any history is right by it."""
APPROVERS = "bob carol dan"


class History:
    """The records of a state, made as the service makes them."""

    def __init__(self, state: FlowState | None = None) -> None:
        self.state = begun(FLOW, approver=APPROVERS) if state is None else state
        self.records: list[HistoryRecord] = []
        self._store("started", "started", "", "ada", self.state)

    def run(self, name: str, caller: Caller | None, **command: Any) -> "History":
        after = run(self.state, name, caller, FLOW, **command)
        kind = rules.run_kind(self.state, after)
        if kind is not None:
            actor = "timer" if caller is None else caller.user_id
            self._store(
                kind, name, self.state.step, actor, after, client="service" if caller is None else "http"
            )
        return self

    def change(self, kind: Kind, after: FlowState | None, actor: str) -> "History":
        if after is not None:
            self._store(kind, kind, self.state.step, actor, after)
        return self

    def forge(
        self, name: str, actor: str, step: str, kind: Kind = "transitioned", client: str = "http"
    ) -> "History":
        """Add a record of a transition that the rules may not allow."""
        votes = (*(self.state.votes or ()), TransitionBy(name, actor)) if kind == "voted" else UNSET
        after = structs.replace(self.state, revision=self.state.revision + 1, step=step, votes=votes)
        self._store(kind, name, self.state.step, actor, after, client=client)
        return self

    def refuse(self, name: str, actor: str) -> "History":
        record = self._record("refused", name, self.state.step, actor, self.state, "http")
        self.records.append(structs.replace(record, success=False, after=UNSET, error="CLAIMED"))
        return self

    def _store(
        self, kind: Kind, name: str, from_step: str, actor: str, after: FlowState, client: str = "http"
    ) -> None:
        self.records.append(self._record(kind, name, from_step, actor, after, client))
        self.state = after

    def _record(
        self, kind: Kind, name: str, from_step: str, actor: str, after: FlowState, client: str
    ) -> HistoryRecord:
        return HistoryRecord(
            id=commit_record_id(after), commit_id="c", flow_id=after.flow, user_id=after.user_id,
            epoch=after.epoch, revision=after.revision, version=after.version, kind=kind, transition=name,
            from_step=from_step, to_step=after.step, timestamp=T0, success=True, service="", actor=actor,
            after=after, client=client,
        )  # fmt: skip


def broken(
    records: Iterable[HistoryRecord], definition: FlowDefinition | None = FLOW, *, pruned: bool = False
) -> tuple[str, str] | None:
    """The record that breaks a rule, and the reason."""
    proof = PeopleRules(pruned=pruned)
    for record in records:
        proof.add(record, None if definition is None else definition.flow)
    return None if proof.broken is None else (proof.broken.id, proof.broken.reason)


def submitted() -> History:
    return History().run("submit", OWNER, payload={"approvers": APPROVERS.split()})


def approved() -> History:
    return submitted().run("approve", BOB).run("approve", CAROL)


def test_a_history_by_the_rules() -> None:
    history = approved().refuse("pay", "bob").run("query", FAY).run("pay", FAY)
    assert history.state.step == "paid"
    assert broken(history.records) is None


FORGED = [
    (submitted().forge("approve", "bob", "payment"), "has the votes of 1 people, not of 2"),
    (submitted().forge("approve", "ada", "review", "voted"), "person who ran submit, which not_by forbids"),
    (submitted().run("approve", BOB).forge("approve", "bob", "payment"), "has the votes of 1 people"),
    (submitted().run("approve", BOB).forge("approve", "ada", "payment"), "person who ran submit"),
    (submitted().run("approve", BOB).run("hold", BOB).forge("approve", "carol", "payment"), "votes of 1"),
    (submitted().run("approve", BOB).forge("hold", "carol", "draft"), "votes of 1"),
    (approved().forge("pay", "bob", "paid"), "transition pay was run by a person who ran approve"),
    (approved().forge("pay", "carol", "paid"), "transition pay was run by a person who ran approve"),
    (approved().forge("pay", "bob", "paid", client="service"), "person who ran approve"),
    (submitted().run("approve", BOB).run("refuse", CAROL).forge("pay", "bob", "paid"), None),
]


@pytest.mark.parametrize(("history", "reason"), FORGED)
def test_the_first_record_that_breaks_a_rule_is_named(history: History, reason: str | None) -> None:
    found = broken(history.records)
    if reason is None:  # the record is of no transition of its step
        assert found is None
        return
    assert found is not None
    assert found[0] == history.records[-1].id
    assert reason in found[1]
    more = history.forge("approve", "bob", "payment").forge("approve", "bob", "payment")
    assert broken(more.records) == found


def after_withdrawal() -> History:
    history = submitted().run("approve", BOB)
    return history.change("withdrawn", withdraw(history.state, T0, BOB), "bob")


def after_reset() -> History:
    history = submitted().run("approve", BOB)
    return history.change("reset", rules.reset(FLOW, history.state, ResetCommand(step="review"), T0), "root")


def after_undo() -> History:
    history = approved()
    return history.change("undone", rules.back(FLOW, history.state, T0, ROOT), "root")


def after_set() -> History:
    history = submitted().run("approve", BOB)
    command = SetCommand(flow="purchase", step="review")
    return history.change("set", rules.replace(FLOW, history.state, command, T0), "root")


def after_loss() -> History:
    history = submitted().run("approve", BOB)
    command = ParticipantsCommand(users(approver="carol dan"))
    return history.change("assigned", assign_participants(FLOW, history.state, command, T0, ROOT), "root")


def after_restart() -> History:
    history = approved()
    ended = history.change("cleared", rules.end(history.state, "cleared", T0), "ada")
    fresh = structs.replace(begun(FLOW, approver=APPROVERS), epoch="e2")
    return ended.change("started", fresh, "ada").run("quick", OWNER)


@pytest.mark.parametrize(
    "begin", [after_withdrawal, after_reset, after_undo, after_set, after_loss, after_restart]
)
def test_votes_that_are_gone_do_not_count(begin: Any) -> None:
    lonely = begin().forge("approve", "carol", "payment")
    found = broken(lonely.records)
    assert found is not None
    assert found[0] == lonely.records[-1].id
    assert "has the votes of 1 people" in found[1]
    assert broken(begin().run("approve", CAROL).run("approve", DAN).records) is None


@pytest.mark.parametrize(
    ("begin", "barred"),
    [
        (after_withdrawal, False),
        (after_reset, False),
        (after_restart, False),
        (after_undo, True),
        (after_set, True),
        (after_loss, False),
    ],
)
def test_runs_last_until_a_reset(begin: Any, barred: bool) -> None:
    history = begin().run("approve", CAROL).run("approve", DAN).forge("pay", "bob", "paid")
    found = broken(history.records)
    assert (found is not None and "ran approve" in found[1]) is barred


def test_votes_outlast_what_does_not_enter_a_step() -> None:
    history = submitted().run("approve", BOB)
    history.change("paused", rules.pause(FLOW, history.state, PauseCommand(reason="x"), T0), "root")
    history.change("resumed", rules.resume(FLOW, history.state, T0), "root")
    command = ParticipantsCommand(users(approver="bob carol"))
    history.change("assigned", assign_participants(FLOW, history.state, command, T0, ROOT), "root")
    history.change("recovered", rules.recover(history.state, "e1", history.state.revision + 1, T0), "root")
    assert broken(history.run("approve", CAROL).records) is None


def test_a_recovery_from_an_older_record_forgets_what_it_lost() -> None:
    history = submitted()
    old = history.state
    history.run("approve", BOB).run("approve", CAROL)
    recovered = rules.recover(old, "e1", history.state.revision + 1, T0)
    history.change("recovered", recovered, "root").run("approve", DAN).run("approve", CAROL)
    assert broken(history.records) is None
    history.run("query", FAY)
    assert broken([*history.records, *history.forge("pay", "bob", "paid").records[-1:]]) is None
    lonely = submitted().run("approve", BOB)
    lonely.change("recovered", rules.recover(old, "e1", lonely.state.revision + 1, T0), "root")
    assert broken(lonely.forge("approve", "carol", "payment").records) is not None


def test_a_recovery_without_records_is_where_the_proof_begins() -> None:
    voted = submitted().run("approve", BOB)
    voted.records.clear()
    voted.change("recovered", rules.recover(voted.state, "e1", 9, T0), "root")
    assert broken([*voted.records, *voted.run("approve", CAROL).records[-1:]]) is None
    found = broken(voted.forge("pay", "bob", "paid").records)
    assert found is not None
    assert "ran approve" in found[1]


def test_a_migration_to_another_step_makes_runs_of_votes() -> None:
    history = submitted().run("approve", BOB)
    moved = StepMapping(FLOW, structs.replace(FLOW, version=3), {"review": "payment"}).move(history.state, T0)
    assert (moved.votes, moved.runs) == (
        UNSET,
        (TransitionBy("submit", "ada"), TransitionBy("approve", "bob")),
    )
    found = broken(history.change("migrated", moved, "root").forge("pay", "bob", "paid").records)
    assert found is not None
    assert "ran approve" in found[1]


def test_a_migration_to_the_same_step_retains_votes() -> None:
    history = submitted().run("approve", BOB)
    moved = StepMapping(FLOW, structs.replace(FLOW, version=3)).move(history.state, T0)
    history.change("migrated", moved, "root")
    assert broken(history.run("approve", CAROL).records) is None


def test_the_timer_is_no_person() -> None:
    timed_out = approved().run("pay", None)
    assert timed_out.state.step == "paid"
    assert timed_out.records[-1].actor == "timer"
    assert broken(timed_out.records) is None
    user = submitted().run("approve", BOB).run("approve", CAROL)
    assert broken(user.run("query", None).records) is None
    impostor = submitted().forge("approve", "timer", "payment", client="service")  # not its transition
    assert broken(impostor.records) is not None


def test_only_runs_that_a_rule_of_their_version_names_count() -> None:
    history = History().run("submit", OWNER, payload={"approvers": ["ada", "bob"]})
    proof = PeopleRules()
    for record in history.records:
        proof.add(record, LAX.flow)
    for record in history.forge("approve", "ada", "review", "voted").records[-1:]:
        proof.add(record, FLOW.flow)
    assert proof.broken is None


@pytest.mark.parametrize("definition", [LAX, None])
def test_without_rules_or_without_the_definition_nothing_breaks(definition: FlowDefinition | None) -> None:
    for history, _ in FORGED:
        assert broken(history.records, definition) is None


def renamed(record: HistoryRecord, name: str, to: str) -> HistoryRecord:
    """The record after an erasure of a person."""
    actor = to if record.actor == name else record.actor
    after = record.after
    if after is not UNSET:
        changes = {
            member: tuple(
                structs.replace(each, user_id=to) if each.user_id == name else each
                for each in getattr(after, member)
            )
            for member in ("participants", "claims", "votes", "runs")
            if getattr(after, member) is not UNSET
        }
        after = structs.replace(after, **changes)
    return structs.replace(record, actor=actor, after=after)


PERSON = f"person:{'0' * 32}"


@pytest.mark.parametrize(("history", "reason"), [(approved().run("pay", FAY), None), *FORGED])
def test_an_erasure_of_a_person_changes_no_verdict(history: History, reason: str | None) -> None:
    for name in ("bob", "carol", "fay"):
        records = [renamed(record, name, PERSON) for record in history.records]
        assert broken(records) == broken(history.records)


# Random histories

PEOPLE = (OWNER, BOB, CAROL, DAN, FAY, Caller("hal", groups=frozenset({"treasury"})), BACK_END, ROOT)
ACTS = ("submit", "quick", "approve", "hold", "refuse", "revise", "pay", "query", "veto", "withdraw", "claim",
        "release", "assign", "undo", "reset", "set", "pause", "resume", "timer", "clear")  # fmt: skip
COMMON = (
    "resume",
    "submit",
    "approve",
    "approve",
    "approve",
    "hold",
    "pay",
    "query",
    "withdraw",
    "revise",
    "undo",
)


def act(history: History, name: str, caller: Caller, number: int) -> None:
    """Give a command; what the rules refuse changes nothing."""
    state, now = history.state, T0 + timedelta(minutes=number)
    acting = caller_on(FLOW.flow, state, caller)
    actor = caller.user_id
    match name:
        case "withdraw":
            history.change("withdrawn", withdraw(state, now, acting), actor)
        case "claim":
            history.change("claimed", claim(FLOW, state, ClaimCommand(), now, acting), actor)
        case "release":
            history.change("released", release(FLOW, state, ClaimCommand(), now, acting), actor)
        case "assign":
            named = users(approver=" ".join(APPROVERS.split()[number % 3 :]), finance="carol")
            after = assign_participants(FLOW, state, ParticipantsCommand(named), now, acting)
            history.change("assigned", after, actor)
        case "undo":
            history.change("undone", rules.back(FLOW, state, now, acting), actor)
        case "reset":
            history.change("reset", rules.reset(FLOW, state, ResetCommand(), now), actor)
        case "set":
            command = SetCommand(flow="purchase", step=("draft", "review", "payment")[number % 3])
            history.change("set", rules.replace(FLOW, state, command, now), actor)
        case "pause":
            history.change("paused", rules.pause(FLOW, state, PauseCommand(reason="x"), now), actor)
        case "resume" if state.status == "paused":
            history.change("resumed", rules.resume(FLOW, state, now), actor)
        case "timer" if state.step == "payment":
            history.run("pay", None)
        case "clear" if number % 5 == 0:
            history.change("cleared", rules.end(state, "cleared", now), actor)
            epoch = f"e{number + 2}"
            history.change("started", structs.replace(begun(FLOW, approver=APPROVERS), epoch=epoch), "ada")
        case "resume" | "timer" | "clear":
            pass
        case _:
            history.run(name, caller, payload={"approvers": ["ada", *APPROVERS.split()]})


COMMANDS = st.lists(
    st.tuples(st.sampled_from((*ACTS, *COMMON * 3)), st.sampled_from(PEOPLE)), min_size=1, max_size=60
)


@given(COMMANDS, st.data())
@examples(300)
def test_a_history_that_the_rules_made_is_proven(
    commands: list[tuple[str, Caller]], data: st.DataObject
) -> None:
    history = History()
    for number, (name, caller) in enumerate(commands):
        try:
            act(history, name, caller, number)
        except FlowError:
            history.refuse(name, caller.user_id)
    assert broken(history.records) is None
    since = data.draw(st.integers(0, len(history.records) - 1))
    assert broken(history.records[since:], pruned=True) is None


@given(COMMANDS)
@examples(200)
def test_a_forged_move_is_found_exactly_where_the_rules_refuse_it(commands: list[tuple[str, Caller]]) -> None:
    history = History()
    for number, (name, caller) in enumerate(commands):
        with suppress(FlowError):
            act(history, name, caller, number)
    state, records = history.state, list(history.records)
    for name, way in FLOW.flow.steps[state.step].transitions.items():
        for person in PEOPLE:
            history.state, history.records = state, list(records)
            history.forge(name, person.user_id, way.step)
            is_right = is_decided(way, state, person) and excluding_run(way, state, person) is None
            assert (broken(history.records) is None) is is_right


def test_a_pruned_history_is_proven_from_its_first_state_on() -> None:
    history = submitted().run("approve", BOB)
    whole = [*history.records, *approved().records[-1:]]
    assert broken(whole) is None
    assert broken(whole[-1:]) is not None  # not pruned: the votes are missing
    assert broken(whole[-1:], pruned=True) is None
    assert broken(whole[-2:], pruned=True) is None
    paid = approved().forge("pay", "bob", "paid").records
    assert broken(paid[-1:], pruned=True) is None  # the state before it is not known
    found = broken(paid[-2:], pruned=True)
    assert found is not None
    assert found[0] == paid[-1].id
    assert VOTES.count == 2
