"""Finished deliveries and dead letters end with their retention, dead letters also with an erasure."""

from datetime import datetime, timedelta

from msgspec import structs

from app.contracts.commands import trusted_origin
from app.contracts.deliveries import DeadLetter, DeadLetterFilter, LoggedDelivery
from app.contracts.state import StateId
from app.services.integrations.retention import LETTER_RETENTION, LOG_RETENTION
from tests.support.rig import Rig
from tests.support.samples import flow_dict

ADA = StateId("loop", "ada")


def dead_letter(state_id: StateId, now: datetime) -> DeadLetter:
    return DeadLetter(
        id="evt_2",
        alias="pay",
        state_id=state_id,
        epoch="e",
        revision=2,
        type="flow.transition",
        at=now,
        died_at=now,
        reason="receiver",
        detail="it answered 500",
        event={"data": {"payload": {"iban": "DE02"}}},
    )


async def test_deliveries_and_letters_are_removed_when_they_are_old() -> None:
    rig = Rig()
    now = rig.clock.now()
    done = LoggedDelivery(
        id="evt_1",
        alias="pay",
        state_id=ADA,
        epoch="e",
        revision=1,
        type="flow.started",
        at=now,
        delivered_at=now,
        transports=("pull",),
    )
    letter = dead_letter(ADA, now)
    await rig.delivery_log.append("pay", [done])
    await rig.letters.add([letter])
    (job,) = (job for job in rig.service.background.jobs if job.name == "old deliveries to services")
    assert job.leased
    left = []
    for age in (LOG_RETENTION, timedelta(milliseconds=1), LETTER_RETENTION - LOG_RETENTION):
        rig.clock.advance(seconds=age.total_seconds())
        await job.work()
        logged = await rig.delivery_log.read("pay", 0, 10)
        left.append((len(logged), await rig.letters.count(DeadLetterFilter())))
    assert left == [(1, 1), (0, 1), (0, 0)]
    assert await rig.delivery_log.last("pay") == 1


async def test_an_erasure_removes_the_dead_letters_of_the_user() -> None:
    rig = Rig()
    async with rig.service as service:
        await service.create_flow(flow_dict())
        for user in ("ada", "bob"):
            await rig.flows.start_flow(user, "loop")
            letter = dead_letter(StateId("loop", user), rig.clock.now())
            await rig.letters.add([structs.replace(letter, id=f"evt_{user}")])
        await service.personal_data.erase("ada", trusted_origin("root"))
    assert [one.id for one in (await rig.letters.find(DeadLetterFilter(), None, 10)).items] == ["evt_bob"]
