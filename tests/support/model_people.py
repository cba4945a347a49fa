"""A pure model of people on a state, written from the documents: roles, votes, claims, separated duties.

The flow is fixed: a draft is submitted to approvers, two of whom approve; a clerk of the treasury pays.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tests.support.model import RefusedError

CLAIM = timedelta(minutes=15)
CLERKS = ("clerk", "group", "treasury")
OWNER = "ada"
Participants = frozenset[tuple[str, str, str]]
Run = tuple[str, str]


class Person(NamedTuple):
    """A caller: an ``admin``, a ``service``, or a user; with roles and groups by its token."""

    name: str
    kind: str = "user"
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


class Way(NamedTuple):
    """A transition; ``roles`` None: the owner and those who act for the owner."""

    step: str
    roles: tuple[str, ...] | None = None
    not_by: tuple[str, ...] = ()
    votes: int = 0


STEPS: dict[str, dict[str, Way]] = {
    "draft": {"submit": Way("review")},
    "review": {
        "approve": Way("payment", ("approver",), ("submit",), votes=2),
        "refuse": Way("refused", ("approver",)),
        "revise": Way("draft"),
    },
    "payment": {
        "pay": Way("paid", ("clerk",), ("approve",)),
        "query": Way("payment", ("clerk", "auditor")),
    },
    "refused": {"reopen": Way("draft")},
    "paid": {},
}
RECORDED = ("submit", "approve")
"""Transitions that a rule names."""


class Entry(NamedTuple):
    """A record of a change."""

    kind: str
    transition: str
    actor: str
    from_step: str
    to_step: str
    revision: int


class PeopleModel:
    """One state, started by its owner."""

    def __init__(self) -> None:
        self.step, self.revision = "draft", 0
        self.participants: Participants = frozenset({CLERKS})
        self.claim_of: tuple[str, datetime] | None = None
        self.votes: set[Run] = set()
        self.runs: set[Run] = set()
        self.payload: dict[str, Any] = {}
        self.history = [Entry("started", "started", OWNER, "", "draft", 0)]

    def run(self, name: str, person: Person, now: datetime, args: dict[str, Any]) -> dict[str, Any]:
        """Return the state after a command.

        Raises:
            RefusedError: With the code.
        """
        if not self._may_see(person):
            raise RefusedError("INSUFFICIENT_PERMISSIONS")
        command: Callable[..., None] = getattr(self, f"_{name}")
        command(person, now, **args)
        return self.shown(now)

    def shown(self, now: datetime) -> dict[str, Any]:
        """Return the state as it is compared."""
        claim = self._claim(now)
        return {
            "step": self.step,
            "revision": self.revision,
            "participants": self.participants,
            "awaits": self._awaits(),
            "claim": claim,
            "votes": frozenset(self.votes),
            "runs": frozenset(self.runs),
            "payload": self.payload,
        }

    def _transition(self, person: Person, now: datetime, transition: str, payload: dict[str, Any]) -> None:
        way = STEPS[self.step].get(transition)
        if way is None:
            raise RefusedError("INVALID_TRANSITION")
        if not self._has_one_of(person, way.roles):
            raise RefusedError("INSUFFICIENT_PERMISSIONS")
        if any((named, person.name) in self.runs | self.votes for named in way.not_by):
            raise RefusedError("SEPARATION_OF_DUTIES")
        claim = self._claim(now)
        if way.votes == 0 and claim is not None and claim[0] != person.name and person.kind != "admin":
            usable = self._roles(person) & set(way.roles or ())
            if usable == {"clerk"}:
                raise RefusedError("CLAIMED")
        participants = self.participants
        if transition == "submit":
            participants = self._named((self.payload | payload).get("approvers"))
        if way.votes:
            if (transition, person.name) in self.votes:
                return
            others = {voter for _, voter in self.votes} - {person.name}
            if len(others) + 1 < way.votes:
                self.payload = self.payload | payload
                self.votes = {run for run in self.votes if run[1] != person.name} | {
                    (transition, person.name)
                }
                self._record("voted", transition, person, self.step)
                return
        self.payload = self.payload | payload
        self.participants = participants
        self.runs |= {run for run in {*self.votes, (transition, person.name)} if run[0] in RECORDED}
        self._enter(way.step, "transitioned", transition, person)

    def _reset(self, person: Person, now: datetime) -> None:
        self.payload, self.runs = {}, set()
        self._enter("draft", "reset", "reset", person)

    def _assign(self, person: Person, now: datetime, approvers: set[str], auditors: set[str]) -> None:
        users = {("approver", "user", name) for name in approvers}
        users |= {("auditor", "user", name) for name in auditors}
        wanted = frozenset({CLERKS, *users})
        touched = {role for role, *_ in wanted ^ self.participants}
        for role in touched:
            if person.kind == "user" and (role == "auditor" or person.name != OWNER):
                raise RefusedError("INSUFFICIENT_PERMISSIONS")
        if touched:
            lost = {name for role, _, name in self.participants - wanted if role == "approver"}
            self.votes = {vote for vote in self.votes if vote[1] not in lost}
            self.participants = wanted
            self._record("assigned", "assigned", person, self.step)

    def _claim_role(self, person: Person, now: datetime, role: str) -> None:
        if role != "clerk":
            raise RefusedError("INVALID_REQUEST")
        if role not in self._awaits():
            raise RefusedError("INVALID_TRANSITION")
        if not self._has_one_of(person, (role,)):
            raise RefusedError("INSUFFICIENT_PERMISSIONS")
        present = self._claim(now)
        if present is not None and present[0] != person.name and not self._may_take_over(person):
            raise RefusedError("CLAIMED")
        if present != (person.name, now + CLAIM):
            self.claim_of = (person.name, now + CLAIM)
            self._record("claimed", "claimed", person, self.step)

    def _release(self, person: Person, now: datetime) -> None:
        present = self._claim(now)
        if present is None:
            return
        if present[0] != person.name and not self._may_take_over(person):
            raise RefusedError("INSUFFICIENT_PERMISSIONS")
        self.claim_of = None
        self._record("released", "released", person, self.step)

    def _withdraw(self, person: Person, now: datetime) -> None:
        left = {run for run in self.votes if run[1] != person.name}
        if left != self.votes:
            self.votes = left
            self._record("withdrawn", "withdrawn", person, self.step)

    # What they share

    def _may_see(self, person: Person) -> bool:
        return person.kind != "user" or person.name == OWNER or bool(self._on_state(person))

    def _on_state(self, person: Person) -> set[str]:
        return {
            role
            for role, by, name in self.participants
            if (name == person.name if by == "user" else name in person.groups)
        }

    def _roles(self, person: Person) -> set[str]:
        return self._on_state(person) | (set(person.roles) if person.kind == "service" else set())

    def _has_one_of(self, person: Person, roles: Iterable[str] | None) -> bool:
        if roles is None:
            return person.kind != "user" or person.name == OWNER
        return person.kind == "admin" or not self._roles(person).isdisjoint(roles)

    def _may_take_over(self, person: Person) -> bool:
        return person.kind != "user" or "auditor" in self._on_state(person)

    def _awaits(self) -> frozenset[str]:
        wanted = {role for way in STEPS[self.step].values() for role in way.roles or ()}
        return frozenset(wanted & {role for role, *_ in self.participants})

    def _claim(self, now: datetime) -> tuple[str, datetime] | None:
        return self.claim_of if self.claim_of is not None and self.claim_of[1] > now else None

    def _named(self, approvers: Any) -> Participants:
        names = [approvers] if isinstance(approvers, str) else approvers
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise RefusedError("INVALID_PAYLOAD")
        others = {each for each in self.participants if each[0] != "approver"}
        return frozenset({*others, *(("approver", "user", name) for name in names)})

    def _enter(self, step: str, kind: str, transition: str, person: Person) -> None:
        self.claim_of, self.votes, before = None, set(), self.step
        self.step = step
        self._record(kind, transition, person, before)

    def _record(self, kind: str, transition: str, person: Person, before: str) -> None:
        self.revision += 1
        self.history.append(Entry(kind, transition, person.name, before, self.step, self.revision))
