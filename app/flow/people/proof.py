"""Proof from the history of a state that the rules between people were followed."""

from msgspec import UNSET

from app.contracts.flow import Flow, FlowTransition
from app.contracts.record import HistoryRecord, Kind
from app.contracts.results import BrokenLink
from app.flow.people.duties import excluding

_BEGINNINGS: frozenset[Kind] = frozenset({"started", "reset"})
_ENDS: frozenset[Kind] = frozenset({"cleared", "expired"})
_RUNS: frozenset[Kind] = frozenset({"transitioned", "voted"})
_ENTRIES: frozenset[Kind] = frozenset({"transitioned", "undone", "set"})
"""Kinds of records after which a state has entered a step: votes before it no longer count."""

TIMER = "timer"
TIMER_CLIENT = "service"
"""The actor and the client of records of timeouts. No caller of an interface has this client."""


class PeopleRules:
    """Checks the records of a state one by one, oldest first; ``broken`` is the first that breaks a rule.

    It follows who ran and voted by the actors of the records, not by the members of the states. The records
    of an erased person have the same pseudonym everywhere, so they can still be compared.

    Args:
        pruned: True if old records may be missing, as the history is retained for a limited time. Then runs
            and votes before the first record are those in its state, as after a recovery without records.
    """

    def __init__(self, *, pruned: bool = False) -> None:
        self.broken: BrokenLink | None = None
        self._pruned = pruned
        self._epoch: str | None = None
        self._runs: set[tuple[str, str]] = set()
        self._votes: dict[str, str] = {}

    def add(self, record: HistoryRecord, flow: Flow | None) -> None:
        """Check the next record, together with the flow in the version of the record.

        Without a flow (the version is unknown) the record is not checked. Refused attempts are ignored.
        """
        if not record.success or record.after is UNSET:
            return
        known = self._begin(record)
        transition = _transition_of(record, flow)
        if transition is not None and known and not _is_of_timer(record, flow):
            self._check(record, transition)
        self._follow(record, flow)

    def _begin(self, record: HistoryRecord) -> bool:
        """Return false if records before this one may be missing, so that it proves nothing."""
        first = self._epoch is None
        if record.epoch != self._epoch or record.kind in _BEGINNINGS:
            self._runs.clear()
            self._votes.clear()
        self._epoch = record.epoch
        is_whole = record.kind in _BEGINNINGS or not (self._pruned or record.kind == "recovered")
        if not first or is_whole or record.after is UNSET:
            return True
        for member in (record.after.runs, record.after.votes):
            self._runs.update((each.transition, each.user_id) for each in member or ())
        self._votes.update((each.user_id, each.transition) for each in record.after.votes or ())
        return False

    def _check(self, record: HistoryRecord, transition: FlowTransition) -> None:
        name, actor = record.transition, record.actor
        for other in transition.not_by or ():
            if (other, actor) in self._runs or self._votes.get(actor) == other:
                self._break(
                    record, f"transition {name} was run by a person who ran {other}, which not_by forbids"
                )
        if transition.approvals is None or record.kind == "voted":
            return
        voters = {voter for voter, voted in self._votes.items() if voted == name} | {actor}
        needed = transition.approvals.count
        if len(voters) < needed:
            self._break(record, f"transition {name} has the votes of {len(voters)} people, not of {needed}")

    def _follow(self, record: HistoryRecord, flow: Flow | None) -> None:
        """Take over what the record changes about runs and votes."""
        after = record.after
        if record.kind == "voted":
            self._votes[record.actor] = record.transition
        elif record.kind in _ENTRIES:
            self._record_runs(record, flow)
        elif record.kind == "recovered" and after is not UNSET:
            self._runs &= {(each.transition, each.user_id) for each in after.runs or ()}
        if record.kind in _ENDS or after is UNSET:
            self._runs.clear()
            self._votes.clear()
            return
        # A migration to another step makes runs of votes. Otherwise nobody has run what lost its votes.
        present = {(each.user_id, each.transition) for each in after.votes or ()}
        runs = {(each.transition, each.user_id) for each in after.runs or ()}
        self._runs |= {(voted, voter) for voter, voted in self._votes.items()} & runs
        self._votes = dict(self._votes.items() & present)

    def _record_runs(self, record: HistoryRecord, flow: Flow | None) -> None:
        done = {(voted, voter) for voter, voted in self._votes.items()}
        if record.kind == "transitioned" and not _is_of_timer(record, flow):
            done.add((record.transition, record.actor))
        names = frozenset() if flow is None else excluding(flow)
        self._runs |= {(name, actor) for name, actor in done if name in names}
        self._votes.clear()

    def _break(self, record: HistoryRecord, reason: str) -> None:
        self.broken = self.broken or BrokenLink(record.id, reason)


def _transition_of(record: HistoryRecord, flow: Flow | None) -> FlowTransition | None:
    """Return the transition that a record is of; None if it is of none, or if it is not known."""
    step = None if flow is None or record.kind not in _RUNS else flow.steps.get(record.from_step)
    return None if step is None else step.transitions.get(record.transition)


def _is_of_timer(record: HistoryRecord, flow: Flow | None) -> bool:
    """True if the timeout of the step ran the transition, to which the rules do not apply."""
    if record.actor != TIMER or record.client != TIMER_CLIENT or flow is None:
        return False
    step = flow.steps.get(record.from_step)
    return step is not None and step.timeout is not None and step.timeout.transition == record.transition
