"""Documents of registered services and of deliveries to them, with every member."""

from msgspec import structs

from app.contracts.deliveries import (
    DeadLetter,
    DeliveryAttempt,
    LaneId,
    LanePosition,
    LaneUpdate,
    LoggedDelivery,
    Mark,
)
from app.contracts.integration import (
    ApiKey,
    BacklogPolicy,
    Heartbeat,
    Integration,
    IntegrationHealth,
    IntegrationSecret,
)
from app.contracts.state import StateId
from models.database import Database
from models.integrations.api_keys import MongoApiKeyStore
from models.integrations.lanes import MongoDeliveryLanes
from models.integrations.letters import MongoDeadLetters
from models.integrations.log import MongoDeliveryLog
from models.integrations.registrations import MongoIntegrationStore
from tests.support.samples import T0


async def write_registrations(database: Database) -> None:
    """A service with everything, whose breaker is open, and a revoked key of it."""
    store = MongoIntegrationStore(database)
    integration = Integration(
        alias="pay",
        url="https://pay.example.com/events",
        events=("flow.started",),
        flows=("loop",),
        steps=("loop/a",),
        stream=True,
        rate=10,
        fields=("/n",),
        enabled=False,
        disabled_reason="it is gone",
        disabled_by="receiver",
        secrets=(IntegrationSecret("s-1", "whsec_AAAA", T0),),
        backlog=BacklogPolicy("newest", T0),
        heartbeat=Heartbeat("degraded", T0, "slow"),
        registered_at=T0,
        updated_at=T0,
    )
    assert await store.put(integration, None)
    health = IntegrationHealth(
        alias="pay", breaker="open", failures=5, next_probe_at=T0, reason="it failed", revision=1
    )
    assert await store.put_health(health)
    keys = MongoApiKeyStore(database)
    key = ApiKey(id="k1", alias="pay", hashed="00", created_at=T0, created_by="root", expires_at=T0)
    await keys.add(key)
    await keys.note_use("k1", T0)
    await keys.revoke("pay", "k1", T0)


async def write_deliveries(database: Database) -> None:
    """A waiting lane, a lane that has failed, a claimed job; deliveries that are done; a dead letter."""
    lanes, log, letters = MongoDeliveryLanes(database), MongoDeliveryLog(database), MongoDeadLetters(database)
    epoch = "0193b5a0-0000-7000-8000-000000000000"
    bea, zoe = StateId("loop", "bea"), StateId("request", "zoe", "R-1")
    place = LanePosition(epoch, 1)
    failed = DeliveryAttempt(
        at=T0, duration_ms=2.5, reason="receiver", status=500, error="it failed", body="{}"
    )
    await lanes.mark([Mark("pay", bea, place, T0, T0), Mark("pay", zoe, place, T0)], T0)
    (claimed,) = await lanes.claim([LaneId("pay", zoe)], "a worker", T0, T0)
    update = LaneUpdate(lane=claimed, cursor=place, due_at=T0, failures=1, attempts=(failed,))
    await lanes.release([update], T0)
    job_id = structs.replace(claimed.id, job="job-1")
    await lanes.add_jobs([structs.replace(claimed, id=job_id, end=place, letter="evt_2", holder="a worker")])
    done = LoggedDelivery(
        id="evt_1",
        alias="pay",
        state_id=zoe,
        epoch=epoch,
        revision=1,
        type="flow.step.entered",
        at=T0,
        delivered_at=T0,
        transports=("webhook", "pull"),
        attempts=2,
        status=200,
        answered="go",
        refused="CONFLICT",
    )
    await log.append("pay", [done, structs.replace(done, state_id=bea)])
    await log.delete_of_state(bea)
    letter = DeadLetter(
        id="evt_2",
        alias="pay",
        state_id=zoe,
        epoch=epoch,
        revision=1,
        type="flow.started",
        at=T0,
        died_at=T0,
        reason="receiver",
        detail="it failed",
        event={"id": "evt_2"},
        edited_by="root",
        attempts=(failed,),
    )
    await letters.add([letter])
