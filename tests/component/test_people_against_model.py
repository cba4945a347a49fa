"""Random commands of several people on states of one user: two workers on the real database against a pure
model (tests.support.model_people); states, answers, records and events are equal."""

import asyncio
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from msgspec import UNSET

from app.contracts.callers import ADMIN, SERVICE, USE, Caller
from app.contracts.commands import ClaimCommand, Origin, ParticipantsCommand, StartCommand
from app.contracts.errors import FlowError
from app.contracts.events import Event, StateChanged, Topic
from app.contracts.people import Participant
from app.contracts.state import FlowState
from config.settings import Settings
from models.database import connect
from tests.support.databases import discard
from tests.support.fakes import FakeBus, FakeClock
from tests.support.long_form import form
from tests.support.model import RefusedError
from tests.support.model_people import CLAIM, STEPS, Entry, PeopleModel, Person
from tests.support.samples import T0
from tests.support.services import service_on

COMMANDS = form("people model test: commands", short=200, long=5000)
MINUTE = timedelta(minutes=1)
TREASURY = frozenset({"treasury"})
PEOPLE = [
    Person("ada", roles=frozenset({"approver", "clerk"})),  # the owner; roles of a token do not count
    *(Person(name) for name in ("bob", "carol", "dan")),
    Person("fay", groups=TREASURY),
    Person("gus", groups=TREASURY),
    Person("eve", roles=frozenset({"approver", "clerk"})),
    Person("shop", "service", frozenset({"clerk"})),
    Person("root", "admin"),
]
SCOPES = {"user": frozenset({USE}), "service": frozenset({SERVICE}), "admin": frozenset({ADMIN})}

WHO = st.sampled_from(PEOPLE)
INSTANCES = st.integers(0, 1)
WORKERS = st.integers(0, 1)
PICKS = st.integers(0, 30)
SOME = [["bob", "carol"], ["bob", "carol", "dan"], ["carol", "ada", "fay"], ["dan", "bob", "bob"]]
APPROVERS = st.sampled_from([*SOME, "bob", None, 7, [""]])
NAMES = st.sets(st.sampled_from(["ada", "bob", "carol", "dan", "fay"]), max_size=3)
LIKELY = {
    "draft": ["ada", "ada", "shop"],
    "review": ["bob", "carol", "bob", "carol", "dan", "fay", "ada", "root"],
    "payment": ["fay", "gus", "shop", "bob", "root"],
    "refused": ["ada"],
    "paid": ["ada"],
}


class PeopleRig:
    """Two workers without background work on one database."""

    def __init__(self, url: str, run: Any) -> None:
        self.run = run
        self.clock, self.bus = FakeClock(T0), FakeBus(all_users=True)
        self.commands = self.flows = 0
        self.published: list[StateChanged] = []
        self.bus.subscribe(self._record_event)
        self.database = connect(url, f"test_{uuid.uuid4().hex[:12]}")
        self.workers = [service_on(self.database, bus=self.bus, clock=self.clock) for _ in range(2)]

    def _record_event(self, _: Topic, event: Event) -> None:
        if isinstance(event, StateChanged):
            self.published.append(event)


class PeopleMachine(RuleBasedStateMachine):
    """Two states of ada's in a flow of its own."""

    def __init__(self, rig: PeopleRig) -> None:
        super().__init__()
        rig.flows += 1
        rig.clock.time = T0
        rig.published.clear()
        self.rig, self.flow = rig, f"desk-{rig.flows}"
        self.models = {entity: PeopleModel() for entity in ("e-1", "e-2")}
        service = rig.workers[0]
        rig.run(service.create_flow(_definition(self.flow)))
        for entity in self.models:
            start = service.start_flow(
                "ada", self.flow, StartCommand(entity_id=entity), origin=_origin(PEOPLE[0])
            )
            state, _ = rig.run(start)
            assert self.plain(state) == self.models[entity].shown(rig.clock.now())

    @rule(at=INSTANCES, worker=WORKERS, pick=PICKS, approvers=APPROVERS)
    def proceed(self, at: int, worker: int, pick: int, approvers: Any) -> None:
        """A transition of the step, by somebody who is likely to be allowed to run it."""
        step = self.model_of(at).step
        names = list(STEPS[step]) or ["submit"]
        self.transition(at, worker, _likely(step, pick), names[pick % len(names)], approvers)

    @rule(at=INSTANCES, worker=WORKERS, first=PICKS, second=PICKS, approvers=st.sampled_from(SOME))
    def pass_review(self, at: int, worker: int, first: int, second: int, approvers: list[str]) -> None:
        if self.model_of(at).step == "draft":
            self.transition(at, worker, PEOPLE[0], "submit", approvers)
        for pick in (first, second):
            self.transition(at, 1 - worker, _likely("review", pick), "approve", approvers)

    @rule(at=INSTANCES, worker=WORKERS, pick=PICKS, then=st.sampled_from(["approve", "withdraw", "revise"]))
    def vote(self, at: int, worker: int, pick: int, then: str) -> None:
        voter = _likely("review", pick)
        self.transition(at, worker, voter, "approve", None)
        if then == "withdraw":
            self.send(at, 1 - worker, voter, "withdraw", {})
        else:
            self.transition(at, 1 - worker, voter if then == "approve" else PEOPLE[0], then, None)

    @rule(
        at=INSTANCES, worker=WORKERS, clerk=PICKS, other=PICKS,
        then=st.sampled_from(["pay", "query", "release", "again", "late"]),
    )  # fmt: skip
    def claim_and_work(self, at: int, worker: int, clerk: int, other: int, then: str) -> None:
        self.send(at, worker, _likely("payment", clerk), "claim_role", {"role": "clerk"})
        if then == "release":
            self.send(at, 1 - worker, _likely("payment", other), "release", {})
        elif then in ("again", "late"):
            self.rig.clock.time += CLAIM if then == "late" else MINUTE
            self.send(at, 1 - worker, _likely("payment", other), "claim_role", {"role": "clerk"})
        else:
            self.transition(at, 1 - worker, _likely("payment", other), then, None)

    @rule(
        at=INSTANCES, worker=WORKERS, person=WHO, approvers=APPROVERS,
        name=st.sampled_from([name for ways in STEPS.values() for name in ways]),
    )  # fmt: skip
    def try_transition(self, at: int, worker: int, person: Person, name: str, approvers: Any) -> None:
        self.transition(at, worker, person, name, approvers)

    @rule(
        at=INSTANCES,
        worker=WORKERS,
        person=WHO,
        role=st.sampled_from(["clerk", "clerk", "clerk", "approver"]),
    )
    def claim(self, at: int, worker: int, person: Person, role: str) -> None:
        self.send(at, worker, person, "claim_role", {"role": role})

    @rule(at=INSTANCES, worker=WORKERS, person=WHO)
    def release(self, at: int, worker: int, person: Person) -> None:
        self.send(at, worker, person, "release", {})

    @rule(at=INSTANCES, worker=WORKERS, person=WHO)
    def withdraw(self, at: int, worker: int, person: Person) -> None:
        self.send(at, worker, person, "withdraw", {})

    @rule(at=INSTANCES, worker=WORKERS, person=WHO, approvers=NAMES, auditors=NAMES)
    def assign(self, at: int, worker: int, person: Person, approvers: set[str], auditors: set[str]) -> None:
        self.send(at, worker, person, "assign", {"approvers": approvers, "auditors": auditors})

    @rule(at=INSTANCES, worker=WORKERS, person=st.sampled_from([PEOPLE[0], PEOPLE[-1]]), pick=PICKS)
    def wait_or_reset(self, at: int, worker: int, person: Person, pick: int) -> None:
        self.rig.clock.time += (MINUTE, 5 * MINUTE, 20 * MINUTE)[pick % 3]
        if pick % 5 == 0:
            self.send(at, worker, person, "reset", {})

    def model_of(self, at: int) -> PeopleModel:
        return list(self.models.values())[at]

    def transition(self, at: int, worker: int, person: Person, name: str, approvers: Any) -> None:
        payload = {"approvers": approvers} if name == "submit" and approvers is not None else {}
        self.send(at, worker, person, "transition", {"transition": name, "payload": payload})

    def send(self, at: int, worker: int, person: Person, name: str, args: dict[str, Any]) -> None:
        entity, model = list(self.models.items())[at]
        now = self.rig.clock.now()
        try:
            wanted: Any = model.run(name, person, now, args)
        except RefusedError as refusal:
            wanted = str(refusal)
        try:
            got: Any = self.plain(self.rig.run(self.call(worker, person, entity, name, args)))
        except FlowError as refusal:
            got = refusal.code
        assert got == wanted
        self.rig.commands += 1
        if self.rig.commands % 5 == 0:
            flows = self.rig.workers[1 - worker].as_trusted()
            for entity, model in self.models.items():
                state = self.rig.run(flows.require_flow_state("ada", self.flow, entity_id=entity))
                assert self.plain(state) == model.shown(now)

    async def call(
        self, worker: int, person: Person, entity: str, name: str, args: dict[str, Any]
    ) -> FlowState:
        service, by = self.rig.workers[worker], _origin(person)
        people = service.people
        match name:
            case "transition":
                return await service.execute_transition("ada", self.flow, **args, entity_id=entity, origin=by)
            case "reset":
                return await service.reset_flow("ada", self.flow, entity_id=entity, origin=by)
            case "claim_role":
                command = ClaimCommand(role=args["role"])
                return await people.claim("ada", self.flow, command, entity_id=entity, origin=by)
            case "release":
                return await people.release("ada", self.flow, ClaimCommand(), entity_id=entity, origin=by)
            case "withdraw":
                return await people.withdraw("ada", self.flow, entity_id=entity, origin=by)
            case _:
                named = [Participant("clerk", group="treasury")]
                named += [Participant("approver", user_id=each) for each in sorted(args["approvers"])]
                named += [Participant("auditor", user_id=each) for each in sorted(args["auditors"])]
                assigned = ParticipantsCommand(participants=tuple(named))
                return await people.assign("ada", self.flow, assigned, entity_id=entity, origin=by)

    def plain(self, state: FlowState) -> dict[str, Any]:
        """As the model has it; claims that have ended are none."""
        now = self.rig.clock.now()
        claims = [each for each in state.claims or () if each.until > now]
        assert len(claims) <= 1
        return {
            "step": state.step,
            "revision": state.revision,
            "participants": frozenset(
                (each.role, "group", each.group)
                if isinstance(each.group, str)
                else (each.role, "user", each.user_id)
                for each in state.participants or ()
            ),
            "awaits": frozenset(state.awaits or ()),
            "claim": (claims[0].user_id, claims[0].until) if claims else None,
            "votes": frozenset((each.transition, each.user_id) for each in state.votes or ()),
            "runs": frozenset((each.transition, each.user_id) for each in state.runs or ()),
            "payload": {} if state.payload is UNSET else state.payload,
        }

    def teardown(self) -> None:
        if sys.exception() is not None:
            return
        for worker in self.rig.workers:
            self.rig.run(_deliver(worker.background.relay))
        flows = self.rig.workers[0].as_trusted()
        for entity, model in self.models.items():
            history = self.rig.run(flows.get_flow_history("ada", self.flow, entity_id=entity))
            made = [
                Entry(r.kind, r.transition, r.actor, r.from_step, r.to_step, r.revision)
                for r in history
                if r.success
            ]
            assert made == model.history
            verified = self.rig.run(flows.verify_flow_history("ada", self.flow, entity_id=entity))
            assert verified.whole, verified
            revisions = [event.revision for event in self.rig.published if event.instance_id == entity]
            assert list(dict.fromkeys(revisions)) == [entry.revision for entry in model.history]


def _likely(step: str, pick: int) -> Person:
    name = LIKELY[step][pick % len(LIKELY[step])]
    return next(each for each in PEOPLE if each.name == name)


async def _deliver(relay: Any) -> None:
    running = asyncio.create_task(relay.run())
    await relay.drain(5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def _origin(person: Person) -> Origin:
    return Origin(Caller(person.name, person.roles, SCOPES[person.kind], groups=person.groups))


def _definition(slug: str) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for index, (name, ways) in enumerate(STEPS.items()):
        transitions: dict[str, dict[str, Any]] = {}
        for key, way in ways.items():
            transitions[key] = {"transition": key, "step": way.step}
            if way.roles is not None:
                transitions[key]["roles"] = list(way.roles)
            if way.not_by:
                transitions[key]["notBy"] = list(way.not_by)
            if way.votes:
                transitions[key]["approvals"] = {"of": "approver", "count": way.votes}
        steps[name] = {"index": index, "step": name, "service": "s", "transitions": transitions}
    steps["draft"]["transitions"]["submit"]["assign"] = [{"role": "approver", "from": "payload.approvers"}]
    participants = {
        "approver": {"assignable": True},
        "clerk": {"group": "treasury", "claim": f"PT{CLAIM // MINUTE}M", "takeOver": ["auditor"]},
        "auditor": {"assignable": False},
    }
    return {
        "flow": slug,
        "initialStep": "draft",
        "instances": "many",
        "participants": participants,
        "steps": steps,
    }


@pytest.fixture
def rig(servers: Settings) -> Iterator[PeopleRig]:
    """Run in an event loop of its own, because the machine is synchronous."""
    assert servers.mongo_url is not None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rig = PeopleRig(servers.mongo_url.get_secret_value(), runner.run)
        runner.run(rig.database.prepare())
        yield rig
        runner.run(discard(rig.database))


@pytest.mark.timeout(900)
def test_people_are_as_in_their_model(rig: PeopleRig) -> None:
    for round_ in count():
        if rig.commands >= COMMANDS:
            break
        run_state_machine_as_test(
            seed(round_)(lambda: PeopleMachine(rig)),  # type: ignore[arg-type]  # it makes machines, too
            settings=hypothesis_settings(
                max_examples=min(5, COMMANDS // 80),
                stateful_step_count=80,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"{rig.commands} commands in {rig.flows} examples")
    assert rig.commands >= COMMANDS
