"""The states that wait at the steps of an integration, over fakes."""

from datetime import timedelta

import pytest
from msgspec import structs

from app.contracts.callers import ADMIN, SERVICE, Caller, service_caller
from app.contracts.commands import Origin, PauseCommand, StartCommand
from app.contracts.deliveries import LaneId
from app.contracts.errors import (
    InsufficientPermissionsError,
    InvalidRequestError,
    ServiceNotFoundError,
)
from app.contracts.integration import Integration
from app.contracts.state import StateId
from app.services.integrations.pending import MAX_LISTINGS, PendingPage
from tests.support.integrations import checkout_dict, integration
from tests.support.rig import Rig
from tests.support.samples import PROGRAM

PAYMENT = service_caller("payment")
ADMINISTRATOR = Caller("root", scopes=frozenset({ADMIN}))
ORIGIN = Origin(PROGRAM)


async def rig(*aliases: str) -> Rig:
    """A rig with the checkout, for which services are registered."""
    made = Rig()
    await made.service.create_flow(checkout_dict())
    for alias in aliases:
        await register(made, alias)
    return made


async def register(r: Rig, alias: str) -> Integration:
    made = integration(alias)
    made = structs.replace(made, registered_at=r.clock.now(), updated_at=r.clock.now())
    assert await r.service.integrations.registry.add(made)
    return made


async def order(r: Rig, *users: str) -> None:
    """Bring a state of each user to the step ``pay``, a minute apart, and deliver the records."""
    for user in users:
        await r.flows.start_flow(user, "checkout", StartCommand(service="parcels"))
        await run(r, user, "order")
    await deliver(r)


async def run(r: Rig, user: str, transition: str) -> None:
    r.clock.advance(minutes=1)
    await r.flows.execute_transition(user, "checkout", transition)


async def deliver(r: Rig) -> None:
    assert await r.service.background.relay.drain(5)


async def listed(r: Rig, alias: str = "payment", **selection: object) -> list[str]:
    page = await pending(r, alias, **selection)
    return [item.state.user_id for item in page.items]


async def pending(r: Rig, alias: str = "payment", **selection: object) -> PendingPage:
    pages = r.service.integrations.pending
    return await pages.list_page(alias, service_caller(alias), **selection)  # type: ignore[arg-type]


async def test_the_states_that_wait_longest_come_first() -> None:
    r = await rig("payment")
    async with r.service:
        await order(r, "zoe", "ada", "bob")
        page = await pending(r)
        assert [item.state.user_id for item in page.items] == ["zoe", "ada", "bob"]
        assert [item.since for item in page.items] == sorted(item.since for item in page.items)
        assert page.items[0].since == page.items[0].state.updated_at
        assert [each.transition for each in page.items[0].state.transitions] == ["paid", "again", "cancel"]
        assert page.next is None


async def test_pages_continue_where_the_one_before_ended() -> None:
    r = await rig("payment")
    async with r.service:
        await order(r, *"abcde")
        first = await pending(r, limit=2)
        assert [item.state.user_id for item in first.items] == ["a", "b"]
        second = await pending(r, limit=2, after=first.next)
        third = await pending(r, limit=2, after=second.next)
        assert [item.state.user_id for item in (*second.items, *third.items)] == ["c", "d", "e"]
        assert third.next is None


async def test_a_state_that_goes_on_is_not_listed_any_more() -> None:
    r = await rig("payment", "parcels", "notification")
    async with r.service:
        await order(r, "ada", "bob")
        await run(r, "ada", "paid")
        await deliver(r)
        assert await listed(r) == ["bob"]
        assert await listed(r, "parcels") == ["ada"]
        await run(r, "ada", "sent")
        await deliver(r)
        assert await listed(r, "parcels") == []
        assert await listed(r, "notification") == [], "a completed state waits for nobody"


async def test_a_note_that_is_late_is_corrected_by_the_reader() -> None:
    r = await rig("payment")
    async with r.service:
        await order(r, "ada", "bob")
    other = r.make()  # a worker whose relay does not run
    await other.as_trusted().execute_transition("ada", "checkout", "paid")
    assert LaneId("payment", StateId("checkout", "ada")).key in r.lanes.waiting
    assert await listed(r) == ["bob"]
    assert LaneId("payment", StateId("checkout", "ada")).key not in r.lanes.waiting


async def test_a_paused_state_waits_after_it_is_resumed() -> None:
    r = await rig("payment")
    async with r.service:
        await order(r, "ada")
        before = (await pending(r)).items[0].since
        r.clock.advance(minutes=1)
        await r.service.administration.pause_flow(
            "ada", "checkout", PauseCommand(reason="checks"), origin=ORIGIN
        )
        await deliver(r)
        assert await listed(r) == []
        r.clock.advance(minutes=1)
        await r.service.administration.resume_flow("ada", "checkout", origin=ORIGIN)
        await deliver(r)
        (item,) = (await pending(r)).items
        assert item.since == before + timedelta(minutes=2)


async def test_states_of_a_flow_or_at_a_step() -> None:
    r = await rig("payment")
    second = checkout_dict("other")
    second["steps"]["cart"]["service"] = "payment"
    await r.service.create_flow(second)
    async with r.service:
        await order(r, "ada")
        r.clock.advance(minutes=1)
        await r.flows.start_flow("bob", "other")
        await deliver(r)
        assert await listed(r) == ["ada", "bob"]
        assert await listed(r, flow_id="other") == ["bob"]
        assert await listed(r, step="pay") == ["ada"]
        assert await listed(r, flow_id="other", step="pay") == []
        assert (await pending(r, limit=1, step="cart")).items[0].state.user_id == "bob", "pages are filled"


async def test_a_page_ends_after_some_parts_of_the_list_without_a_result() -> None:
    r = await rig("payment")
    async with r.service:
        await order(r, *"abcdefg")
        page = await pending(r, limit=1, step="cart")
        assert page.items == []
        assert page.next is not None
        assert ";checkout:e" in page.next
        assert MAX_LISTINGS == 5
        assert (await pending(r, limit=1, step="cart", after=page.next)).next is None


async def test_an_expired_state_is_not_shown() -> None:
    r = Rig(state_ttl=timedelta(hours=1))
    await r.service.create_flow(checkout_dict())
    await register(r, "payment")
    async with r.service:
        await order(r, "ada")
        r.clock.advance(hours=2)
        assert await listed(r) == []


async def test_only_the_service_itself_and_administrators_may_read() -> None:
    r = await rig("payment", "user")
    async with r.service:
        await order(r, "ada")
        pages = r.service.integrations.pending
        assert (await pages.list_page("payment", ADMINISTRATOR)).items
        others = [
            service_caller("user"),
            Caller("ada"),
            Caller("ada", scopes=frozenset({SERVICE})),
        ]
        for alias in ("payment", "unknown"):
            for caller in others:
                with pytest.raises(InsufficientPermissionsError):
                    await pages.list_page(alias, caller)
        with pytest.raises(ServiceNotFoundError):
            await pages.list_page("unknown", ADMINISTRATOR)
        with pytest.raises(InvalidRequestError):
            await pages.list_page("user", service_caller("user"), after="payment;0;checkout:a")


async def test_states_that_waited_before_the_registration_are_listed() -> None:
    r = await rig()
    async with r.service:
        await order(r, "ada", "bob", "cleo")
        await r.flows.start_flow("dora", "checkout")
        waited = r.clock.now()
        await register(r, "payment")
        r.clock.advance(seconds=1)
        await r.service.integrations.waiting_backfill.run()
        page = await pending(r)
        assert (list(page.items), page.complete) == ([], False), "it waits for all workers"
        r.clock.advance(minutes=1)
        await run(r, "bob", "again")
        await deliver(r)
        await r.service.integrations.waiting_backfill.run()
        page = await pending(r)
        assert [item.state.user_id for item in page.items] == ["ada", "cleo", "bob"]
        assert page.items[0].since < waited < page.items[-1].since
        assert page.complete
        assert all(lane.since >= waited for lane in r.lanes.lanes.values()), "nothing before is delivered"


async def test_the_backfill_finds_states_on_earlier_versions_and_of_targets() -> None:
    r = await rig()
    async with r.service:
        await order(r, "ada", "bob")
        await run(r, "bob", "paid")
        await deliver(r)
        changed = checkout_dict()
        changed["steps"]["pay"]["service"] = "other"
        await r.service.update_flow("checkout", {"steps": changed["steps"]})
        for alias in ("payment", "parcels", "other"):
            await register(r, alias)
        r.clock.advance(minutes=1)
        await r.service.integrations.waiting_backfill.run()
        assert await listed(r) == ["ada"]
        assert await listed(r, "parcels") == ["bob"]
        assert await listed(r, "other") == []


async def test_the_backfill_ends_and_retains_the_revision_of_a_registration() -> None:
    r = await rig("payment")
    r.clock.advance(minutes=1)
    await r.service.integrations.waiting_backfill.run()
    stored = await r.registrations.get("payment")
    assert stored is not None
    assert (stored.waiting_listed, stored.revision) == (True, 0)
    async with r.service:
        await order(r, "ada")
    r.lanes.lanes.clear()
    await r.service.integrations.waiting_backfill.run()
    assert r.lanes.lanes == {}, "it is done once"


async def test_the_backfill_does_not_touch_a_registration_that_was_made_anew() -> None:
    r = await rig("payment")
    old = await r.service.integrations.registry.stored("payment")
    r.clock.advance(minutes=1)
    await r.registrations.delete("payment")
    await r.registrations.put(structs.replace(old, registered_at=r.clock.now()), None)
    await r.service.integrations.waiting_backfill.run()
    stored = await r.registrations.get("payment")
    assert stored is not None
    assert not stored.waiting_listed
