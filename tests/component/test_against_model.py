"""Random commands, repeats, stale revisions, expiries, damages and recoveries: two workers on the real
database against a pure model (tests.support.model); states, answers, histories and events are equal."""

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import UNSET, structs, to_builtins

from app.contracts.callers import trusted_caller
from app.contracts.commands import (
    BatchOperation,
    Origin,
    PauseCommand,
    SetCommand,
    StartCommand,
    trusted_origin,
)
from app.contracts.errors import FlowError
from app.contracts.events import Event, StateChanged, Topic
from app.contracts.ports.states import ListedStatus
from app.contracts.positions import ExpectedPosition
from app.contracts.record import HistoryRecord
from app.contracts.results import Recovered
from app.contracts.state import FlowState, StateId
from app.kit.casing import camel_case
from app.services import FlowService
from app.services.wiring import Limits
from config.settings import Settings
from models.database import connect
from tests.support import model as pure
from tests.support.databases import discard
from tests.support.fakes import FakeBus, FakeClock
from tests.support.long_form import form
from tests.support.model import Model, RefusedError
from tests.support.model_commands import (
    BACKS,
    BATCHED,
    CLEARS,
    EDITS,
    FIRST,
    FORGED,
    HOUR,
    HOW,
    MINUTE,
    PAUSES,
    RESETS,
    RESUMES,
    SETS,
    STARTS,
    TRANSITIONS,
    UNFIT,
    UNREADABLE,
    VERSIONS,
    WORKERS,
    How,
    definition_of,
)
from tests.support.model_values import Command, Version
from tests.support.samples import T0
from tests.support.services import service_on

STEPS = form("model test: steps", short=200, long=10_000)
LIMITS = Limits(state_ttl=timedelta(days=2), max_payload_bytes=100)
NEVER = datetime.max.replace(tzinfo=UTC)
SEALS = {"commitment", "digest", "hash", "hash_version", "previous_hash", "salt"}
OWN_OF_RECORDS = SEALS | {"client", "commit_id", "duration_ms", "id"}


class Rig:
    """Two workers without background work on one database."""

    def __init__(self, url: str, run: Any) -> None:
        self.run = run
        self.clock, self.bus = FakeClock(T0), FakeBus(all_users=True)
        self.steps = self.flows = 0
        self.published: list[StateChanged] = []
        self.bus.subscribe(self._record_event)
        self.database = connect(url, f"test_{uuid.uuid4().hex[:12]}")
        self.states = self.database.collection("flow_states")
        self.workers = [self._worker() for _ in range(2)]

    def _record_event(self, _: Topic, event: Event) -> None:
        if isinstance(event, StateChanged):
            self.published.append(event)

    def _worker(self) -> FlowService:
        return service_on(self.database, bus=self.bus, clock=self.clock, limits=LIMITS)


class Instance:
    """A state of the user: its entity (None: it is the only one), its model, and its epochs by life."""

    def __init__(self, flow: str, entity: str | None, versions: list[Version]) -> None:
        self.entity = entity
        state_id = StateId(flow, "ada", entity)
        self.key = {"_id": state_id.key}
        self.lives: dict[str, int] = {}
        who = {"flow": flow, "user_id": "ada"}
        if entity is not None:
            who["instance_id"] = entity
        self.model = Model(who, versions, LIMITS.max_payload_bytes)


class FlowMachine(RuleBasedStateMachine):
    """One user's states in a flow of its own: in every third flow the only one, otherwise three.

    Every rule concerns one of them, in turn. The third began without an entity.
    """

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        rig.flows += 1
        rig.clock.time = T0
        rig.published.clear()
        self.rig, self.run, self.flow = rig, rig.run, f"flow-{rig.flows}"
        self.requests = self.steps = 0
        self.versions = VERSIONS[:1]
        self.is_one = True
        self.at = Instance(self.flow, None, self.versions)
        self.instances: list[Instance] = []

    @initialize(is_one=st.sampled_from([False, False, True]))
    def create(self, is_one: bool) -> None:
        self.is_one = is_one
        definition = definition_of(self.flow, FIRST)
        if self.is_one:
            self.instances = [self.at]
        else:
            definition["instances"] = "many"
            self.instances = [Instance(self.flow, entity, self.versions) for entity in ("e;1", "%e:2")]
        self.run(self.rig.workers[0].create_flow(definition))
        self.at = self.instances[0]
        if not self.is_one:
            self.mint()

    def mint(self) -> None:
        start = self.rig.workers[0].start_flow("ada", self.flow, origin=trusted_origin("boss"))
        state, started = self.run(start)
        minted = Instance(self.flow, state.instance_id, self.versions)
        assert minted.entity not in (None, *(one.entity for one in self.instances))
        self.at = minted
        self.instances.append(minted)
        wanted = minted.model.run(Command("start", {}), pure.Origin("boss"), self.now)
        assert (self.plain(state), started) == wanted

    @property
    def model(self) -> Model:
        return self.at.model

    @property
    def lives(self) -> dict[str, int]:
        return self.at.lives

    @property
    def now(self) -> datetime:
        return self.rig.clock.now()

    # Commands. What is absent is mostly begun again; without a rule of its own, no example skips that.

    @precondition(lambda self: not self.is_there)
    @rule(command=st.one_of(STARTS, STARTS, RESETS, SETS, CLEARS, TRANSITIONS, PAUSES), how=HOW)
    def begin(self, command: Command, how: How) -> None:
        self.send(command, how)

    @precondition(lambda self: self.is_there)
    @rule(command=st.one_of(TRANSITIONS, TRANSITIONS, TRANSITIONS, BACKS, STARTS), how=HOW)
    def walk(self, command: Command, how: How) -> None:
        self.send(command, how)

    @precondition(lambda self: self.is_there)
    @rule(command=st.one_of(TRANSITIONS, TRANSITIONS, BACKS, RESETS, SETS), how=HOW)
    def correct(self, command: Command, how: How) -> None:
        self.send(command, how)

    @precondition(lambda self: self.is_there)
    @rule(command=st.one_of(TRANSITIONS, TRANSITIONS, PAUSES, RESUMES, RESUMES, CLEARS), how=HOW)
    def hold(self, command: Command, how: How) -> None:
        self.send(command, how)

    @precondition(lambda self: self.is_there)
    @rule(first=EDITS, second=EDITS, how=HOW)
    def edit(self, first: Command, second: Command, how: How) -> None:
        """Two editors, of whom the second does not know what the first one did."""
        self.send(first, how._replace(times=1, request="new", expected="none"))
        self.send(second, how._replace(request="new", expected="stale"))

    # Time, workers and definitions

    @precondition(lambda self: self.is_there)
    @rule(
        by=st.sampled_from([timedelta(0), MINUTE, 6 * MINUTE, 15 * MINUTE, 50 * MINUTE, 5 * HOUR, 30 * HOUR]),
        then=st.sampled_from(["nothing", "purge", "timeouts"]),
        worker=WORKERS,
    )
    def apply_due_change(self, by: timedelta, then: str, worker: int) -> None:
        self.rig.clock.time += by
        due_changes = self.rig.workers[worker].background.due_changes
        if then == "purge":
            due = [one.model for one in self.instances if _is_expired(one.model.state, self.now)]
            done = self.run(due_changes.purge_expired())
            assert done == sum(each.apply_due_change(self.now) for each in due)
        elif then == "timeouts":
            due = [one.model for one in self.instances if _has_timed_out(one.model.state, self.now)]
            done = self.run(due_changes.run_timeouts())
            assert done == sum(each.apply_due_change(self.now) for each in due)
        self.compare(1 - worker)

    @precondition(lambda self: self.is_there)
    @rule(worker=WORKERS, swept=st.booleans())
    def deliver(self, worker: int, swept: bool) -> None:
        self.delivered(worker, swept=swept)
        self.compare(1 - worker)

    @precondition(lambda self: self.is_there and len(self.versions) < len(VERSIONS))
    @rule(worker=WORKERS)
    def publish(self, worker: int) -> None:
        version = VERSIONS[len(self.versions)]
        self.versions.append(version)
        whole = definition_of(self.flow, version.steps)
        patch = {"steps": whole["steps"], "ttl": f"PT{version.ttl // HOUR}H"}
        self.run(self.rig.workers[worker].update_flow(self.flow, patch))
        self.compare(1 - worker)

    # Damage

    @precondition(lambda self: self.is_intact)
    @rule(harm=st.sampled_from(UNREADABLE))
    def damage(self, harm: dict[str, Any]) -> None:
        self.harm(harm)
        self.model.damaged = True
        self.compare(0)

    @precondition(lambda self: self.model.damaged or self.is_intact)
    @rule(worker=WORKERS)
    def recover(self, worker: int) -> None:
        self.recovered(worker)

    @precondition(lambda self: self.is_there and self.is_intact)
    @rule(harm=st.sampled_from([*FORGED, *UNFIT]), worker=WORKERS, by_set=st.booleans())
    def spoil_and_repair(self, harm: dict[str, Any], worker: int, by_set: bool) -> None:
        self.harm({"$set": harm})
        service = self.rig.workers[worker]
        flows = service.as_trusted()
        if harm in FORGED:
            self.recovered(worker, forged=True)
            return
        start = StartCommand(entity_id=UNSET if self.is_one else self.at.entity)
        for asked in (
            flows.get_flow_state("ada", self.flow, entity_id=self.at.entity),
            flows.start_flow("ada", self.flow, start),
        ):
            assert self.run(self.outcome(asked)) == "FLOW_STATE_CORRUPTION"
        if by_set:
            self.model.state = (self.model.state or {}) | harm
            self.send(Command("set", {"step": "form"}), How(worker, "boss", 1, "new", "none", 0))
        else:
            self.recovered(worker, forged=True)

    @precondition(lambda self: self.is_there and self.is_intact)
    @rule(worker=WORKERS, by_ttl=st.sampled_from([False, False, True]))
    def lose(self, worker: int, by_ttl: bool) -> None:
        """``by_ttl``: MongoDB removes what no worker ended for an hour; a paused state has no such time."""
        self.settle()
        expires_at: datetime | None = (self.model.state or {}).get("expires_at")
        by_ttl = by_ttl and expires_at is not None
        if expires_at is not None and by_ttl:
            self.rig.clock.time = expires_at + HOUR
            self.model.state = None
        self.run(_awaited(self.rig.states.delete_one(self.at.key)))
        self.model.memory.clear()
        flows = self.rig.workers[worker].as_trusted()
        assert self.run(flows.get_flow_state("ada", self.flow, entity_id=self.at.entity)) is None
        self.recovered(worker, lost=not by_ttl)

    @property
    def is_there(self) -> bool:
        return self.model.damaged or self.model.present(self.now) is not None

    @property
    def is_intact(self) -> bool:
        """True if the state may be damaged now: rarely, and while no timeout is due."""
        state = self.model.state
        if (
            state is None
            or self.model.damaged
            or any(r["kind"] == "recovered" for r in self.model.history[-10:])
        ):
            return False
        due: datetime = state.get("timeout_at", NEVER)
        return state["status"] != "active" or due > self.now

    def harm(self, harm: dict[str, Any]) -> None:
        self.run(_awaited(self.rig.states.update_one(self.at.key, harm)))

    def recovered(self, worker: int, **unsound: bool) -> None:
        administration = self.rig.workers[worker].administration
        recovery = administration.recover_flow(
            "ada", self.flow, entity_id=self.at.entity, origin=trusted_origin("boss")
        )
        wanted = _decided(lambda: self.model.recover("boss", self.now, **unsound))
        assert self.run(self.outcome(recovery)) == wanted
        self.compare(1 - worker)

    # Comparison

    def send(self, command: Command, how: How) -> None:
        command, origin = self.originate(command, how)
        now, service, batched = self.now, self.rig.workers, how.pick % 4 == 0
        wanted = [_decided(lambda: self.model.run(command, origin, now)) for _ in range(how.times)]

        async def sent() -> list[Any]:
            rivals = (
                self.call(service[(how.worker + n) % 2], command, origin, batched=batched)
                for n in range(how.times)
            )
            return await asyncio.gather(*(self.outcome(rival) for rival in rivals))

        got = self.run(sent())
        if how.times == 1:
            assert got == wanted
        for answer in wanted:  # of rivals any may be the first
            assert answer in got
            got.remove(answer)
        self.compare(1 - how.worker)

    def originate(self, command: Command, how: How) -> tuple[Command, pure.Origin]:
        if not self.is_one:  # the entity is in the identity
            command = Command(command.name, {n: m for n, m in command.args.items() if n != "entity_id"})
        known = list(self.model.memory.items())
        actor, request_id = how.actor, None
        if how.request in ("repeat", "clash") and known:
            (actor, request_id), first = known[-1 - how.pick % len(known)]
            command = first.command if how.request == "repeat" else command
        elif how.request != "none":
            self.requests += 1
            request_id = f"r-{self.requests}"
        state = self.model.state or {"revision": 0, "epoch": 0}
        expected = {
            "revision": (state["revision"], None),
            "position": (state["revision"], state["epoch"]),
            "stale": (state["revision"] - 1, None),
            "older": (state["revision"] - 1 - how.pick % 4, state["epoch"]),
            "other life": (state["revision"], state["epoch"] - 1),
        }.get(how.expected)
        return command, pure.Origin(actor, request_id, expected)

    def call(
        self, service: FlowService, command: Command, origin: pure.Origin, *, batched: bool
    ) -> Coroutine[Any, Any, Any]:
        expected = None
        if origin.expected is not None:
            revision, life = origin.expected
            epochs = {known: epoch for epoch, known in self.lives.items()}
            expected = ExpectedPosition(revision, None if life is None else epochs.get(life, "unknown"))
        request_id = UNSET if origin.request_id is None else origin.request_id
        by = Origin(trusted_caller(origin.actor), request_id=request_id, expected=expected)
        if batched and command.name in BATCHED:
            return self.call_batched(service, command, by)
        args, entity, held = command.args, self.at.entity, service.administration
        match command.name:
            case "start":
                named = args if self.is_one else args | {"entity_id": entity}
                return service.start_flow("ada", self.flow, StartCommand(**named), origin=by)
            case "transition":
                return service.execute_transition("ada", self.flow, **args, entity_id=entity, origin=by)
            case "reset":
                return service.reset_flow("ada", self.flow, **args, entity_id=entity, origin=by)
            case "back":
                return service.undo_transition("ada", self.flow, entity_id=entity, origin=by)
            case "set":
                wanted = SetCommand(flow=self.flow, **args)
                return service.set_flow_state("ada", wanted, entity_id=entity, origin=by)
            case "clear":
                return service.clear_flow_state("ada", self.flow, entity_id=entity, origin=by)
            case "pause":
                return held.pause_flow("ada", self.flow, PauseCommand(**args), entity_id=entity, origin=by)
            case _:
                return held.resume_flow("ada", self.flow, entity_id=entity, origin=by)

    async def call_batched(self, service: FlowService, command: Command, by: Origin) -> FlowState | None:
        body = {camel_case(name): value for name, value in command.args.items()}
        transition = body.pop("transition", None)
        position: dict[str, Any] = {}
        if isinstance(by.expected, ExpectedPosition):
            position = {"expected_revision": by.expected.revision, "expected_epoch": by.expected.epoch}
        operation = BatchOperation(
            op=command.name,  # type: ignore[arg-type]  # one of BATCHED
            transition=transition,
            body=body,
            user_id="ada",
            flow_id=self.flow,
            entity_id=self.at.entity,
            request_id=by.request_id,
            **position,
        )
        (outcome,) = await service.bulk.run([operation], by)
        if outcome.error is not None:
            raise outcome.error
        return outcome.state

    async def outcome(self, asked: Awaitable[Any]) -> Any:
        try:
            answer = await asked
        except FlowError as refusal:
            return refusal.code
        if isinstance(answer, Recovered):
            return answer.action, None if answer.state is None else self.plain(answer.state)
        if isinstance(answer, tuple):
            return self.plain(answer[0]), answer[1]
        return self.plain(answer) if isinstance(answer, FlowState) else answer

    def plain(self, value: FlowState | HistoryRecord) -> dict[str, Any]:
        """As the model has it."""
        if value.epoch not in self.lives:
            assert value.epoch > max(self.lives, default=""), "a later life sorts after the ones before"
            self.lives[value.epoch] = len(self.lives) + 1
        members = {name: member for name, member in structs.asdict(value).items() if member is not UNSET}
        members["epoch"] = self.lives[value.epoch]
        if isinstance(value, FlowState):
            members["transitions"] = [
                (t.transition, t.step, " ".join(m for m in ("explicit", "reversible") if getattr(t, m)))
                for t in value.transitions
            ]
            return members
        members["flow"] = members.pop("flow_id")
        if value.merged is not UNSET:
            members["merged"] = to_builtins(list(value.merged))
        if value.after is not UNSET:
            members["after"] = self.plain(value.after)
            assert members["after"].pop("transitions") == []
        if value.kind == "recovered":
            members["payload"] = {name: members["payload"][name] for name in ("action", "step")}
            members.pop("request_id", None)
        return {name: member for name, member in members.items() if name not in OWN_OF_RECORDS}

    def compare(self, worker: int) -> None:
        self.rig.steps += 1
        self.steps += 1
        if self.steps % 10 == 0:  # no document is to grow without end
            self.delivered(worker)
        if self.steps % 6 == 0:  # most answers are the state themselves
            flows = self.rig.workers[worker].as_trusted()
            read = flows.get_flow_state("ada", self.flow, entity_id=self.at.entity)
            assert self.run(self.outcome(read)) == _decided(lambda: self.model.read(self.now))
        if self.steps % 3 == 0:
            if not self.is_one:
                self.compare_list(worker)
            self.at = self.instances[self.steps // 3 % len(self.instances)]

    def compare_list(self, worker: int) -> None:
        """Compare the list of all states, or of those with a status, in pages."""
        status: ListedStatus | None = (None, "active", "paused", "completed")[self.steps // 3 % 4]
        flows, damaged = self.rig.workers[worker].as_trusted(), set()
        wanted = []
        for one in self.instances:
            if one.model.damaged:  # it may be left out
                damaged.add(one.entity)
            elif (state := one.model.read(self.now)) is not None and status in (None, state["status"]):
                wanted.append((-state["created_at"].timestamp(), one.entity, state))
        pages, after = [], None
        while True:
            page = self.run(
                flows.list_flow_states("ada", self.flow, status=status, after=after, limit=1 + self.steps % 2)
            )
            pages += [state for state in page.states if state.instance_id not in damaged]
            after = page.next
            if after is None:
                break
        by_entity = {one.entity: one for one in self.instances}
        got = []
        for state in pages:
            self.at = by_entity[state.instance_id]
            got.append(self.plain(state))
        assert got == [state for *_, state in sorted(wanted, key=lambda place: place[:2])]

    def delivered(self, worker: int, *, swept: bool = False) -> None:
        async def deliver() -> None:
            background = self.rig.workers[worker].background
            if swept:
                await background.sweep.run()
            running = asyncio.create_task(background.relay.run())
            await background.relay.drain(5)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        self.run(deliver())

    def settle(self) -> None:
        for worker in range(len(self.rig.workers)):
            self.delivered(worker)

    def teardown(self) -> None:
        if sys.exception() is None:  # what is damaged at the end may not be proven whole
            for damaged in [one for one in self.instances if one.model.damaged]:
                self.at = damaged
                self.recovered(0)
        self.settle()
        try:
            if sys.exception() is None:
                for one in self.instances:
                    self.at = one
                    if self.model.history:
                        self.compare_histories()
        finally:
            for one in self.instances:
                self.run(_awaited(self.rig.states.delete_one(one.key)))

    def compare_histories(self) -> None:
        flows, entity = self.rig.workers[0].as_trusted(), self.at.entity
        history = self.run(flows.get_flow_history("ada", self.flow, entity_id=entity))
        for record, wanted in zip(history, self.model.history, strict=True):
            named = self.plain(record)
            if (revision := named.pop("payload_revision", None)) is not None:
                source = next(
                    r for r in history if r.success and r.epoch == record.epoch and r.revision == revision
                )
                assert source.payload_revision is UNSET
            assert named == wanted
        assert self.run(flows.verify_flow_history("ada", self.flow, entity_id=entity)).broken is None
        events = [event for event in self.rig.published if event.instance_id == entity]
        published = [(self.lives[event.epoch], event.revision) for event in events]
        made = [(r["epoch"], r["revision"]) for r in self.model.history if r["success"]]
        assert list(dict.fromkeys(published)) == made, "every change is published, in order"


def _is_expired(state: pure.State | None, now: datetime) -> bool:
    if state is None or state["status"] in pure.TERMINAL_STATUSES:
        return False
    return bool(state.get("expires_at", NEVER) <= now)


def _has_timed_out(state: pure.State | None, now: datetime) -> bool:
    return state is not None and state["status"] == "active" and state.get("timeout_at", NEVER) <= now


def _decided(decide: Callable[[], Any]) -> Any:
    try:
        return decide()
    except RefusedError as refusal:
        return str(refusal)


async def _awaited(future: Awaitable[Any]) -> Any:
    return await future


@pytest.fixture
def rig(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Run in an event loop of its own, because the machine is synchronous.

    Documents remember few requests, so that the history is queried too.
    """
    for module in (
        "models.states.commits", "models.states.state_document", "app.services.states.idempotency"
    ):  # fmt: skip
        monkeypatch.setattr(f"{module}.REMEMBERED_REQUESTS", 3)
    assert servers.mongo_url is not None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rig = Rig(servers.mongo_url.get_secret_value(), runner.run)
        runner.run(rig.database.prepare())
        yield rig
        runner.run(discard(rig.database))


@pytest.mark.timeout(900)
@pytest.mark.expected_logs(  # chance decides what is damaged, and when
    "damaged document", "state recovered", "due change failed", optional=True
)
def test_the_service_is_as_its_model(rig: Rig) -> None:
    for round_ in count():
        if rig.steps >= STEPS:
            break
        run_state_machine_as_test(
            seed(round_)(lambda: FlowMachine(rig)),  # type: ignore[arg-type]  # it makes machines, too
            settings=hypothesis_settings(
                max_examples=min(10, STEPS // 100),
                stateful_step_count=100,
                deadline=None,
                database=None,
                phases=[Phase.generate],  # shrinking takes longer than the test may
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"{rig.steps} steps in {rig.flows} examples")
    assert rig.steps >= STEPS
