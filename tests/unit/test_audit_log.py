"""The audit log: pairs of entries around acts, outages of its store, and many writers."""

import asyncio
import re

import pytest
from msgspec import UNSET

from app.contracts.audit import AuditEntry, AuditFilter
from app.contracts.callers import Caller, service_caller, trusted_caller
from app.contracts.errors import FlowNotFoundError, StoreUnavailableError
from app.services.audit.log import CANCELLED, SERVER_FLOW, AuditLog
from app.services.audit.source import ActSource, acting_from
from tests.support.fake_audit import FakeAuditStore
from tests.support.fakes import FakeClock, FakeSecretStore

ROOT = Caller("root")


class World:
    def __init__(self) -> None:
        self.store = FakeAuditStore()
        self.log = AuditLog(self.store, FakeSecretStore(), FakeClock())

    def outcomes(self) -> list[tuple[str, str]]:
        return [(e.act.action, e.outcome) for e in self.store.entries if isinstance(e, AuditEntry)]

    def newest(self) -> AuditEntry:
        found = self.store.entries[-1]
        assert isinstance(found, AuditEntry)
        return found


@pytest.fixture
def world() -> World:
    return World()


async def test_an_act_has_an_entry_before_it_and_one_after_it(world: World) -> None:
    async with world.log.act("flow.purge", "states", ROOT, before="b", details={"x": 1}) as act:
        assert world.outcomes() == [("flow.purge", "started")]
        act.after = "a"
        act.details["ended"] = 3
    assert world.outcomes() == [("flow.purge", "started"), ("flow.purge", "done")]
    done = world.newest()
    assert (done.of, done.act.before, done.act.after) == (1, "b", "a")
    assert done.act.details == {"x": 1, "ended": 3}
    assert (await world.log.verify()).broken is None


async def test_a_failed_act_names_the_code_of_its_error(world: World) -> None:
    with pytest.raises(FlowNotFoundError):
        async with world.log.act("x.y", "t", ROOT):
            raise FlowNotFoundError("order")
    assert (world.newest().outcome, world.newest().error) == ("failed", "FLOW_NOT_FOUND")
    with pytest.raises(ZeroDivisionError):
        async with world.log.act("x.y", "t", ROOT):
            raise ZeroDivisionError
    assert (world.newest().outcome, world.newest().error) == ("failed", "INTERNAL_ERROR")


async def test_an_act_whose_first_entry_cannot_be_stored_is_refused(world: World) -> None:
    world.store.unavailable = True
    ran = False
    with pytest.raises(StoreUnavailableError):
        async with world.log.act("x.y", "t", ROOT):
            ran = True
    assert not ran


async def test_a_cancelled_act_has_failed(world: World) -> None:
    began = asyncio.Event()

    async def work() -> None:
        async with world.log.act("x.y", "t", ROOT):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    await asyncio.wait([task])
    await world.log.close()
    assert (world.newest().outcome, world.newest().error) == ("failed", CANCELLED)


@pytest.mark.expected_logs("audit entry delayed")
async def test_the_entry_after_an_act_is_stored_after_an_outage(world: World) -> None:
    async with world.log.act("x.y", "t", ROOT):
        world.store.unavailable = True
    assert world.outcomes() == [("x.y", "started")]
    world.store.unavailable = False
    await world.log.close()
    assert world.outcomes() == [("x.y", "started"), ("x.y", "done")]


@pytest.mark.expected_logs("audit entry delayed", "audit entries lost")
async def test_an_act_without_a_second_entry_is_reported_as_unfinished(world: World) -> None:
    async with world.log.act("x.y", "t", ROOT):
        world.store.unavailable = True
    await world.log.close()
    world.store.unavailable = False
    found = await world.log.verify()
    assert (found.broken, found.unfinished) == (None, (1,))


@pytest.mark.expected_logs("audit entry delayed")
async def test_an_entry_that_was_stored_without_an_answer_is_not_stored_twice(world: World) -> None:
    async with world.log.act("x.y", "t", ROOT):
        world.store.loses_answers = True
    world.store.loses_answers = False
    await world.log.close()
    assert world.outcomes() == [("x.y", "started"), ("x.y", "done")]


async def test_concurrent_acts_of_workers_make_one_chain(world: World) -> None:
    other = AuditLog(world.store, FakeSecretStore(), FakeClock())

    async def act(log: AuditLog) -> None:
        async with log.act("x.y", "t", ROOT):
            await asyncio.sleep(0)

    await asyncio.gather(*(act(log) for log in (world.log, other) for _ in range(30)))
    found = await world.log.verify()
    assert (found.entries, found.unfinished, found.broken) == (120, (), None)
    assert found.head == world.newest().hash


@pytest.mark.parametrize(
    ("by", "source", "expected"),
    [
        (ROOT, ActSource("http", "192.0.2.1", "r-1"), ("root", "http", "192.0.2.1", "r-1")),
        (service_caller("billing"), ActSource("http"), ("service:billing", "http", UNSET, UNSET)),
        (
            trusted_caller("command-line"),
            ActSource("cli", account="ops"),
            ("cli:ops", "cli", UNSET, UNSET),
        ),
        ("command-line", ActSource("cli", account="ops"), ("cli:ops", "cli", UNSET, UNSET)),
        (trusted_caller("ada"), ActSource(), ("python", "python", UNSET, UNSET)),
        (SERVER_FLOW, ActSource("cli", account="ops"), (SERVER_FLOW, "service", UNSET, UNSET)),
    ],
)
async def test_actors_and_sources(
    world: World, by: Caller | str, source: ActSource, expected: tuple[object, ...]
) -> None:
    with acting_from(source):
        async with world.log.act("x.y", "t", by):
            pass
    act = world.newest().act
    assert (act.actor, act.client, act.address, act.request_id) == expected


async def test_a_user_is_named_by_a_pseudonym_that_the_same_secret_finds(world: World) -> None:
    async with world.log.act("state.set", "state:order", ROOT, user_id="ada"):
        pass
    subject = await world.log.pseudonyms.user("ada")
    assert "ada" not in re.findall(r"\w+", str(world.store.entries))  # a hash may have these letters
    page = await world.log.page(0, 10, AuditFilter(subject=subject))
    assert [entry.sequence for entry in page.items] == [1, 2]
    assert await world.log.pseudonyms.user("bob") != subject
    assert await AuditLog(world.store, FakeSecretStore(), FakeClock()).pseudonyms.user("ada") != subject
