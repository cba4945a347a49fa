"""Erasure of a person whom states of others name, on the real database."""

import asyncio
from itertools import count
from typing import Any

import pytest
from bson.json_util import dumps
from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import ClaimCommand, Origin, SetCommand, StartCommand, trusted_origin
from app.contracts.errors import (
    FlowNotStartedError,
    InsufficientPermissionsError,
    SeparationOfDutiesError,
    StoreUnavailableError,
)
from app.contracts.people import Participant, is_pseudonym
from app.contracts.ports.states import StoredState
from app.contracts.record import HistoryRecord, state_after
from app.contracts.state import FlowState, StateId
from app.flow.history_chain import seal
from app.main import Backend
from app.services.administration import personal_data
from models.history_store import MongoHistoryStore
from models.states.store import MongoStateStore
from tests.support.samples import flow_dict, moved, peopled, record

FLOW = "user-onboarding"
ADA = StateId(FLOW, "ada")
ROOT = trusted_origin("root", client="tests")
COLLECTIONS = ("flow_states", "flow_history", "flow_states_damaged", "flow_corruptions", "flow_leases")


async def everything(parts: Backend, *without: str) -> str:
    found = [name for name in COLLECTIONS if name not in without]
    return dumps([await parts.database.collection(name).find({}).to_list(None) for name in found])


async def load(parts: Backend, state_id: StateId = ADA) -> StoredState:
    stored = await MongoStateStore(parts.database, parts.codec).load(state_id)
    assert stored is not None
    return stored


async def commit(parts: Backend, after: FlowState, actor: str = "ada", **changes: Any) -> HistoryRecord:
    """Commit a state, as a command of a worker that then died: the record waits in the outbox."""
    stored = await load(parts, after.id)
    bare = structs.replace(record(after, kind="assigned"), actor=actor, request_id=UNSET, **changes)
    sealed = seal(bare, stored.head, f"salt-{after.revision}")
    assert await MongoStateStore(parts.database, parts.codec).commit(stored.state.position, sealed)
    return sealed


async def named(parts: Backend, owner: str = "ada", **command: Any) -> FlowState:
    """A state of which bob and cleo are approvers, and where bob acted."""
    state, _ = await parts.service.as_trusted().start_flow(
        owner, FLOW, StartCommand(payload={"iban": "DE0212"}, **command)
    )
    state = moved(peopled(structs.replace(state, transitions=()), "bob", "cleo"))
    await commit(parts, state)
    state = moved(state)
    await commit(parts, state, "bob", actor_salt="salt-of-bob")
    return state


async def refused(parts: Backend, state_id: StateId) -> None:
    """Record an attempt of bob that was refused."""
    stored = await load(parts, state_id)
    bare = structs.replace(
        record(stored.state, kind="refused"),
        actor="bob",
        actor_salt="salt-of-bob",
        success=False,
        after=UNSET,
    )
    one = seal(structs.replace(bare, id=f"{bare.id}:x"), stored.head, "salt-x")
    await MongoHistoryStore(parts.database, codec=parts.codec).append([one])


async def require_erased(parts: Backend, *owners: str) -> None:
    text = await everything(parts)
    assert '"bob"' not in text
    assert "salt-of-bob" not in text
    assert '"cleo"' in text
    for owner in owners:
        found = await parts.service.as_trusted().verify_flow_history(owner, FLOW)
        assert (found.whole, found.broken) == (True, None), owner


async def test_a_person_is_replaced_and_the_chain_is_whole(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await named(parts)
    await refused(parts, ADA)
    await flows.start_flow("bob", FLOW, StartCommand(payload={"mine": 1}))
    await flows.start_flow("dan", FLOW)
    await service.background.sweep.run()
    await service.background.relay.drain(5)
    assert (await flows.verify_flow_history("ada", FLOW)).whole
    done = await service.personal_data.erase("bob", ROOT)
    assert [receipt.user_id for receipt in done.receipts] == ["bob"], "of bob's own state"
    assert (done.pseudonymised_states, done.pseudonymised_records) == (1, 3)
    await service.background.relay.drain(5)
    assert '"bob"' in await everything(parts), "the id of an owner stays"
    await parts.database.collection("flow_states").delete_one({"_id": f"{FLOW}:bob"})
    await parts.database.collection("flow_history").delete_many({"userId": "bob"})
    await require_erased(parts, "ada", "dan")
    state = (await load(parts)).state
    assert state.payload == {"iban": "DE0212"}
    assert state.participants is not UNSET
    pseudonym, cleo, clerks = state.participants
    assert (cleo.user_id, clerks.group) == ("cleo", "finance")
    assert isinstance(pseudonym.user_id, str)
    assert is_pseudonym(pseudonym.user_id)
    history = await flows.get_flow_history("ada", FLOW)
    assert [(r.kind, r.actor) for r in history] == [
        ("started", "ada"),
        ("assigned", "ada"),
        ("assigned", pseudonym.user_id),
        ("refused", pseudonym.user_id),
        ("pseudonymised", "root"),
    ]
    assert (await flows.execute_transition("ada", FLOW, "start")).revision == 4
    assert (await flows.verify_flow_history("ada", FLOW)).whole
    assert (await load(parts, StateId(FLOW, "dan"))).state.revision == 0


async def test_an_erasure_is_repeatable_and_concerns_nobody_else(parts: Backend) -> None:
    await named(parts)
    await parts.service.personal_data.erase("bob", ROOT)
    await parts.service.background.relay.drain(5)
    before = await everything(parts, "flow_leases")  # which are renewed
    done = await parts.service.personal_data.erase("bob", ROOT)
    assert (done.pseudonymised_states, done.pseudonymised_records) == (0, 0)
    assert await everything(parts, "flow_leases") == before
    done = await parts.service.personal_data.erase("cleo", ROOT)
    assert (done.pseudonymised_states, done.pseudonymised_records) == (1, 3)
    assert '"cleo"' not in await everything(parts)
    assert (await parts.service.as_trusted().verify_flow_history("ada", FLOW)).whole


async def test_an_administrator_who_is_erased_is_not_named_by_the_receipts(parts: Backend) -> None:
    await named(parts)
    await parts.service.personal_data.erase("bob", trusted_origin("bob"))
    await require_erased(parts, "ada")
    history = await parts.service.as_trusted().get_flow_history("ada", FLOW)
    assert (history[-1].kind, history[-1].actor) == ("pseudonymised", "system")


async def test_commands_on_their_way_do_not_bring_a_person_back(parts: Backend) -> None:
    service = parts.service
    await named(parts)
    stale = await load(parts)
    await service.personal_data.erase("bob", ROOT)
    late = seal(record(moved(stale.state)), stale.head, "salt")
    assert not await MongoStateStore(parts.database, parts.codec).commit(stale.state.position, late)
    await require_erased(parts, "ada")


async def test_an_erasure_races_with_commands(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await named(parts)

    async def work() -> None:
        for n in range(15):
            await flows.set_flow_state("ada", SetCommand(flow=FLOW, step="welcome", payload={"n": n}))

    await asyncio.gather(work(), service.personal_data.erase("bob", ROOT), work())
    await service.background.relay.drain(5)
    await require_erased(parts, "ada")


@pytest.mark.expected_logs("delivery incomplete, records stay in outboxes", optional=True)
async def test_a_worker_that_delivers_late_brings_nobody_back(
    parts: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal_data, "MAX_DRAIN_SECONDS", 0.05)
    await parts.service.background.stop()
    await named(parts)
    held = (await load(parts)).pending
    assert len(held) == 3
    await parts.service.personal_data.erase("bob", ROOT)
    await MongoHistoryStore(parts.database, codec=parts.codec).append(held)
    await MongoStateStore(parts.database, parts.codec).release(held)
    await require_erased(parts, "ada")


async def test_an_erasure_that_failed_half_way_is_completed(
    parts: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await named(parts)

    async def fail(*_: object) -> int:
        raise StoreUnavailableError

    with monkeypatch.context() as broken:
        broken.setattr(MongoHistoryStore, "replace_person", fail)
        with pytest.raises(StoreUnavailableError):
            await parts.service.personal_data.erase("bob", ROOT)
    assert "bob" not in str((await load(parts)).state)
    assert '"bob"' in await everything(parts)
    done = await parts.service.personal_data.erase("bob", ROOT)
    assert done.pseudonymised_records == 2
    await require_erased(parts, "ada")


async def test_a_person_is_replaced_in_states_that_ended(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await named(parts)
    await flows.clear_flow_state("ada", FLOW)
    ended = (await load(parts)).state
    await service.personal_data.erase("bob", ROOT)
    await require_erased(parts, "ada")
    now = (await load(parts)).state
    assert (now.status, now.updated_at, now.expires_at) == ("cleared", ended.updated_at, ended.expires_at)
    with pytest.raises(FlowNotStartedError) as raised:
        await flows.execute_transition("ada", FLOW, "start")
    assert "clearedAt" in raised.value.details
    state, started = await flows.start_flow("ada", FLOW)
    assert (started, state.revision) == (True, 0)
    assert (await flows.verify_flow_history("ada", FLOW)).whole


async def test_the_erasure_of_the_owner_is_still_known(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await named(parts)
    await service.personal_data.erase("ada", ROOT)
    await service.personal_data.erase("bob", ROOT)
    await require_erased(parts, "ada")
    with pytest.raises(FlowNotStartedError) as raised:
        await flows.execute_transition("ada", FLOW, "start")
    assert "erasedAt" in raised.value.details
    assert "DE0212" not in await everything(parts)
    again = await service.personal_data.erase("ada", ROOT)
    assert len(again.receipts) == 1
    assert (await flows.verify_flow_history("ada", FLOW)).whole


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.expected_logs("state recovered", optional=True)
async def test_a_person_is_replaced_where_only_the_history_is_left(parts: Backend, ended: bool) -> None:
    service = parts.service
    await named(parts)
    if ended:
        await service.as_trusted().clear_flow_state("ada", FLOW)
    await service.background.sweep.run()
    await service.background.relay.drain(5)
    stored = await load(parts)
    await service.background.relay.deliver(stored.deliverable)
    await parts.database.collection("flow_states").delete_many({})
    await service.personal_data.erase("bob", ROOT)
    await require_erased(parts, "ada")
    status = (await load(parts)).state.status
    assert status == (
        "cleared" if ended else state_after(stored.pending[-1]).status if stored.pending else status
    )


@pytest.mark.expected_logs("damaged document", "state recovered")
async def test_a_person_is_replaced_in_damaged_states(parts: Backend) -> None:
    service = parts.service
    await named(parts)
    states = parts.database.collection("flow_states")
    await states.update_one({"_id": ADA.key}, {"$unset": {"step": ""}})
    await service.administration.recover_flow("ada", FLOW, origin=ROOT)
    assert '"bob"' in dumps(await parts.database.collection("flow_states_damaged").find({}).to_list(None))
    await states.update_one({"_id": ADA.key}, {"$set": {"revision": "x"}})
    await service.personal_data.erase("bob", ROOT)
    await service.background.relay.drain(5)
    await require_erased(parts, "ada")


async def test_the_export_has_the_own_states_alone(parts: Backend) -> None:
    await named(parts)
    found = await parts.service.personal_data.export("bob")
    assert (found.states, found.history) == ([], [])
    assert len((await parts.service.personal_data.export("ada")).history) == 3


APPROVER = {"claim": "PT15M", "assignable": True}


async def test_a_participant_of_a_flow_is_erased(parts: Backend) -> None:
    """With the operations of the service: named, acted, claimed, was refused, and waits in a list."""
    service = parts.service
    flow = flow_dict(slug="request", instances="many", participants={"approver": APPROVER})
    for name in ("go", "again"):
        flow["steps"]["a"]["transitions"][name]["roles"] = ["approver"]
    flow["steps"]["b"]["transitions"]["done"] |= {"roles": ["approver"], "notBy": ["go"]}
    await service.create_flow(flow)
    numbers = count()

    def asked(user_id: str) -> Origin:
        return Origin(Caller(user_id=user_id), request_id=f"r-{next(numbers)}")

    people = (Participant("approver", user_id="bob"), Participant("approver", user_id="cleo"))
    command = StartCommand(entity_id="R-1", payload={"n": 1}, participants=people)
    await service.start_flow("ada", "request", command, origin=asked("ada"))
    await service.execute_transition("ada", "request", "again", entity_id="R-1", origin=asked("bob"))
    await service.people.claim(
        "ada", "request", ClaimCommand("approver"), entity_id="R-1", origin=asked("bob")
    )
    await service.execute_transition("ada", "request", "go", entity_id="R-1", origin=asked("bob"))
    with pytest.raises(SeparationOfDutiesError):
        await service.execute_transition("ada", "request", "done", entity_id="R-1", origin=asked("bob"))
    await service.background.relay.drain(5)
    flows = service.as_trusted()
    assert (await flows.verify_flow_history("ada", "request", entity_id="R-1")).whole
    text = await everything(parts)
    assert "approver;user;bob" in text
    done = await service.personal_data.erase("bob", ROOT)
    assert (done.pseudonymised_states, done.pseudonymised_records) == (1, 5)
    await service.background.relay.drain(5)
    text = await everything(parts)
    assert '"bob"' not in text
    assert ";bob" not in text
    assert (await flows.verify_flow_history("ada", "request", entity_id="R-1")).whole
    state = await flows.get_flow_state("ada", "request", entity_id="R-1")
    assert state is not None
    assert state.runs is not UNSET
    assert is_pseudonym(state.runs[0].user_id)
    with pytest.raises(InsufficientPermissionsError):
        await service.execute_transition("ada", "request", "done", entity_id="R-1", origin=asked("bob"))
    cleo = Origin(Caller(user_id="cleo"))
    assert (
        await service.execute_transition("ada", "request", "done", entity_id="R-1", origin=cleo)
    ).step == "c"
    assert (await flows.verify_flow_history("ada", "request", entity_id="R-1")).whole


async def test_one_of_a_group_who_was_only_refused_is_erased(parts: Backend) -> None:
    """No commit names that person, so the state does not either."""
    service = parts.service
    flow = flow_dict(slug="request", participants={"clerk": {"group": "finance"}, "boss": {"group": "board"}})
    flow["steps"]["a"]["transitions"]["go"]["roles"] = ["boss"]
    flow["steps"]["a"]["transitions"]["again"]["roles"] = ["clerk"]
    await service.create_flow(flow)
    await service.start_flow("ada", "request", origin=trusted_origin("ada"))
    bob = Origin(Caller(user_id="bob", groups=frozenset({"finance"})))
    with pytest.raises(InsufficientPermissionsError):
        await service.execute_transition("ada", "request", "go", origin=bob)
    await service.background.relay.drain(5)
    assert '"bob"' in await everything(parts)
    done = await service.personal_data.erase("bob", ROOT)
    assert (done.pseudonymised_states, done.pseudonymised_records) == (1, 1)
    assert '"bob"' not in await everything(parts)
    assert (await service.as_trusted().verify_flow_history("ada", "request")).whole
