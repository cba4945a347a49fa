"""Use cases on flows of which a user has many states, over fakes."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET

from app.contracts.callers import SERVICE, Caller
from app.contracts.commands import (
    BatchAction,
    BatchOperation,
    Origin,
    PauseCommand,
    SetCommand,
    StartCommand,
    trusted_origin,
)
from app.contracts.errors import (
    EntityRequiredError,
    FlowNotStartedError,
    InsufficientPermissionsError,
    InvalidRequestError,
)
from app.contracts.people import Participant
from app.contracts.ports.states import IDEMPOTENCY_WINDOW, StateFilter
from app.contracts.results import Started
from app.contracts.state import FlowState
from app.services.states.identification import MAX_LISTED
from tests.support.rig import Rig
from tests.support.rig import rig as rig_of_one
from tests.support.samples import flow_dict

ROOT = trusted_origin("root")
NO_ENTITY: list[Any] = [5, {"$ne": ""}, "", "a\nb", "\x00", "\x7f", "\ud800", "e" * 257, "person:" + "0" * 32]


def many_flow(**changes: Any) -> dict[str, Any]:
    return flow_dict(instances="many", **changes)


async def rig(**limits: Any) -> Rig:
    """Build a rig on which a user has many states in the flow ``loop``."""
    made = Rig(**limits)
    await made.service.create_flow(many_flow())
    return made


async def started(r: Rig, *entities: str, user: str = "ada") -> list[FlowState]:
    """Start states, each a second after the one before it."""
    states = []
    for entity in entities:
        states.append((await r.flows.start_flow(user, "loop", StartCommand(entity_id=entity))).state)
        r.clock.advance(seconds=1)
    return states


def request(key: str, user: str = "ada") -> Origin:
    return Origin(Caller(user), request_id=key)


async def steps(r: Rig) -> dict[str | None, str]:
    """Return the steps of ada's states that are present, by entity."""
    found = await r.flows.get_user_flows("ada")
    return {state.id.instance_id: state.step for state in found}


async def test_each_of_many_states_moves_alone() -> None:
    r = await rig()
    await started(r, "e-1", "e-2", "e-3")
    flows, administration = r.flows, r.service.administration
    again = await flows.start_flow("ada", "loop", StartCommand(entity_id="e-1"))
    assert (again.started, again.state.revision) == (False, 0)
    await flows.execute_transition("ada", "loop", "go", entity_id="e-1")
    assert await steps(r) == {"e-1": "b", "e-2": "a", "e-3": "a"}
    assert (await flows.execute_transition("ada", "loop", "back", entity_id="e-1")).previous == "b"
    assert (await flows.undo_transition("ada", "loop", entity_id="e-1")).step == "b"
    paused = await administration.pause_flow("ada", "loop", PauseCommand("r"), entity_id="e-2", origin=ROOT)
    assert (paused.status, paused.instance_id) == ("paused", "e-2")
    assert (await flows.reset_flow("ada", "loop", "b", entity_id="e-3")).step == "b"
    resumed = await administration.resume_flow("ada", "loop", entity_id="e-2", origin=ROOT)
    assert resumed.status == "active"
    done = await flows.set_flow_state("ada", SetCommand(step="c", flow="loop"), entity_id="e-2")
    assert (done.step, done.status) == ("c", "completed")
    assert await flows.clear_flow_state("ada", "loop", entity_id="e-1")
    assert not await flows.clear_flow_state("ada", "loop", entity_id="e-1")
    assert await flows.get_flow_state("ada", "loop", entity_id="e-1") is None
    assert await steps(r) == {"e-2": "c", "e-3": "b"}


async def test_histories_are_those_of_one_state_each() -> None:
    r = await rig()
    await started(r, "e-1", "e-2")
    async with r.service as service:
        flows = service.as_trusted()
        for transition in ("again", "again", "go"):
            await flows.execute_transition("ada", "loop", transition, entity_id="e-1")
        records = await flows.get_flow_history("ada", "loop", entity_id="e-1")
        assert [record.kind for record in records] == ["started", *["transitioned"] * 3]
        assert {record.instance_id for record in records} == {"e-1"}
        page = await flows.page_flow_history("ada", "loop", limit=3, entity_id="e-1")
        rest = await flows.page_flow_history("ada", "loop", after=page.next, entity_id="e-1")
        assert [*page.items, *rest.items] == records
        other = await flows.get_flow_history("ada", "loop", entity_id="e-2")
        assert [record.kind for record in other] == ["started"]
        verified = [
            await flows.verify_flow_history("ada", "loop", entity_id=entity) for entity in ("e-1", "e-2")
        ]
        assert [(found.whole, found.records) for found in verified] == [(True, 4), (True, 1)]
        caught_up = await flows.get_flow_events("ada", "loop", entity_id="e-2")
        assert caught_up.state is not None
        assert caught_up.state.instance_id == "e-2"


async def test_states_are_listed_by_status_the_newest_first() -> None:
    r = await rig()
    await started(r, *(f"e-{n}" for n in range(5)))
    await started(r, "e-of-bob", user="bob")
    await r.flows.execute_transition("ada", "loop", "jump", entity_id="e-1")
    await r.flows.clear_flow_state("ada", "loop", entity_id="e-3")
    pages, after = [], None
    while True:
        page = await r.flows.list_flow_states("ada", "loop", after=after, limit=2)
        pages.append([state.instance_id for state in page.states])
        if page.next is None:
            break
        after = page.next
    assert [entity for page in pages for entity in page] == ["e-4", "e-2", "e-1", "e-0"]
    assert max(len(page) for page in pages) == 2
    done = await r.flows.list_flow_states("ada", "loop", status="completed")
    assert [state.instance_id for state in done.states] == ["e-1"]
    active = await r.flows.list_flow_states("ada", "loop", status="active")
    assert [state.instance_id for state in active.states] == ["e-4", "e-2", "e-0"]


async def test_diagrams_show_the_step_of_the_named_state() -> None:
    r = await rig()
    await started(r, "e-1", "e-2")
    await r.flows.execute_transition("ada", "loop", "go", entity_id="e-2")
    draw, ada = r.service.diagrams.draw, Caller("ada")
    drawn = [
        await draw("loop", "mermaid", caller=ada, user_id="ada", entity_id=entity)
        for entity in ("e-1", "e-2")
    ]
    assert [each.step for each in drawn] == ["a", "b"]
    assert drawn[0].text != drawn[1].text
    with pytest.raises(EntityRequiredError):
        await draw("loop", "mermaid", caller=ada, user_id="ada")


async def test_tokens_carry_and_compare_the_entity() -> None:
    r = await rig()
    await started(r, "e-1", "e-2")
    await r.flows.execute_transition("ada", "loop", "go", entity_id="e-2")
    tokens, ada = r.service.tokens, Caller("ada")
    made = await tokens.encode("ada", "loop", entity_id="e-2", caller=ada)
    assert made.state.instance_id == "e-2"

    found = await tokens.compare("ada", made.token, caller=ada)
    assert (found.matches, found.hint.entity_id, found.hint.step) == (True, "e-2", "b")
    assert found.state is not None
    assert found.state.instance_id == "e-2", "without another entity it is that of the token"

    other = await tokens.compare("ada", made.token, entity_id="e-1", caller=ada)
    assert other.state is not None
    assert (other.state.instance_id, other.differences) == ("e-1", ["step", "entityId"])

    await r.flows.clear_flow_state("ada", "loop", entity_id="e-2")
    gone = await tokens.compare("ada", made.token, caller=ada)
    assert (gone.state, gone.matches) == (None, False)
    with pytest.raises(FlowNotStartedError):
        await tokens.encode("ada", "loop", entity_id="e-2", caller=ada)


@pytest.mark.parametrize("instances", ["one", "many"])
async def test_tokens_are_compared_when_their_flow_is_retired(instances: str) -> None:
    r, ada = Rig(), Caller("ada")
    await r.service.create_flow(flow_dict(instances=instances))
    await started(r, "e-1", *(["e-2"] if instances == "many" else []))
    entity = "e-1" if instances == "many" else None
    made = await r.service.tokens.encode("ada", "loop", entity_id=entity, caller=ada)
    await r.flows.delete_flow("loop")
    found = await r.service.tokens.compare("ada", made.token, caller=ada)
    assert (found.matches, found.hint.entity_id) == (True, "e-1")


async def test_states_from_before_many_are_reached_without_an_entity() -> None:
    r = await rig_of_one()
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop", StartCommand(entity_id="label"))
        await service.update_flow("loop", {"instances": "many"})
        new, begun = await flows.start_flow("ada", "loop")
        assert begun
        assert (new.version, new.instances) == (2, "many")
        assert len(new.id.instance_id or "") == 16
        old = await flows.require_flow_state("ada", "loop")
        assert (old.version, old.instances, old.entity) == (1, UNSET, "label")
        assert (await flows.execute_transition("ada", "loop", "go")).id == old.id
        assert (await flows.reset_flow("ada", "loop")).version == 2, "a reset leaves it its identity"
        assert [record.kind for record in await flows.get_flow_history("ada", "loop")] == [
            "started",
            "transitioned",
            "reset",
        ]
        listed = await flows.list_flow_states("ada", "loop")
        assert [state.id for state in listed.states] == [new.id], "a list has those with an entity"
        assert await flows.clear_flow_state("ada", "loop")
        found = await flows.require_flow_state("ada", "loop")
        assert found.id == new.id, "without it, the only one is meant"


async def test_states_of_many_are_reached_when_the_flow_has_one_again() -> None:
    r = await rig()
    await started(r, "e-1", "e-2")
    async with r.service as service:
        flows = service.as_trusted()
        await service.update_flow("loop", {"instances": "one"})
        assert await flows.get_flow_state("ada", "loop") is None
        moved = await flows.execute_transition("ada", "loop", "go", entity_id="e-1")
        assert (moved.step, moved.version, moved.instances) == ("b", 1, "many")
        assert len(await flows.get_flow_history("ada", "loop", entity_id="e-1")) == 2
        assert (await flows.reset_flow("ada", "loop", entity_id="e-1")).version == 2
        new, begun = await flows.start_flow("ada", "loop", StartCommand(entity_id="e-2"))
        assert (begun, new.instances, new.entity) == (True, UNSET, "e-2"), "it is a label now"
        assert await flows.clear_flow_state("ada", "loop", entity_id="e-1")
        for refused in (
            flows.reset_flow("ada", "loop", entity_id="e-1"),
            flows.reset_flow("ada", "loop", entity_id="e-9"),
            flows.set_flow_state("ada", SetCommand(step="b", flow="loop"), entity_id="e-9"),
        ):
            with pytest.raises(InvalidRequestError) as refusal:
                await refused
            assert [(fault.pointer, fault.message) for fault in refusal.value.faults] == [
                ("/entityId", "must be left out: a user has one state in flow loop")
            ]
        assert await steps(r) == {None: "a", "e-2": "a"}


@pytest.mark.parametrize("more", [False, True])
async def test_a_missing_entity_is_an_error_that_lists_the_newest(more: bool) -> None:
    r = await rig()
    states = await started(r, *(f"e-{n:02}" for n in range(MAX_LISTED + more)))
    flows, ada = r.flows, Caller("ada")
    newest = [state.instance_id for state in reversed(states)][:MAX_LISTED]
    for refused in (
        flows.get_flow_state("ada", "loop"),
        flows.execute_transition("ada", "loop", "go"),
        flows.reset_flow("ada", "loop"),
        flows.undo_transition("ada", "loop"),
        flows.set_flow_state("ada", SetCommand(step="b", flow="loop")),
        flows.clear_flow_state("ada", "loop"),
        flows.get_flow_history("ada", "loop"),
        flows.verify_flow_history("ada", "loop"),
        flows.get_flow_events("ada", "loop"),
        r.service.tokens.encode("ada", "loop", caller=ada),
        r.service.administration.pause_flow("ada", "loop", PauseCommand("r"), origin=ROOT),
    ):
        with pytest.raises(EntityRequiredError) as refusal:
            await refused
        assert refusal.value.details == {"flowId": "loop", "entityIds": newest, "more": more}
    assert set((await steps(r)).values()) == {"a"}


async def test_a_participant_never_learns_which_entities_there_are() -> None:
    r = Rig()
    await r.service.create_flow(many_flow(participants={"approver": {}}))
    eve = Caller("eve")
    command = StartCommand(participants=(Participant("approver", user_id="eve"),))
    begun = [await r.service.start_flow("ada", "loop", command, origin=ROOT) for _ in range(2)]
    service, origin = r.service, Origin(eve)

    async def refusals(user_id: str) -> list[dict[str, Any]]:
        found = []
        for refused in (
            service.get_flow_state(user_id, "loop", caller=eve),
            service.execute_transition(user_id, "loop", "go", origin=origin),
            service.reset_flow(user_id, "loop", origin=origin),
            service.clear_flow_state(user_id, "loop", origin=origin),
            service.list_flow_states(user_id, "loop", caller=eve),
        ):
            with pytest.raises(InsufficientPermissionsError) as refusal:
                await refused
            found.append({"text": str(refusal.value).replace(user_id, "…"), **refusal.value.details})
        return found

    of_ada, of_nobody = await refusals("ada"), await refusals("nobody")
    for each in of_ada + of_nobody:
        assert not any(str(state.instance_id) in repr(each) for state, _ in begun)
    assert of_ada == of_nobody
    seen = await service.get_flow_state("ada", "loop", entity_id=begun[0].state.id.instance_id, caller=eve)
    assert seen is not None
    assert seen.id == begun[0].state.id


async def test_a_repeated_start_gives_the_same_state_and_another_request_another() -> None:
    r = await rig()
    start = r.service.start_flow
    first = await start("ada", "loop", StartCommand(), origin=request("r-1"))
    repeated = await start("ada", "loop", StartCommand(), origin=request("r-1"))
    assert repeated == first
    assert first.started
    other = await start("ada", "loop", StartCommand(), origin=request("r-2"))
    of_bob = await start("bob", "loop", StartCommand(), origin=request("r-1", "bob"))
    unnamed = [await start("ada", "loop", StartCommand(), origin=Origin(Caller("ada"))) for _ in range(2)]
    states = [first.state, other.state, of_bob.state, *(each.state for each in unnamed)]
    assert len({state.instance_id for state in states}) == len(r.states.stored) == 5
    await r.service.execute_transition("ada", "loop", "go", entity_id=first.state.id.instance_id, origin=ROOT)
    assert (await start("ada", "loop", StartCommand(), origin=request("r-1"))).state.id == first.state.id
    with pytest.raises(InvalidRequestError, match="Idempotency-Key"):
        await start("ada", "loop", StartCommand(step="b"), origin=request("r-1"))
    assert len(r.states.stored) == 5


async def test_starts_with_the_same_request_at_once_on_two_services_give_one_state() -> None:
    r = await rig()
    services = [r.service, r.make()]
    found = await asyncio.gather(
        *(services[n % 2].start_flow("ada", "loop", StartCommand(), origin=request("r-1")) for n in range(20))
    )
    assert {each.state.id for each in found} == {found[0].state.id}
    assert all(each.started for each in found), "each of them is the request that made it"
    assert len(r.states.stored) == 1


async def test_a_start_that_loses_the_race_has_the_state_of_the_winner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r = await rig()
    other, commit = r.make(), r.states.commit
    winners: list[Started | None] = []

    async def commit_later(*arguments: Any) -> bool:
        if not winners:
            winners.append(None)
            winners[0] = await other.start_flow("ada", "loop", StartCommand(), origin=request("r-1"))
        return await commit(*arguments)

    monkeypatch.setattr(r.states, "commit", commit_later)
    loser = await r.service.start_flow("ada", "loop", StartCommand(), origin=request("r-1"))
    assert loser == winners[0]
    assert len(r.states.stored) == 1


async def test_a_start_repeated_when_its_request_is_forgotten_has_an_end() -> None:
    """A reservation remains a little longer than a repeat is recognised."""
    r = await rig()
    start = r.service.start_flow
    first = await start("ada", "loop", StartCommand(), origin=request("r-1"))
    r.clock.advance(seconds=IDEMPOTENCY_WINDOW.total_seconds() + 1)
    async with asyncio.timeout(5):
        late = await start("ada", "loop", StartCommand(), origin=request("r-1"))
    assert (late.state, late.started) == (first.state, False)
    assert len(r.states.stored) == 1


async def test_a_dry_run_reserves_and_starts_nothing() -> None:
    r = await rig()
    dry = Origin(Caller("ada"), request_id="r-1", dry_run=True)
    rehearsed = [await r.service.start_flow("ada", "loop", StartCommand(), origin=dry) for _ in range(2)]
    assert all(each.started for each in rehearsed)
    assert (r.entities.reserved, r.states.stored) == ({}, {})
    await started(r, "e-1", "e-2")
    operations = [
        BatchOperation(
            op="set", user_id="ada", flow_id="loop", entity_id=e, body={"step": "b"}, request_id="r"
        )
        for e in ("e-1", "e-2", "e-9")
    ]
    outcomes = await r.service.bulk.run(operations, Origin(ROOT.caller, dry_run=True))
    assert [None if each.state is None else each.state.step for each in outcomes] == ["b", "b", "b"]
    assert r.entities.reserved == {}
    assert await steps(r) == {"e-1": "a", "e-2": "a"}


async def test_a_batch_changes_the_named_states() -> None:
    r = await rig()
    await started(r, "e-1", "e-2", "e-3")

    def operation(op: Any, entity: str | None, **members: Any) -> BatchOperation:
        return BatchOperation(op=op, user_id="ada", flow_id="loop", entity_id=entity, **members)

    operations = [
        operation("transition", "e-1", transition="go"),
        operation("transition", "e-1", transition="done"),
        operation("clear", "e-2"),
        operation("pause", "e-3", body={"reason": "r"}),
        operation("transition", None, transition="go"),
        operation("set", "new", body={"step": "b"}),
        operation("transition", "nowhere", transition="go"),
        operation("reset", "a\nb"),
    ]
    outcomes = await r.service.bulk.run(operations, ROOT)
    codes = [None if each.error is None else each.error.code for each in outcomes]
    assert codes[:4] == [None] * 4
    assert codes[5:] == [None, "FLOW_NOT_STARTED", "INVALID_REQUEST"]
    named = [each.entity_id for each in outcomes]
    assert named == ["e-1", "e-1", "e-2", "e-3", UNSET, "new", "nowhere", "a\nb"]
    assert await steps(r) == {"e-1": "c", "e-3": "a", "new": "b"}

    action = BatchAction(op="reset")
    page = await r.service.bulk.run_on_found(
        StateFilter(flow_id="loop", entity_id="new"), action, ROOT, after=None, limit=10
    )
    assert [(each.entity_id, each.error) for each in page.outcomes] == [("new", None)]
    assert await steps(r) == {"e-1": "c", "e-3": "a", "new": "a"}


@pytest.mark.parametrize("flow_id", ["a:b", "a;b", ";", "nowhere"])
async def test_an_operation_on_a_flow_that_cannot_be_does_not_refuse_the_others(flow_id: str) -> None:
    r = await rig()
    await started(r, "e-1")
    operations = [
        BatchOperation(op="reset", user_id="ada", flow_id=flow_id, entity_id="e-1"),
        BatchOperation(op="transition", user_id="ada", flow_id="loop", entity_id="e-1", transition="go"),
    ]
    for dry_run, step in ((True, "a"), (False, "b")):
        outcomes = await r.service.bulk.run(operations, Origin(ROOT.caller, dry_run=dry_run))
        codes = [None if each.error is None else each.error.code for each in outcomes]
        assert codes == ["FLOW_NOT_FOUND", None]
        assert await steps(r) == {"e-1": step}


async def test_set_creates_a_missing_state_with_an_entity_only() -> None:
    r = await rig()
    flows = r.flows
    command = SetCommand(step="b", flow="loop", payload={"x": 1})
    with pytest.raises(InvalidRequestError) as refusal:
        await flows.set_flow_state("ada", command)
    assert [(fault.pointer, fault.message) for fault in refusal.value.faults] == [
        ("/entityId", "is required: a user has many states in flow loop")
    ]
    with pytest.raises(InvalidRequestError, match="entityId"):
        await flows.reset_flow("ada", "loop")
    assert r.states.stored == {}
    made = await flows.set_flow_state("ada", command, entity_id="e-1")
    assert (made.key, made.step, made.revision, made.payload) == ("loop;ada;e-1", "b", 0, {"x": 1})
    again = await flows.set_flow_state("ada", command, entity_id="e-1")
    assert (again.key, again.revision) == ("loop;ada;e-1", 1)


async def test_what_drops_a_state_of_many_names_it() -> None:
    """The same request again, after its answer was lost, must not drop the next state."""
    r = await rig()
    await started(r, "e-1")
    dropping = (
        lambda **more: r.flows.clear_flow_state("ada", "loop", **more),
        lambda **more: r.flows.reset_flow("ada", "loop", **more),
        lambda **more: r.flows.set_flow_state("ada", SetCommand(step="b", flow="loop"), **more),
    )
    for drop in dropping:
        with pytest.raises(EntityRequiredError) as refusal:
            await drop()
        assert refusal.value.details["entityIds"] == ["e-1"]
    assert [(await r.flows.require_flow_state("ada", "loop")).revision] == [0]
    for drop in reversed(dropping):
        await drop(entity_id="e-1")
    assert await r.flows.get_flow_state("ada", "loop") is None


async def test_an_entity_in_the_body_of_a_set_neither_moves_nor_labels_a_state_of_many() -> None:
    r = await rig()
    await started(r, "e-1", "e-2")
    command = SetCommand(step="b", flow="loop", entity_id="e-2")
    after = await r.flows.set_flow_state("ada", command, entity_id="e-1")
    assert (after.instance_id, after.entity_id, after.entity) == ("e-1", UNSET, "e-1")
    assert await steps(r) == {"e-1": "b", "e-2": "a"}
    with pytest.raises(EntityRequiredError):
        await r.flows.set_flow_state("ada", command)


@pytest.mark.parametrize("entity", NO_ENTITY)
async def test_an_entity_that_is_no_identifier_is_refused(entity: Any) -> None:
    r = await rig()
    await started(r, "e-1")
    before = dict(r.states.stored)
    flows, ada, service = r.flows, Caller("ada"), r.service
    for refused in (
        flows.start_flow("ada", "loop", StartCommand(entity_id=entity)),
        flows.get_flow_state("ada", "loop", entity_id=entity),
        flows.execute_transition("ada", "loop", "go", entity_id=entity),
        flows.reset_flow("ada", "loop", entity_id=entity),
        flows.undo_transition("ada", "loop", entity_id=entity),
        flows.set_flow_state("ada", SetCommand(step="b", flow="loop"), entity_id=entity),
        flows.clear_flow_state("ada", "loop", entity_id=entity),
        flows.get_flow_history("ada", "loop", entity_id=entity),
        flows.page_flow_history("ada", "loop", entity_id=entity),
        flows.verify_flow_history("ada", "loop", entity_id=entity),
        flows.get_flow_events("ada", "loop", entity_id=entity),
        service.administration.pause_flow("ada", "loop", PauseCommand("r"), entity_id=entity, origin=ROOT),
        service.administration.resume_flow("ada", "loop", entity_id=entity, origin=ROOT),
        service.administration.recover_flow("ada", "loop", entity_id=entity, origin=ROOT),
        service.administration.find_states(StateFilter(entity_id=entity), caller=ROOT.caller),
        service.tokens.encode("ada", "loop", entity_id=entity, caller=ada),
        service.diagrams.draw("loop", "mermaid", caller=ada, user_id="ada", entity_id=entity),
        service.people.withdraw("ada", "loop", entity_id=entity, origin=ROOT),
    ):
        with pytest.raises(InvalidRequestError) as refusal:
            await refused
        assert [fault.pointer for fault in refusal.value.faults] == ["/entityId"]
    assert r.states.stored == before


async def test_all_malformed_ids_are_listed_together() -> None:
    r = await rig()
    with pytest.raises(InvalidRequestError) as refusal:
        await r.flows.get_flow_state("a\nb", "loop", entity_id="")
    assert {fault.pointer for fault in refusal.value.faults} == {"/userId", "/entityId"}


async def test_an_expired_state_of_many_is_not_the_one_that_is_meant() -> None:
    r = await rig(state_ttl=timedelta(hours=1))
    await started(r, "e-1")
    r.clock.advance(minutes=59)
    await started(r, "e-2")
    r.clock.advance(minutes=1)
    found = await r.flows.require_flow_state("ada", "loop")
    assert found.instance_id == "e-2"
    assert await r.service.purge_expired_flows() == 1
    assert r.states.stored["loop;ada;e-1"].state.status == "expired"
    assert r.states.stored["loop;ada;e-2"].state.status == "active"


async def test_a_service_starts_states_of_many_for_a_user() -> None:
    r = await rig()
    program = Origin(Caller("svc", scopes=frozenset({SERVICE})), request_id="r-1")
    first, again = [
        await r.service.start_flow("ada", "loop", StartCommand(), origin=program) for _ in range(2)
    ]
    own = await r.service.start_flow("ada", "loop", StartCommand(), origin=request("r-1"))
    assert first.state.id == again.state.id != own.state.id, "requests of different actors are different"
