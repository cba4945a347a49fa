"""The dispatcher over fakes: backlogs, replays, redeliveries, and what cannot be delivered."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.callers import ADMIN, Caller
from app.contracts.deliveries import DeadLetter, DeadLetterFilter, Lane, LaneId, LanePosition
from app.contracts.integration import BacklogPolicy, Integration
from app.contracts.ports.transports import WebhookAnswer
from app.contracts.state import StateId
from app.services.audit.log import AuditLog
from app.services.integrations import dispatcher, lane_work
from app.services.integrations.letters import DeadLetterAdministration
from app.services.integrations.matching import concerns
from app.services.integrations.retry_schedule import MAX_ATTEMPTS
from tests.support.dispatching import FLOW, Deliveries
from tests.support.fake_audit import FakeAuditStore
from tests.support.fake_transports import OK, answer
from tests.support.fakes import FakeSecretStore
from tests.support.virtual_time import START, run_virtually

ROOT = Caller("root", scopes=frozenset({ADMIN}))
ADA = StateId(FLOW, "ada")
HOUR = 3600
LETTERS = "events became dead letters"
Scenario = Callable[[Deliveries], Awaitable[None]]


def integration(alias: str = "payment", **changes: Any) -> Integration:
    members = {"url": f"https://{alias}.example/", "flows": (FLOW,), **changes}
    return Integration(alias=alias, registered_at=START, updated_at=START, **members)


def play(scenario: Scenario, *integrations: Integration) -> Deliveries:
    """Play a scenario with a dispatcher that runs."""
    made = Deliveries(*(integrations or (integration(),)))

    async def run() -> None:
        await made.prepare()
        async with made.running(made.dispatcher()):
            await scenario(made)

    run_virtually(run())
    return made


async def rounds(made: Deliveries, user: str = "ada", *, every: float = 10) -> None:
    """Start a state and change it four times, at 0, 10, 20, 30 and 40 seconds."""
    await made.change(user)
    for transition in ("go", "back", "go", "back"):
        await asyncio.sleep(every)
        await made.change(user, transition)


@pytest.mark.parametrize(
    ("kind", "before", "delivered"),
    [
        ("skip", 25, [3, 4]),
        ("skip", 50, []),
        ("skip", 0, [0, 1, 2, 3, 4]),
        ("newest", 25, [2, 3, 4]),
        ("newest", 50, [4]),
        ("newest", 0, [0, 1, 2, 3, 4]),
    ],
)
def test_the_backlog_of_a_returned_service(kind: Any, before: float, delivered: list[int]) -> None:
    async def scenario(made: Deliveries) -> None:
        await rounds(made)
        policy = BacklogPolicy(kind, START + timedelta(seconds=before))
        stored = made.registrations.integrations["payment"]
        await made.register(structs.replace(stored, enabled=True, backlog=policy, revision=1))
        await asyncio.sleep(20)
        await made.change("ada", "go")
        await asyncio.sleep(20)

    made = play(scenario, integration(enabled=False))
    assert made.revisions("payment", "ada") == [*delivered, 5]
    assert made.lane("payment", "ada").due_at is None


def test_the_newest_event_of_a_backlog_is_one_that_concerns_the_service() -> None:
    async def scenario(made: Deliveries) -> None:
        await rounds(made)
        policy = BacklogPolicy("newest", START + timedelta(seconds=99))
        stored = made.registrations.integrations["payment"]
        await made.register(structs.replace(stored, enabled=True, backlog=policy, revision=1))
        made.webhooks.script("payment", answer(500), OK)
        await asyncio.sleep(30)

    made = play(scenario, integration(enabled=False, events=("flow.step.entered",)))
    assert made.revisions("payment", "ada") == [3]
    assert [request.event["data"]["revision"] for request in made.webhooks.sent] == [3, 3]
    assert made.lane("payment", "ada").due_at is None


def test_a_replay_repeats_a_range_and_says_so() -> None:
    async def scenario(made: Deliveries) -> None:
        await rounds(made)
        await asyncio.sleep(20)
        epoch = made.records("ada")[0].epoch
        job = Lane(
            id=LaneId("payment", ADA, "job-1"),
            since=START,
            cursor=LanePosition(epoch, 0),
            newest=LanePosition(epoch, 2),
            end=LanePosition(epoch, 2),
            due_at=made.clock.now(),
        )
        await made.lanes.add_jobs([job])
        await asyncio.sleep(20)

    made = play(scenario)
    assert made.revisions("payment", "ada") == [0, 1, 2, 3, 4, 1, 2]
    first, replayed = made.webhooks.sent[:5], made.webhooks.sent[5:]
    assert [request.event["replay"] for request in replayed] == [True, True]
    assert [request.event_id for request in replayed] == [request.event_id for request in first[1:3]]
    assert [entry.replay for entry in made.logged("payment")] == [False] * 5 + [True] * 2
    assert list(made.lanes.lanes) == [LaneId("payment", ADA).key], "the job has ended"


async def letter_of(made: Deliveries) -> DeadLetter:
    """Make a dead letter of the first event of ada."""
    made.webhooks.script("payment", answer(500, webhook_delivery="abort-message"), OK)
    await made.change("ada")
    await asyncio.sleep(20)
    (letter,) = made.letters.letters.values()
    return letter


async def redeliver(made: Deliveries, letter: DeadLetter) -> None:
    await made.letters.replace(structs.replace(letter, redelivering=True))
    position = LanePosition(letter.epoch, letter.revision)
    lane_id = LaneId(letter.alias, letter.state_id, "job-1")
    await made.lanes.add_jobs(
        [Lane(id=lane_id, since=START, newest=position, letter=letter.id, due_at=made.clock.now())]
    )
    await asyncio.sleep(20)


@pytest.mark.expected_logs(LETTERS)
def test_a_redelivered_letter_is_removed() -> None:
    async def scenario(made: Deliveries) -> None:
        letter = await letter_of(made)
        assert isinstance(letter.event, dict)
        edited = {**letter.event, "data": {**letter.event["data"], "step": "z"}}
        await redeliver(made, structs.replace(letter, event=edited, edited_by="root"))

    made = play(scenario)
    assert not made.letters.letters
    first, second = made.webhooks.sent
    assert first.event_id == second.event_id
    assert second.event["data"]["step"] == "z"
    (entry,) = made.logged("payment")
    assert (entry.id, entry.attempts, entry.type) == (first.event_id, 2, "flow.started")
    assert list(made.lanes.lanes) == [LaneId("payment", ADA).key]


@pytest.mark.expected_logs(LETTERS)
def test_a_redelivery_that_fails_is_one_more_attempt() -> None:
    async def scenario(made: Deliveries) -> None:
        letter = await letter_of(made)
        made.webhooks.script("payment", answer(503))
        await redeliver(made, letter)

    made = play(scenario)
    (letter,) = made.letters.letters.values()
    assert [attempt.status for attempt in letter.attempts] == [500, 503]
    assert (letter.redelivering, letter.detail) == (False, "the receiver answered 503")
    assert list(made.lanes.lanes) == [LaneId("payment", ADA).key], "once, without a schedule"


@pytest.mark.expected_logs(LETTERS)
def test_a_letter_without_an_event_gets_one_if_its_change_can_be_read() -> None:
    async def scenario(made: Deliveries) -> None:
        letter = await letter_of(made)
        unknown = structs.replace(letter, event=UNSET, type="flow.transition")
        await redeliver(made, unknown)

    made = play(scenario)
    assert not made.letters.letters
    first, second = made.webhooks.sent
    assert first == second
    assert first.event["type"] == "flow.started"


@pytest.mark.expected_logs(LETTERS)
def test_a_letter_whose_change_is_not_stored_any_more_stays() -> None:
    async def scenario(made: Deliveries) -> None:
        letter = await letter_of(made)
        made.rig.states.stored.clear()
        await redeliver(made, structs.replace(letter, event=UNSET))

    made = play(scenario)
    (letter,) = made.letters.letters.values()
    assert (letter.reason, letter.redelivering) == ("expired", False)
    assert len(made.webhooks.sent) == 1


def test_a_redelivery_of_a_dropped_letter_ends() -> None:
    async def scenario(made: Deliveries) -> None:
        lane_id = LaneId("payment", ADA, "job-1")
        position = LanePosition("e1", 0)
        await made.lanes.add_jobs(
            [Lane(id=lane_id, since=START, newest=position, letter="evt_none", due_at=START)]
        )
        await asyncio.sleep(20)

    made = play(scenario)
    assert not made.lanes.lanes
    assert not made.webhooks.sent


@pytest.mark.expected_logs(LETTERS)
def test_a_change_that_is_not_in_the_history_any_more_is_a_letter() -> None:
    async def scenario(made: Deliveries) -> None:
        (record,) = await made.change("ada")
        made.rig.states.stored.clear()
        await made.lanes.mark([made.mark_of("payment", record)], made.clock.now())
        await asyncio.sleep(20)
        await made.change("bob")
        await asyncio.sleep(20)

    made = play(scenario)
    (letter,) = made.letters.letters.values()
    assert (letter.reason, letter.state_id, letter.event) == ("expired", ADA, UNSET)
    assert made.registrations.health["payment"].failed == 0
    assert made.registrations.health["payment"].internal == 1
    assert made.revisions("payment", "bob") == [0]
    assert made.lane("payment", "ada").due_at is None


def test_changes_before_the_registration_are_not_delivered() -> None:
    async def scenario(made: Deliveries) -> None:
        await rounds(made)
        await asyncio.sleep(20)

    made = Deliveries(integration())
    since = START + timedelta(seconds=15)
    made.since = since
    run = made.running

    async def whole() -> None:
        await made.prepare()
        async with run(made.dispatcher()):
            await scenario(made)

    run_virtually(whole())
    assert made.revisions("payment", "ada") == [2, 3, 4]
    assert not made.letters.letters


@pytest.mark.expected_logs(LETTERS)
def test_an_event_that_is_too_large_is_a_letter_at_once() -> None:
    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", WebhookAnswer(failure="too_large", error="too large"), OK)
        await made.change("ada")
        await made.change("ada", "go")
        await asyncio.sleep(20)

    made = play(scenario)
    (letter,) = made.letters.letters.values()
    assert (letter.reason, letter.detail) == ("too_large", "too large")
    assert made.revisions("payment", "ada") == [1]
    assert made.registrations.health["payment"].failed == 0


def test_failures_on_our_side_do_not_count_against_the_receiver() -> None:
    async def scenario(made: Deliveries) -> None:
        for n in range(10):
            await made.change(f"user-{n}")
        await asyncio.sleep(20)
        made.webhooks.refused.clear()
        await asyncio.sleep(3600)

    made = Deliveries(integration())
    made.webhooks.refused["https://payment.example/"] = "it is private"

    async def whole() -> None:
        await made.prepare()
        async with made.running(made.dispatcher()):
            await scenario(made)

    run_virtually(whole())
    health = made.registrations.health["payment"]
    assert (health.breaker, health.failed, health.delivered) == ("closed", 0, 10)
    assert health.internal >= 10


@pytest.mark.expected_logs(LETTERS, "delivery failed unexpectedly")
def test_a_defect_of_ours_holds_up_one_state_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(which: Integration, record: Any, flow: Any) -> Any:
        if record.user_id == "ada" and record.revision == 0:
            raise ZeroDivisionError
        return concerns(which, record, flow)

    monkeypatch.setattr(lane_work, "concerns", broken)

    async def scenario(made: Deliveries) -> None:
        await made.change("ada")
        await made.change("ada", "go")
        await made.change("bob")
        await asyncio.sleep(3)
        assert made.revisions("payment", "bob") == [0]
        for _ in range(MAX_ATTEMPTS + 1):
            await made.lanes.make_due("payment", made.clock.now())
            await asyncio.sleep(20)

    made = play(scenario)
    (letter,) = made.letters.letters.values()
    assert (letter.reason, letter.revision) == ("internal", 0)
    assert len(letter.attempts) == MAX_ATTEMPTS
    assert made.revisions("payment", "ada") == [1]


@pytest.mark.expected_logs(LETTERS)
def test_requested_redeliveries_and_replays_begin_at_once() -> None:
    """Also after hours without work, in which due lanes are rarely looked for."""
    made = Deliveries(integration())

    async def run() -> None:
        await made.prepare()
        administration = DeadLetterAdministration(
            made.ports, AuditLog(FakeAuditStore(), FakeSecretStore(), made.clock), made.clock
        )
        worker = made.dispatcher()
        administration.on_jobs(worker.poll)
        async with made.running(worker):
            letter = await letter_of(made)
            await asyncio.sleep(10_000)
            before = made.clock.now()
            only = DeadLetterFilter(service="payment", ids=(letter.id,))
            await administration.redeliver(only, ROOT, dry_run=False)
            await made.webhooks.arrived(2)
            assert made.clock.now() - before < timedelta(seconds=0.1)

    run_virtually(run())


def test_a_replay_after_days_does_not_repeat_what_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is at the same step again, and remembers the request no more."""
    monkeypatch.setattr(dispatcher, "REVIEW_SECONDS", 20.0)  # of the many reviews of a day, few are needed
    back = answer(200, {"transition": "back"})

    async def scenario(made: Deliveries) -> None:
        made.webhooks.script("payment", back, OK)
        await made.change("ada")
        await made.change("ada", "go")
        await asyncio.sleep(60)
        await made.change("ada", "go")
        await asyncio.sleep(25 * HOUR)
        await made.rig.history.append(made.records("ada"))
        made.webhooks.script("payment", back)
        position = LanePosition(made.records("ada")[0].epoch, 1)
        job = Lane(
            id=LaneId("payment", ADA, "replay-1"),
            since=made.since,
            newest=position,
            end=position,
            due_at=made.clock.now(),
        )
        await made.lanes.add_jobs([job])
        await asyncio.sleep(60)

    made = play(scenario, integration(events=("flow.step.entered",), steps=("b",)))
    assert [r.transition for r in made.records("ada")] == ["started", "go", "back", "go"]
    first, *_, replayed = made.webhooks.sent
    assert (first.event_id, replayed.event["replay"]) == (replayed.event_id, True)
    entry = made.logged("payment")[-1]
    assert (entry.replay, entry.answered, entry.refused) == (True, "back", UNSET)
