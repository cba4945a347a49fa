"""The dispatcher over fakes: other transports, outages, limits, several workers, and its end."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from app.contracts.deliveries import Lane, LaneId
from app.contracts.errors import StoreUnavailableError
from app.contracts.integration import Integration
from app.services.integrations.secrets import new_secret, rotated
from app.services.integrations.send_limits import MAX_SENDS, ClosingError, SendLimits
from tests.support.dispatching import FLOW, BreakableLog, CountingLanes, Deliveries
from tests.support.fake_transports import NO_ANSWER, OK, SentWebhook, answer
from tests.support.virtual_time import START, run_virtually

HOUR = 3600
Scenario = Callable[[Deliveries], Awaitable[None]]


def integration(alias: str = "payment", **changes: Any) -> Integration:
    members = {"url": f"https://{alias}.example/", "flows": (FLOW,), **changes}
    return Integration(alias=alias, registered_at=START, updated_at=START, **members)


def play(scenario: Scenario, *integrations: Integration, workers: int = 1, **fakes: Any) -> Deliveries:
    """Play a scenario with dispatchers that run."""
    made = Deliveries(*(integrations or (integration(),)))
    for name, fake in fakes.items():
        setattr(made, name, fake)

    async def run() -> None:
        await made.prepare()
        async with made.running(*(made.dispatcher() for _ in range(workers))):
            await scenario(made)

    run_virtually(run())
    return made


async def many(made: Deliveries, count: int) -> None:
    for n in range(count):
        await made.change(f"user-{n}")


def test_a_service_that_polls_has_its_events_in_the_log() -> None:
    async def scenario(made: Deliveries) -> None:
        await made.change("ada")
        await made.change("ada", "go", "back")
        await asyncio.sleep(20)

    made = play(scenario, integration(url=None))
    assert made.revisions("payment", "ada") == [0, 1, 2]
    assert {entry.transports for entry in made.logged("payment")} == {("pull",)}
    assert not made.webhooks.sent


def test_events_go_to_the_webhook_then_to_the_stream_then_to_the_log() -> None:
    async def scenario(made: Deliveries) -> None:
        made.streams.broken, made.streams.room = True, 1
        await made.change("ada")
        await made.change("ada", "go")
        await asyncio.sleep(600)
        assert len(made.webhooks.sent) == 2, "an outage of Redis repeats no webhook"
        assert not made.logged("payment")
        made.streams.broken = False
        await asyncio.sleep(600)

    made = play(scenario, integration(stream=True))
    sent = [request.event_id for request in made.webhooks.sent]
    assert list(dict.fromkeys(made.streams.ids("payment"))) == sent
    assert [entry.id for entry in made.logged("payment")] == sent
    assert made.logged("payment")[0].transports == ("webhook", "stream", "pull")
    assert made.streams.events("payment")[-1] == made.webhooks.sent[-1].event


def test_events_of_a_stream_are_sealed_with_the_newest_secret() -> None:
    made = Deliveries(integration(stream=True, url=None, secrets=(new_secret(START),)))

    async def run() -> None:
        await made.prepare()
        dispatcher = made.dispatcher(structs.replace(made.ports, seals_streams=True))
        async with made.running(dispatcher):
            await made.change("ada")
            await asyncio.sleep(20)
            (before,) = made._registered
            rotated_secrets = rotated(before.secrets, new_secret(START), START, timedelta(days=1))
            await made.register(
                structs.replace(before, secrets=rotated_secrets, revision=before.revision + 1)
            )
            dispatcher.review()
            await made.change("ada", "go")
            await asyncio.sleep(20)

    run_virtually(run())
    (after,) = made._registered
    assert made.streams.seals["payment"] == [after.secrets[1].id, after.secrets[0].id]


def test_events_of_a_stream_are_in_the_clear_without_encryption() -> None:
    async def scenario(made: Deliveries) -> None:
        await made.change("ada")
        await asyncio.sleep(20)

    made = play(scenario, integration(stream=True, url=None, secrets=(new_secret(START),)))
    assert made.streams.seals["payment"] == [None]


class BreakableLanes(CountingLanes):
    """Lanes of a store that is unavailable while ``fails``; ``refused`` counts commands."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.refused = 0

    def _check(self) -> None:
        if self.fails:
            self.refused += 1
            raise StoreUnavailableError

    async def list_due(self, alias: str, now: Any, limit: int) -> list[LaneId]:
        self._check()
        return await super().list_due(alias, now, limit)

    async def claim(self, ids: Any, holder: str, now: Any, until: Any) -> list[Lane]:
        self._check()
        return await super().claim(ids, holder, now, until)

    async def release(self, updates: Any, now: Any) -> None:
        self._check()
        await super().release(updates, now)


def test_an_outage_of_the_store_loses_nothing_and_costs_little() -> None:
    lanes = BreakableLanes()

    async def scenario(made: Deliveries) -> None:
        await many(made, 20)
        async with made.webhooks.holding("payment"):
            await made.webhooks.arrived(5)
            lanes.fails = made.log.fails = True
            made.registrations.failure = StoreUnavailableError()
        await asyncio.sleep(HOUR)
        assert lanes.refused < HOUR
        assert len(made.webhooks.sent) <= 20
        lanes.fails = made.log.fails = False
        made.registrations.failure = None
        await asyncio.sleep(600)

    made = play(scenario, lanes=lanes)
    assert len({entry.id for entry in made.logged("payment")}) == 20
    assert made.registrations.health["payment"].internal == 0


class PoisonLog(BreakableLog):
    """A log that cannot store the events of ``eve``."""

    async def append(self, alias: str, deliveries: Any) -> int:
        if any(delivery.state_id.user_id == "eve" for delivery in deliveries):
            raise ValueError
        return await super().append(alias, deliveries)


@pytest.mark.expected_logs("deliveries not stored")
def test_a_delivery_that_cannot_be_stored_holds_up_only_its_state() -> None:
    async def scenario(made: Deliveries) -> None:
        for user in ("ada", "eve", "bob"):
            await made.change(user)
        await asyncio.sleep(2)

    made = play(scenario, log=PoisonLog())
    assert {entry.state_id.user_id for entry in made.logged("payment")} == {"ada", "bob"}
    lane = made.lane("payment", "eve")
    assert lane.failures
    assert lane.attempts[-1].reason == "internal"


def test_concurrency_is_bounded() -> None:
    async def scenario(made: Deliveries) -> None:
        async with made.webhooks.holding("payment"), made.webhooks.holding("mail"):
            await many(made, 200)
            await asyncio.sleep(10)
        await asyncio.sleep(60)

    made = play(scenario, integration(concurrency=7), integration("mail", concurrency=500))
    assert made.webhooks.peak["payment"] == 7
    assert MAX_SENDS // 3 <= made.webhooks.peak["mail"] <= MAX_SENDS // 2
    assert len(made.logged("payment")) >= 200


def test_the_rate_is_that_of_all_workers() -> None:
    async def scenario(made: Deliveries) -> None:
        await many(made, 40)
        await asyncio.sleep(120)

    times: list[int] = []
    made = Deliveries(integration(rate=3))

    def answering(_: SentWebhook) -> Any:
        times.append(int(made.clock.now().timestamp()))
        return OK

    made.webhooks.script("payment", answering)

    async def run() -> None:
        await made.prepare()
        async with made.running(made.dispatcher(), made.dispatcher()):
            await scenario(made)

    run_virtually(run())
    assert len(times) == 40
    assert max(times.count(second) for second in times) == 3


@pytest.mark.expected_logs("breaker opened")
def test_workers_share_the_work_and_the_breaker() -> None:
    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", NO_ANSWER)
        await many(made, 100)
        await asyncio.sleep(2 * HOUR)
        assert len(made.webhooks.sent) < 60, "probes are made by one worker at a time"
        made.webhooks.script("payment", OK)
        await asyncio.sleep(2 * HOUR)

    made = Deliveries(integration())

    async def run() -> None:
        await made.prepare()
        async with made.running(*(made.dispatcher(workers=lambda: 3) for _ in range(3))):
            await scenario(made)

    run_virtually(run())
    assert len(made.logged("payment")) == 100
    assert made.registrations.health["payment"].breaker == "closed"


def test_a_crashed_worker_s_lanes_are_delivered_after_their_claim() -> None:
    async def scenario(made: Deliveries) -> None:
        (record,) = await made.change("ada")
        now = made.clock.now()
        lane = LaneId("payment", made.mark_of("payment", record).state_id)
        until = now.replace(minute=now.minute + 1)
        assert await made.lanes.claim([lane], "dead worker", now, until)
        await asyncio.sleep(55)
        assert not made.webhooks.sent
        await asyncio.sleep(25)
        assert len(made.webhooks.sent) == 1

    play(scenario)


def test_requests_in_progress_end_before_the_worker_does() -> None:
    made = Deliveries(integration(concurrency=2))

    async def slowly(_: SentWebhook) -> Any:
        await asyncio.sleep(2)
        return OK

    made.webhooks.script("payment", slowly)

    async def run() -> None:
        await made.prepare()
        await many(made, 6)
        async with made.running(made.dispatcher()):
            await made.webhooks.arrived(2)
        assert len(made.webhooks.sent) == 2, "no other one begins"
        assert len(made.logged("payment")) == 2
        assert not any(lane.holder for lane in made.lanes.lanes.values()), "all claims are released"
        waiting = [lane for lane in made.lanes.lanes.values() if lane.due_at is not None]
        assert len(waiting) == 4
        assert not any(lane.attempts for lane in waiting)

    run_virtually(run())


def test_a_request_that_does_not_end_is_repeated_later() -> None:
    made = Deliveries(integration())

    async def run() -> None:
        await made.prepare()
        await made.change("ada")
        async with made.webhooks.holding("payment"):
            async with made.running(made.dispatcher()):
                await made.webhooks.arrived(1)
            assert made.clock.now().timestamp() - START.timestamp() < 5
        assert made.lane("payment", "ada").holder == ""
        async with made.running(made.dispatcher()):
            await asyncio.sleep(20)

    run_virtually(run())
    assert made.revisions("payment", "ada") == [0]
    assert len(made.webhooks.sent) == 2


def test_a_changed_registration_is_used_for_the_next_event() -> None:
    async def scenario(made: Deliveries) -> None:
        await made.change("ada")
        await made.change("ada", "go")
        async with made.webhooks.holding("https://payment.example/"):
            await made.webhooks.arrived(1)
            await made.register(integration(url="https://new.example/", revision=1))
            await asyncio.sleep(2)
        await asyncio.sleep(20)

    made = play(scenario)
    assert [request.url for request in made.webhooks.sent] == [
        "https://payment.example/",
        "https://new.example/",
    ]


def test_a_removed_integration_gets_nothing_more() -> None:
    async def scenario(made: Deliveries) -> None:
        await made.change("ada")
        await asyncio.sleep(20)
        await made.unregister("payment")
        await asyncio.sleep(20)
        await made.register(integration("mail"))
        await made.change("ada", "go")
        await asyncio.sleep(20)

    made = play(scenario)
    assert [request.alias for request in made.webhooks.sent] == ["payment", "mail", "mail"]


def test_a_slow_receiver_is_asked_less() -> None:
    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", answer(429, retry_after="40"), OK)
        await made.change("ada")
        await asyncio.sleep(30)
        assert len(made.webhooks.sent) == 1
        assert made.registrations.health["payment"].allowed == 5
        await asyncio.sleep(30)

    made = play(scenario)
    assert made.revisions("payment", "ada") == [0]
    assert made.logged("payment")[0].attempts == 2


async def granted(limits: SendLimits, alias: str, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(limits.take(alias)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def done(tasks: list[asyncio.Task[None]]) -> int:
    return sum(task.done() and not task.cancelled() for task in tasks)


async def test_one_integration_gets_half_of_the_senders_two_a_third_each() -> None:
    limits = SendLimits(12)
    for alias in "abc":
        limits.set_limit(alias, 100)
    first = await granted(limits, "a", 20)
    assert done(first) == 6
    second = await granted(limits, "b", 20)
    assert done(second) == 3
    for _ in range(2):
        limits.give_back("a")
    await asyncio.sleep(0)
    assert (done(first), done(second)) == (6, 4), "what is given back goes to those with less"
    third = await granted(limits, "c", 1)
    assert done(third) == 1, "one is always free"
    limits.close()
    await asyncio.sleep(0)
    results = await asyncio.gather(*first, *second, return_exceptions=True)
    assert sum(isinstance(result, ClosingError) for result in results) == 30
    with pytest.raises(ClosingError):
        await limits.take("c")


async def test_a_cancelled_wait_costs_no_sender() -> None:
    limits = SendLimits(4)
    limits.set_limit("a", 1)
    await limits.take("a")
    waiting, other = await granted(limits, "a", 2)
    waiting.cancel()
    limits.give_back("a")  # goes to the one that is cancelled, or to the other one
    await asyncio.gather(waiting, return_exceptions=True)
    await other
    limits.give_back("a")
    await limits.take("a")


def test_a_worker_that_ends_during_a_claim_releases_the_lanes() -> None:
    """Otherwise they would wait for the end of the claim, a minute."""
    made = Deliveries(integration())

    async def run() -> None:
        await made.prepare()
        made.lanes.answer_seconds = 0.5
        async with made.running(made.dispatcher()):
            await made.change("ada")
            await made.lanes.claimed.wait()
        lane = made.lane("payment", "ada")
        assert lane.holder == ""
        assert lane.due_at is not None
        assert lane.due_at <= made.clock.now()

    run_virtually(run())
    assert made.webhooks.sent == []
