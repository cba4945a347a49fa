"""The same request id gives the first answer again, with no second change and no second event."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from msgspec import structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin, SetCommand, StartCommand, TransitionCommand
from app.contracts.errors import InvalidRequestError, InvalidTransitionError
from app.contracts.ports.states import IDEMPOTENCY_WINDOW, REMEMBERED_REQUESTS
from app.contracts.positions import ExpectedPosition
from app.contracts.record import request_key
from app.crypto.data_keys import DataKeys
from app.crypto.wrapping import LocalKeys
from app.services.states.idempotency import RequestFingerprints
from app.services.wiring import KeyPorts
from tests.support.fake_data_keys import FakeDataKeyStore
from tests.support.fakes import FakeStateStore
from tests.support.rig import rig


def origin(request_id: str, actor: str = "ada", **more: Any) -> Origin:
    return Origin(trusted_caller(actor), request_id=request_id, **more)


async def test_every_command_repeated_gives_its_first_answer() -> None:
    r = await rig()
    async with r.service as service:
        commands: list[Callable[[], Awaitable[object]]] = [
            lambda: service.start_flow("ada", "loop", StartCommand(service="s"), origin=origin("1")),
            lambda: service.execute_transition("ada", "loop", "again", {"a": 1}, origin=origin("2")),
            lambda: service.execute_transition("ada", "loop", "go", message="m", origin=origin("3")),
            lambda: service.reset_flow("ada", "loop", "b", origin=origin("4")),
            lambda: service.set_flow_state("ada", SetCommand(flow="loop", step="a"), origin=origin("5")),
        ]
        answers = []
        for command in commands:
            answers.append(await command())
            assert await command() == answers[-1]
        r.clock.advance(hours=1)
        for command, answer in zip(commands, answers, strict=True):
            assert await command() == answer, "also when the state has moved on"
    assert [e.revision for e in r.published] == [0, 1, 2, 3, 4]
    assert await r.kinds() == ["started", "transitioned", "transitioned", "reset", "set"]


async def test_from_another_worker_before_anything_was_delivered() -> None:
    r = await rig()
    other = r.make()
    other_flows = other.as_trusted()
    await other_flows.start_flow("ada", "loop")
    first = await other.execute_transition("ada", "loop", "again", origin=origin("k"))
    await other_flows.execute_transition("ada", "loop", "again")
    assert await r.service.execute_transition("ada", "loop", "again", origin=origin("k")) == first


async def test_another_request_with_the_same_id_is_refused_and_changes_nothing() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    await r.service.execute_transition("ada", "loop", "again", {"a": 1, "b": 2}, origin=origin("k"))
    same = {"b": 2, "a": 1}
    await r.service.execute_transition("ada", "loop", "again", same, origin=origin("k"))
    for wrong in (
        r.service.execute_transition("ada", "loop", "again", {"a": 2}, origin=origin("k")),
        r.service.execute_transition("ada", "loop", "go", {"a": 1, "b": 2}, origin=origin("k")),
        r.service.reset_flow("ada", "loop", origin=origin("k")),
    ):
        with pytest.raises(InvalidRequestError):
            await wrong
    assert r.states.stored["loop:ada"].state.revision == 1


async def test_ids_of_different_callers_do_not_meet() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    await r.service.execute_transition("ada", "loop", "again", origin=origin("k", "ada"))
    second = await r.service.execute_transition("ada", "loop", "again", origin=origin("k", "bob"))
    assert second.revision == 2


async def test_a_repeat_is_known_before_its_expected_revision_is_asked() -> None:
    r = await rig()
    state, _ = await r.flows.start_flow("ada", "loop")
    asked = origin("k", expected=ExpectedPosition(0, state.epoch))
    first = await r.service.execute_transition("ada", "loop", "again", origin=asked)
    assert await r.service.execute_transition("ada", "loop", "again", origin=asked) == first


async def test_a_refusal_is_not_remembered_as_an_answer() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    with pytest.raises(InvalidTransitionError):
        await r.service.execute_transition("ada", "loop", "back", origin=origin("k"))
    await r.flows.execute_transition("ada", "loop", "go")
    done = await r.service.execute_transition("ada", "loop", "back", origin=origin("k"))
    assert done.revision == 2


async def test_the_document_forgets_but_the_history_does_not() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
        first = await service.execute_transition("ada", "loop", "again", origin=origin("k-0"))
        for n in range(1, REMEMBERED_REQUESTS + 3):
            await service.execute_transition("ada", "loop", "again", origin=origin(f"k-{n}"))
        await service.background.relay.drain(5)
        assert await service.execute_transition("ada", "loop", "again", origin=origin("k-0")) == first
        with pytest.raises(InvalidRequestError):
            await service.execute_transition("ada", "loop", "go", origin=origin("k-0"))
        r.clock.advance(seconds=IDEMPOTENCY_WINDOW.total_seconds() + 1)
        late = await service.execute_transition("ada", "loop", "again", origin=origin("k-0"))
        assert late.revision == REMEMBERED_REQUESTS + 4, "after a day it is a new request"


async def test_the_document_alone_answers_while_nothing_can_be_forgotten() -> None:
    r = await rig()

    class Unasked(type(r.history)):  # type: ignore[misc]
        async def find_request(self, *_: Any) -> None:
            raise AssertionError("the history was asked")

    r.history = Unasked()
    service = r.make()
    await service.start_flow("ada", "loop", origin=origin("start"))
    for n in range(REMEMBERED_REQUESTS - 1):
        await service.execute_transition("ada", "loop", "again", origin=origin(f"k-{n}"))


async def test_a_start_is_known_after_the_state_was_cleared() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        first = await service.start_flow("ada", "loop", origin=origin("s"))
        assert await service.clear_flow_state("ada", "loop", origin=origin("c"))
        await service.background.relay.drain(5)
        assert await service.start_flow("ada", "loop", origin=origin("s")) == first
        assert await service.clear_flow_state("ada", "loop", origin=origin("c"))
        assert await flows.get_flow_state("ada", "loop") is None
        second, started = await service.start_flow("ada", "loop", origin=origin("s2"))
        assert (started, second.epoch != first[0].epoch) == (True, True)
        assert await service.clear_flow_state("ada", "loop", origin=origin("c")), "the first answer"
        assert await flows.get_flow_state("ada", "loop") == second


async def test_rivals_with_one_id_make_one_change() -> None:
    """The winner's commit comes between the read and the write of the other."""

    class Overtaken(FakeStateStore):
        async def commit(self, before: Any, record: Any) -> bool:
            if record.request_id == "k" and not self.overtaken:
                self.overtaken = True
                await super().commit(before, structs.replace(record, commit_id="winner"))
            return await super().commit(before, record)

        overtaken = False

    r = await rig()
    r.states = Overtaken()
    service = r.make()
    flows = service.as_trusted()
    await flows.start_flow("ada", "loop")
    state = await service.execute_transition("ada", "loop", "again", origin=origin("k"))
    assert state.revision == 1
    assert r.states.stored["loop:ada"].state.revision == 1


async def test_where_data_is_encrypted_fingerprints_are_keyed_and_older_ones_still_match() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    clear = [await r.service.execute_transition("ada", "loop", "again", {"a": 1}, origin=origin("1"))]
    wrapping = LocalKeys([b"a" * 32])
    store = FakeDataKeyStore()
    r.keys = KeyPorts(store, wrapping, DataKeys(store, wrapping, r.clock), cast(Any, None))
    keyed, other = r.make(), r.make()
    for service in (keyed, other):
        again = await service.execute_transition("ada", "loop", "again", {"a": 1}, origin=origin("1"))
        assert again == clear[0], "a repeated request of before"
        with pytest.raises(InvalidRequestError):
            await service.execute_transition("ada", "loop", "again", {"a": 2}, origin=origin("1"))
    first = await keyed.execute_transition("ada", "loop", "again", {"a": 2}, origin=origin("2"))
    assert await other.execute_transition("ada", "loop", "again", {"a": 2}, origin=origin("2")) == first
    with pytest.raises(InvalidRequestError):
        await other.execute_transition("ada", "loop", "again", {"a": 3}, origin=origin("2"))
    (before, after) = r.states.stored["loop:ada"].recent
    unkeyed = await RequestFingerprints().of("ada", "again", TransitionCommand(payload={"a": 2}), origin("2"))
    assert unkeyed is not None
    assert before.request == request_key("ada", "1")
    assert after.request != request_key("ada", "2")
    assert after.digest not in (unkeyed.digest, before.digest)
    for n in range(REMEMBERED_REQUESTS):  # the document forgets it, and the history has it
        await keyed.execute_transition("ada", "loop", "again", {"n": n}, origin=origin(f"n{n}"))
    assert await other.execute_transition("ada", "loop", "again", {"a": 2}, origin=origin("2")) == first
