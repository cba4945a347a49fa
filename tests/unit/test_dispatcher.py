"""The dispatcher over fakes, in virtual time: who gets which event when, whatever fails."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.integration import Integration, IntegrationHealth
from app.contracts.ports.transports import WebhookAnswer
from app.contracts.state import StateId
from app.services.integrations import dispatch_loop, dispatcher
from app.services.integrations.breaker import OPENS_AFTER
from app.services.integrations.dispatch_loop import OPEN_CHECK_SECONDS
from app.services.integrations.retry_schedule import DELAYS_SECONDS, MAX_ATTEMPTS
from tests.support.dispatching import FLOW, Deliveries
from tests.support.fake_transports import NO_ANSWER, OK, SentWebhook, answer
from tests.support.long_form import form
from tests.support.virtual_time import START, run_virtually

HOUR = 3600
Scenario = Callable[[Deliveries], Awaitable[None]]


def integration(alias: str = "payment", **changes: Any) -> Integration:
    members = {"url": f"https://{alias}.example/", "flows": (FLOW,), **changes}
    return Integration(alias=alias, registered_at=START, updated_at=START, **members)


def play(scenario: Scenario, *integrations: Integration, **options: Any) -> Deliveries:
    """Play a scenario with a dispatcher that runs."""
    made = Deliveries(*(integrations or (integration(),)), **options)

    async def run() -> None:
        await made.prepare()
        async with made.running(made.dispatcher()):
            await scenario(made)

    run_virtually(run())
    return made


def of_user(user: str, failing: WebhookAnswer, otherwise: WebhookAnswer = OK) -> Any:
    """Answer requests about one user so."""

    def answering(request: SentWebhook) -> WebhookAnswer:
        return failing if request.event["data"]["userId"] == user else otherwise

    return answering


def test_events_of_a_state_arrive_in_order() -> None:
    async def scenario(made: Deliveries) -> None:
        await made.change("ada")
        await made.change("ada", "go", "back", "go")
        await asyncio.sleep(20)

    made = play(scenario)
    assert made.revisions("payment", "ada") == [0, 1, 2, 3]
    assert [each.event["data"]["revision"] for each in made.webhooks.sent] == [0, 1, 2, 3]
    assert [entry.id for entry in made.logged("payment")] == [each.event_id for each in made.webhooks.sent]
    assert made.lane("payment", "ada").due_at is None


def test_an_offered_change_is_delivered_at_once_and_not_read() -> None:
    made = Deliveries(integration())

    async def run() -> None:
        await made.prepare()
        worker = made.dispatcher()
        async with made.running(worker):
            await asyncio.sleep(5)
            records = await made.change("ada")
            made.rig.states.stored.clear()  # nothing can be read
            worker.offer("payment", records)
            await made.webhooks.arrived(1)
            assert made.clock.now() == START + timedelta(seconds=5)

    run_virtually(run())
    assert made.revisions("payment", "ada") == [0]


def test_a_failed_job_is_offered_again() -> None:
    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", answer(500), answer(503), OK)
        await made.change("ada")
        await asyncio.sleep(HOUR)

    made = play(scenario)
    assert len(made.webhooks.sent) == 3
    assert len({each.event_id for each in made.webhooks.sent}) == 1, "every attempt has the same id"
    (entry,) = made.logged("payment")
    assert entry.attempts == 3
    assert made.registrations.health["payment"].failed == 2


@pytest.mark.expected_logs("events became dead letters")
def test_a_poison_message_is_a_dead_letter_and_not_an_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "REVIEW_SECONDS", 600.0)
    monkeypatch.setattr(dispatch_loop, "MAX_POLL_SECONDS", 600.0)

    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", of_user("eve", answer(500)))
        await made.change("eve")
        for user in "abcdefgh":
            await asyncio.sleep(12 * HOUR)
            await made.change(user)
        await asyncio.sleep(2 * sum(DELAYS_SECONDS))

    made = play(scenario)
    (letter,) = made.letters.letters.values()
    assert letter.state_id == StateId(FLOW, "eve")
    assert (letter.reason, letter.type, letter.detail) == (
        "receiver",
        "flow.started",
        "the receiver answered 500",
    )
    assert len(letter.attempts) == MAX_ATTEMPTS
    assert isinstance(letter.event, dict)
    assert letter.event["data"]["userId"] == "eve"
    sent = [each for each in made.webhooks.sent if each.event["data"]["userId"] == "eve"]
    assert len(sent) == MAX_ATTEMPTS
    assert made.lane("payment", "eve").due_at is None
    assert {entry.state_id.user_id for entry in made.logged("payment")} == set("abcdefgh")


@pytest.mark.expected_logs("events became dead letters")
def test_the_receiver_has_the_final_word() -> None:
    async def scenario(made: Deliveries) -> None:
        final = answer(422, {"error": {"final": True, "reason": "no such order"}})
        made.webhooks.script("payment", final, answer(200, webhook_delivery="abort-message"), OK)
        await made.change("ada")
        await made.change("ada", "go", "back")
        await asyncio.sleep(20)

    made = play(scenario)
    first, second = made.letters.letters.values()
    assert first.detail == "the receiver refused the event for good: no such order"
    assert second.detail == "the receiver refused the event for good"
    assert made.revisions("payment", "ada") == [2], "the lane goes on"
    assert len(made.webhooks.sent) == 3


def test_a_failing_state_holds_up_only_itself() -> None:
    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", of_user("eve", answer(500)))
        for user in ("eve", "ada", "bob"):
            await made.change(user)
            await made.change(user, "go")
        await asyncio.sleep(3)

    made = play(scenario, integration(), integration("mail"))
    assert made.revisions("payment", "ada") == [0, 1]
    assert made.revisions("payment", "bob") == [0, 1]
    assert made.revisions("payment", "eve") == []
    assert made.revisions("mail", "eve") == [0, 1]
    assert {each.event["data"]["revision"] for each in made.webhooks.to("payment")} == {0, 1}
    eve = [e for e in made.webhooks.to("payment") if e.event["data"]["userId"] == "eve"]
    assert {each.event["data"]["revision"] for each in eve} == {0}, "later events of the state wait"


@pytest.mark.parametrize("disabling", [answer(410), answer(500, webhook_delivery="disable")])
def test_events_of_a_disabled_receiver_are_not_gone(disabling: WebhookAnswer) -> None:
    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", disabling)
        await made.change("ada")
        await asyncio.sleep(5)
        await made.change("ada", "go", "back")
        await made.change("bob")
        await asyncio.sleep(HOUR)
        assert len(made.webhooks.sent) == 1
        assert [alias for alias, _ in made.disabled] == ["payment"]
        made.webhooks.script("payment", OK)
        stored = made.registrations.integrations["payment"]
        await made.register(structs.replace(stored, enabled=True, revision=stored.revision + 1))
        await asyncio.sleep(20)

    made = play(scenario)
    assert made.revisions("payment", "ada") == [0, 1, 2]
    assert made.revisions("payment", "bob") == [0]
    assert not made.letters.letters


def answer_at_b(request: SentWebhook) -> WebhookAnswer:
    at_b = request.event["data"]["step"] == "b"
    return answer(200, {"transition": "pay", "payload": {"paid": True}}) if at_b else OK


def test_a_repaired_service_is_not_started_twice() -> None:
    """It gets each event with the same id, and the transition that it answers is made once."""
    made = Deliveries(integration(events=("flow.step.entered",)))
    made.webhooks.script("payment", answer_at_b)

    async def run() -> None:
        await made.prepare()
        await made.change("ada")
        await made.change("ada", "go")
        with made.log.failing():  # the worker dies after the answer, before that is stored
            async with made.running(made.dispatcher()):
                await made.webhooks.arrived(1)
                await asyncio.sleep(10)
        assert [record.transition for record in made.records("ada")] == ["started", "go", "pay"]
        async with made.running(made.dispatcher()):
            await asyncio.sleep(2 * HOUR)

    run_virtually(run())
    first, second = made.webhooks.sent
    assert first == second
    assert [record.transition for record in made.records("ada")] == ["started", "go", "pay"]
    last = made.records("ada")[-1]
    assert (last.actor, last.payload, last.request_id) == ("service:payment", {"paid": True}, first.event_id)
    (entry,) = made.logged("payment")
    assert (entry.answered, entry.refused) == ("pay", UNSET)


def test_a_refused_answer_is_noted_and_the_event_is_delivered() -> None:
    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", answer(200, {"transition": "fly"}), answer(200, {"transition": 7}))
        await made.change("ada")
        await made.change("ada", "go")
        await asyncio.sleep(20)

    made = play(scenario)
    first, second = made.logged("payment")
    assert (first.answered, first.refused) == ("fly", "INVALID_TRANSITION")
    assert (second.answered, second.refused) == (UNSET, "INVALID_REQUEST")
    assert len(made.records("ada")) == 2


@pytest.mark.expected_logs("breaker opened")
def test_an_open_breaker_uses_no_attempts_and_ramps_up() -> None:
    made = Deliveries(integration(concurrency=4))
    users = [f"user-{n:02}" for n in range(40)]

    async def run() -> None:
        await made.prepare()
        for user in users:
            await made.change(user)
        async with made.running(made.dispatcher()):
            async with made.webhooks.holding("payment"):  # the first ones fail together
                made.webhooks.script("payment", NO_ANSWER)
                await made.webhooks.arrived(4)
            await asyncio.sleep(5)
            health = made.registrations.health["payment"]
            assert health.breaker == "open"
            assert OPENS_AFTER <= len(made.webhooks.sent) <= OPENS_AFTER + 3
            lists = made.lanes.lists["payment"]
            await asyncio.sleep(2)
            assert made.lanes.lists["payment"] == lists, "no query while it is open"
            await asyncio.sleep(HOUR)
            failed = [lane for lane in made.lanes.lanes.values() if lane.failures]
            assert len(failed) <= OPENS_AFTER + 3, "probes do not count"
            assert all(lane.failures <= 2 for lane in failed)
            made.webhooks.script("payment", OK)
            made.webhooks.peak.clear()
            sent = len(made.webhooks.sent)
            async with made.webhooks.holding("payment"):
                await made.webhooks.arrived(sent + 1)
                await asyncio.sleep(5)
                assert made.webhooks.running["payment"] == 1, "the probe alone"
            await asyncio.sleep(HOUR)
            assert made.registrations.health["payment"].breaker == "closed"

    run_virtually(run())
    assert {entry.state_id.user_id for entry in made.logged("payment")} == set(users)
    assert len(made.logged("payment")) == len(users)
    assert not made.letters.letters


@pytest.mark.expected_logs("breaker opened")
def test_a_probe_uses_another_lane_than_the_failing_ones() -> None:
    async def scenario(made: Deliveries) -> None:
        poison = ("eve", "mallory")

        def answering(request: SentWebhook) -> WebhookAnswer:
            return answer(500) if request.event["data"]["userId"] in poison else OK

        made.webhooks.script("payment", answering)
        for user in poison:
            await made.change(user)
        while made.registrations.health["payment"].breaker != "open":
            await asyncio.sleep(1)
            await made.lanes.make_due("payment", made.clock.now())
        attempts = len(made.webhooks.sent)
        await made.lanes.make_due("payment", made.clock.now())
        await made.change("ada")
        await asyncio.sleep(30)
        assert made.webhooks.sent[attempts].event["data"]["userId"] == "ada"
        assert made.revisions("payment", "ada") == [0]

    play(scenario)


def test_a_dead_receiver_costs_the_others_no_query() -> None:
    made = Deliveries(integration(), integration("mail"))

    async def run() -> None:
        await made.prepare()
        made.registrations.health["payment"] = IntegrationHealth(
            alias="payment", breaker="open", openings=7, next_probe_at=START + timedelta(minutes=10)
        )
        for n in range(300):
            await made.change(f"user-{n}")
        async with made.running(made.dispatcher()):
            await asyncio.sleep(60)
            assert len(made.logged("mail")) == 300
            assert made.lanes.lists["payment"] <= 1, "before its health was read"
            assert not made.webhooks.to("payment")
            assert made.lanes.claims < 20, "one command claims many lanes"
            assert made.lanes.releases < 100
            await asyncio.sleep(HOUR)

    run_virtually(run())
    assert len(made.logged("payment")) == 300


def test_an_idle_service_costs_little() -> None:
    async def scenario(made: Deliveries) -> None:
        await asyncio.sleep(HOUR)

    services = form("dispatcher: idle services", short=20, long=50)
    made = play(scenario, *(integration(f"service-{n}") for n in range(services)))
    queries = sum(made.lanes.lists.values())
    assert queries < services * HOUR / 12
    assert made.lanes.claims == 0


@pytest.mark.parametrize(("concurrency", "workers", "peak"), [(8, 2, 8), (7, 2, 6), (2, 3, 3)])
def test_workers_share_the_concurrency_of_a_service(concurrency: int, workers: int, peak: int) -> None:
    made = Deliveries(integration(concurrency=concurrency))

    async def slowly(_: SentWebhook) -> WebhookAnswer:
        await asyncio.sleep(5)
        return OK

    async def run() -> None:
        await made.prepare()
        made.webhooks.script("payment", slowly)
        async with made.running(*(made.dispatcher(workers=lambda: workers) for _ in range(workers))):
            for number in range(60):
                await made.change(f"user-{number}")
            await asyncio.sleep(HOUR)

    run_virtually(run())
    assert len(made.logged("payment")) == 60
    assert made.webhooks.peak["payment"] == peak


def test_deliveries_begin_soon_after_an_administrator_closed_the_breaker() -> None:
    made = Deliveries(integration())
    opened = IntegrationHealth(
        alias="payment", breaker="open", next_probe_at=START + timedelta(minutes=10), revision=7
    )

    async def run() -> None:
        await made.prepare()
        made.registrations.health["payment"] = opened
        await made.change("ada")
        async with made.running(made.dispatcher()):
            await asyncio.sleep(60)
            assert not made.webhooks.sent
            made.registrations.health["payment"] = IntegrationHealth(alias="payment", revision=8)
            await asyncio.sleep(2 * OPEN_CHECK_SECONDS)
            assert len(made.webhooks.sent) == 1

    run_virtually(run())


def test_a_changed_registration_is_used_at_the_next_review(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "REVIEW_SECONDS", 600.0)
    made = Deliveries(integration())

    async def run() -> None:
        await made.prepare()
        worker = made.dispatcher()
        worker.review()  # before it runs, it begins nothing
        async with made.running(worker):
            await asyncio.sleep(2)
            await made._disable("payment", "maintenance")
            worker.review()
            records = await made.change("ada")
            worker.offer("payment", records)
            await asyncio.sleep(20)

    run_virtually(run())
    assert made.webhooks.sent == []


def test_a_registration_that_was_made_anew_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have the same alias and revision; the worker saw no moment without one."""
    monkeypatch.setattr(dispatcher, "REVIEW_SECONDS", 600.0)
    made = Deliveries(integration(url="https://old.example/"))

    async def run() -> None:
        await made.prepare()
        worker = made.dispatcher()
        async with made.running(worker):
            await asyncio.sleep(2)
            await made.registrations.delete("payment")
            anew = integration(url="https://new.example/")
            await made.register(structs.replace(anew, registered_at=START + timedelta(seconds=1)))
            worker.review()
            records = await made.change("ada")
            worker.offer("payment", records)
            await asyncio.sleep(20)

    run_virtually(run())
    assert [each.url for each in made.webhooks.sent] == ["https://new.example/"]


def test_an_answer_to_an_event_of_a_life_that_has_ended_changes_nothing() -> None:
    """The state is at the same step of a new life when the old event arrives at last."""

    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", answer(500), answer_at_b, OK)
        await made.change("ada")
        await made.change("ada", "go")
        await made.webhooks.arrived(1)
        await made.flows.clear_flow_state("ada", FLOW)
        await made.change("ada")
        await made.change("ada", "go")
        await asyncio.sleep(HOUR)

    made = play(scenario, integration(events=("flow.step.entered",)))
    assert [record.transition for record in made.records("ada") if record.success][-1] == "go"
    first, *_ = made.logged("payment")
    assert (first.answered, first.refused) == ("pay", "REVISION_CONFLICT")


def test_changes_in_hand_are_read_anew_if_a_later_one_may_have_erased_them() -> None:
    made = Deliveries(integration())

    async def run() -> None:
        await made.prepare()
        worker = made.dispatcher()
        async with made.running(worker):
            await asyncio.sleep(5)
            (record,) = await made.change("ada")
            await made.change("ada", "go")
            assert record.after is not UNSET
            after = structs.replace(record.after, payload={"iban": "DE02"})
            worker.offer("payment", [structs.replace(record, after=after)])
            await made.webhooks.arrived(2)

    run_virtually(run())
    assert made.revisions("payment", "ada") == [0, 1]
    assert not any(b"DE02" in each.body for each in made.webhooks.sent)
