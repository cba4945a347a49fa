"""The deliveries of events, as the users of the field met their cases: over real workers and receivers."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson.json_util import dumps
from pymongo import MongoClient
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from config.settings import Settings
from tests.support.delivery_cases import Hosts, Json, Planned, Shop
from tests.support.receivers import Receiver
from tests.support.serving import Serving, end_together, external, serving_together
from tests.support.shorter_waits import RETRIES
from tests.support.waiting import eventually

FINAL = Planned(body={"error": {"final": True, "reason": "no such customer"}}, status=422)


@pytest.fixture(scope="module")
def own(servers: Settings) -> Settings:
    """The servers, with the database of this module, in the clear so that tests see what is stored."""
    return servers.model_copy(
        update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}", "encryption_keys": None}
    )


@pytest.fixture(scope="module")
def hosts(own: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    env = {**external(own), "FLOW_SERVICES_PRIVATE_ADDRESSES": "true"}
    folder = tmp_path_factory.mktemp("deliveries")
    first, second = serving_together(2, env=env, cwd=folder, constants=RETRIES)
    yield first, second
    end_together([first, second])


@pytest.fixture
async def shop(hosts: Hosts) -> AsyncIterator[Shop]:
    receiver = Receiver()
    await receiver.start()
    yield Shop(hosts, receiver)
    await receiver.stop()


async def test_a_failed_job_is_offered_again(shop: Shop, user: str) -> None:
    await shop.open()
    shop.inbox.plans[user] = [Planned(500)]
    await shop.start(user)
    await shop.run(user, "again", "go", host=1)
    await shop.inbox.until_revisions(user, [0, 0, 1, 2])
    first, again, *_ = shop.inbox.requests
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == shop.inbox.events()[0]["id"]
    assert first.body == again.body
    done = await shop.until_delivered(first.headers["webhook-id"])
    assert (done["attempts"], done["responseStatus"], done["transports"]) == (2, 204, ["webhook", "pull"])


@pytest.mark.parametrize("poison", [FINAL, Planned(headers={"webhook-delivery": "abort-message"})])
async def test_a_poison_message_is_a_dead_letter_and_not_an_endless_loop(
    shop: Shop, user: str, poison: Planned
) -> None:
    await shop.open()
    shop.inbox.plans[user] = [poison]
    await shop.start(user, payload={"sum": 1})
    await shop.run(user, "again")
    await shop.inbox.until_revisions(user, [0, 1])
    (letter,) = await shop.until_letters(1)
    place = f"/api/admin/services/{shop.left}/deliveries/{letter['id']}"
    assert (letter["reason"], letter["userId"], letter["revision"]) == ("receiver", user, 0)
    assert (letter["attemptCount"], "event" in letter) == (1, False)

    whole = (await shop.admin_call("GET", place))["letter"]
    assert [attempt["status"] for attempt in whole["attempts"]] == [poison.status]
    assert whole["event"] == shop.inbox.events(user)[0]
    edited = {**whole["event"], "data": {**whole["event"]["data"], "payload": {"sum": 2}}}
    assert (await shop.admin_call("PATCH", place, {"event": edited}))["editedBy"] == "root"

    report = await shop.admin_call("POST", f"{place}/redeliver")
    assert (report["matched"], report["changed"]) == (1, 1)
    await shop.inbox.until_revisions(user, [0, 1, 0])
    assert shop.inbox.events(user)[-1] == edited
    assert shop.inbox.requests[-1].headers["webhook-id"] == letter["id"]
    await shop.until_letters(0)
    await shop.until_delivered(letter["id"])


async def test_a_redelivery_that_fails_leaves_the_letter_with_one_more_attempt(shop: Shop, user: str) -> None:
    await shop.open()
    shop.inbox.plans[user] = [FINAL, Planned(500)]
    await shop.start(user)
    (letter,) = await shop.until_letters(1)
    place = f"/api/admin/services/{shop.left}/deliveries/{letter['id']}"
    await shop.admin_call("POST", f"{place}/redeliver")
    delivery = await eventually(
        lambda: shop.admin_call("GET", place), lambda found: found["letter"]["attemptCount"] == 2
    )
    attempts = delivery["letter"]["attempts"]
    assert [attempt["status"] for attempt in attempts] == [422, 500]
    assert delivery["letter"]["redelivering"] is False
    await shop.admin_call("DELETE", place)
    assert (await shop.letters())["items"] == []
    assert (await shop.delivery(letter["id"])).status_code == 404


async def test_a_repaired_service_is_not_started_twice(shop: Shop, user: str) -> None:
    """Its transition ran, but the answer was lost; the event comes again, and it answers the same."""
    await shop.open()

    async def runs_and_is_lost(event: Json) -> None:
        async with shop.service(shop.left, host=1) as http:
            route = f"/api/flow/{shop.flow}/transition/again"
            headers = {"Idempotency-Key": event["id"]}
            answer = await http.post(
                route, params={"userId": user}, json={"payload": {"n": 1}}, headers=headers
            )
            assert answer.status_code == 200, answer.text

    answer = Planned(body={"transition": "again", "payload": {"n": 1}})
    shop.inbox.plans[user] = [Planned(before=runs_and_is_lost, cut=True), answer]
    await shop.start(user)
    await shop.inbox.until(lambda: len(shop.inbox.events(user)) == 1)
    await shop.enable()  # it is repaired
    await shop.inbox.until_revisions(user, [0, 0, 1])
    done = await shop.until_delivered(shop.inbox.events(user)[0]["id"])
    assert (done["transition"], done.get("refused")) == ("again", None)
    records = await shop.history(user)
    kinds = [(each["metadata"]["kind"], each["metadata"]["actor"]) for each in records]
    assert kinds == [("started", user), ("transitioned", f"service:{shop.left}")]


async def test_an_answer_moves_the_state_on_and_a_refused_one_is_noted(shop: Shop, user: str) -> None:
    await shop.open()
    go = Planned(body={"transition": "go", "payload": {"seat": 7}})
    shop.inbox.plans[user] = [go, Planned(body={"transition": "done"})]
    await shop.start(user)
    await shop.inbox.until_revisions(user, [0, 1])
    entered, left = shop.inbox.events(user)
    assert (left["data"]["payload"], left["data"]["actor"]) == ({"seat": 7}, f"service:{shop.left}")
    assert (await shop.until_delivered(entered["id"]))["transition"] == "go"
    noted = await shop.until_delivered(left["id"])
    assert (noted["transition"], noted["refused"]) == ("done", "INSUFFICIENT_PERMISSIONS")
    assert [each["toStep"] for each in await shop.history(user)] == ["a", "b"]


@pytest.mark.parametrize(
    ("backlog", "revisions"), [("all", [0, 1, 2]), ("newest", [2]), ("none", []), ("since", [2])]
)
async def test_events_of_a_disabled_receiver_are_not_gone(
    shop: Shop, user: str, backlog: str, revisions: list[int]
) -> None:
    await shop.open()
    trigger = f"{user}-trigger"
    shop.inbox.plans[trigger] = [Planned(410)]
    await shop.start(trigger)

    async def read() -> Json:
        return await shop.admin_call("GET", f"/api/admin/services/{shop.left}")

    service = await eventually(read, lambda found: found["enabled"] is False)
    assert (service["disabledBy"], service["disabledReason"]) == (
        "receiver",
        "the receiver answered 410 Gone",
    )
    await shop.start(user)
    await shop.run(user, "again", "again", host=1)
    assert shop.inbox.events(user) == []
    last = (await shop.history(user))[-1]["timestamp"]
    await eventually(read, lambda found: found["waiting"] == 2)
    since = {"since": last} if backlog == "since" else {}
    await shop.enable(backlog=backlog, **since)
    await shop.run(user, "again")
    await shop.inbox.until_revisions(user, [*revisions, 3])


async def test_a_bulk_redelivery_takes_exactly_what_the_list_showed(shop: Shop, user: str) -> None:
    await shop.open()
    users = [f"{user}-{n}" for n in range(5)]
    for each in users:
        shop.inbox.always[each] = FINAL
    for each in users[:3]:
        await shop.start(each)
    await shop.until_letters(3)
    shown = await shop.letters(limit=2)
    rest = await shop.letters(**{**shown["filter"], "after": shown["next"], "limit": 2})
    listed = {letter["id"] for letter in [*shown["items"], *rest["items"]]}
    assert len(listed) == 3
    for each in users[3:]:
        await shop.start(each)
    await shop.until_letters(5)
    shop.inbox.always.clear()

    def body(*, dry_run: bool) -> Json:
        return {"filter": shown["filter"], "dryRun": dry_run}

    route = "/api/admin/dead-letters/redeliver"
    counted = await shop.admin_call("POST", route, body(dry_run=True))
    assert (counted["matched"], counted["changed"], counted["dryRun"]) == (3, 3, True)
    assert len(shop.inbox.requests) == 5
    done = await shop.admin_call("POST", route, body(dry_run=False))
    assert (done["matched"], done["changed"]) == (3, 3)
    await shop.inbox.until(lambda: len(shop.inbox.requests) == 8)
    assert {event["id"] for event in shop.inbox.events()[5:]} == listed
    left = await shop.until_letters(2)
    assert {letter["userId"] for letter in left} == set(users[3:])
    dropped = await shop.admin_call("POST", "/api/admin/dead-letters/drop", body(dry_run=False))
    assert dropped["matched"] == 0


async def test_order_for_each_state_while_one_fails_and_nobody_else_waits(shop: Shop, user: str) -> None:
    await shop.open()
    await shop.register(shop.right, url=shop.other.url)
    failing, healthy = f"{user}-failing", f"{user}-healthy"
    shop.inbox.always[failing] = Planned(500)
    await shop.start(failing)
    await shop.inbox.until(lambda: bool(shop.inbox.events(failing)))
    for each in (healthy, failing):
        if each == healthy:
            await shop.start(each)
        await shop.run(each, "again", "go", "back", host=1)
    await shop.inbox.until_revisions(healthy, [0, 1, 2, 3])
    await shop.other.until_revisions(failing, [0, 1, 2, 3])
    assert set(shop.inbox.revisions(failing)) == {0}
    async with shop.admin() as http:
        path = f"/api/admin/services/{shop.left}/failing"
        found = (await http.get(path)).json()["items"]
    assert [lane["userId"] for lane in found] == [failing]
    assert {attempt["status"] for attempt in found[0]["attempts"]} == {500}
    shop.inbox.always.clear()
    await shop.enable()
    await shop.inbox.until(lambda: 3 in shop.inbox.revisions(failing))
    assert list(dict.fromkeys(shop.inbox.revisions(failing))) == [0, 1, 2, 3]


async def test_a_replay_has_the_same_ids_and_is_marked(shop: Shop, user: str) -> None:
    await shop.open()
    await shop.start(user)
    await shop.run(user, "again", "again")
    await shop.inbox.until_revisions(user, [0, 1, 2])
    before = shop.inbox.events(user)
    await shop.until_delivered(before[-1]["id"])
    assert [event.get("replay") for event in before] == [None] * 3
    route = f"/api/admin/services/{shop.left}/replay"
    revision = {"flowId": shop.flow, "userId": user, "fromRevision": 1}

    async def replayed(command: Json) -> Json:
        return await shop.admin_call("POST", route, command)

    # the cursor follows the log by a moment
    counted = await eventually(
        lambda: replayed({**revision, "dryRun": True}), lambda report: report["changes"] == 2
    )
    assert counted == {"states": 1, "changes": 2, "dryRun": True}
    await replayed(revision)
    await shop.inbox.until_revisions(user, [0, 1, 2, 1, 2])
    await replayed({"since": before[0]["time"], "until": before[-1]["time"]})
    earlier = [event for event in before if event["time"] < before[-1]["time"]]
    await shop.inbox.until(lambda: len(shop.inbox.events(user)) == 5 + len(earlier))
    again = shop.inbox.events(user)[3:]
    assert again == [{**event, "replay": True} for event in [*before[1:], *earlier]]
    logged = await eventually(
        lambda: shop.until_delivered(before[0]["id"]), lambda found: found["replay"] is True
    )
    assert logged["attempts"] == 1


async def test_both_secrets_sign_while_both_are_valid(shop: Shop, user: str) -> None:
    await shop.open()
    first = (await shop.admin_call("POST", f"/api/admin/services/{shop.left}/rotate", {}))["secret"]
    await shop.admin_call("POST", f"/api/admin/services/{shop.left}/rotate", {"expiresIn": 0})
    second = (await shop.admin_call("POST", f"/api/admin/services/{shop.left}/rotate", {}))["secret"]
    third = (await shop.admin_call("POST", f"/api/admin/services/{shop.left}/rotate", {}))["secret"]
    path = f"/api/admin/services/{shop.left}"
    await eventually(lambda: shop.admin_call("POST", f"{path}/ping"), lambda _: bool(shop.inbox.requests))
    await shop.start(user)
    await shop.inbox.until(lambda: bool(shop.inbox.events(user)))
    request = shop.inbox.requests[-1]
    for valid in (second, third):
        Webhook(valid).verify(request.body, dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(first).verify(request.body, dict(request.headers))


async def test_a_receiver_that_is_busy_gets_the_event_after_the_time_that_it_named(
    shop: Shop, user: str
) -> None:
    await shop.open()
    shop.inbox.plans[user] = [Planned(429, headers={"Retry-After": "3600"})]
    await shop.start(user)
    path = f"/api/admin/services/{shop.left}/failing"
    page = await eventually(lambda: shop.admin_call("GET", path), lambda found: bool(found["items"]))
    (lane,) = page["items"]
    assert lane["attempts"][0]["status"] == 429
    assert lane["nextAttemptAt"] > lane["attempts"][0]["at"]
    assert len(shop.inbox.events(user)) == 1
    await shop.enable()
    await shop.inbox.until_revisions(user, [0, 0])


async def test_a_redirect_is_a_failure_and_is_not_followed(shop: Shop, user: str) -> None:
    await shop.open()
    shop.inbox.always[user] = Planned(307, headers={"Location": shop.other.url})
    await shop.start(user)
    path = f"/api/admin/services/{shop.left}/failing"
    page = await eventually(lambda: shop.admin_call("GET", path), lambda found: bool(found["items"]))
    assert page["items"][0]["attempts"][0]["error"] == "the receiver answered 307; redirects are not followed"
    assert shop.other.requests == []


async def test_a_private_address_is_refused_without_the_setting(shared_hosts: Hosts, shop: Shop) -> None:
    async with shared_hosts[0].http("root", "flow:admin") as http:
        answer = await http.put(f"/api/admin/services/{shop.left}", json={"url": shop.inbox.url})
    assert answer.status_code == 422
    (fault,) = answer.json()["details"]["errors"]
    assert fault["pointer"] == "/url"
    await shop.register(shop.left, url=shop.inbox.url)


async def test_events_have_ids_only_or_chosen_fields(shop: Shop, user: str) -> None:
    await shop.open(members={"fields": ["/order/id", "/none"]})
    await shop.register(shop.right, url=shop.other.url, thin=True)
    await shop.start(user, payload={"order": {"id": 7, "card": "secret"}, "name": "secret"})
    await shop.inbox.until_revisions(user, [0])
    await shop.other.until_revisions(user, [0])
    assert shop.inbox.events()[0]["data"]["payload"] == {"order": {"id": 7}}
    assert set(shop.other.events()[0]["data"]) == {"flowId", "userId", "epoch", "revision"}
    assert not any(b"secret" in request.body for request in shop.receiver.requests)


async def test_a_redelivery_has_no_field_that_the_registration_has_no_more(shop: Shop, user: str) -> None:
    await shop.open()
    shop.inbox.plans[user] = [FINAL]
    await shop.start(user, payload={"order": 7, "card": "secret"})
    (letter,) = await shop.until_letters(1)
    await shop.register(shop.left, fields=["/order"])
    await shop.admin_call("POST", f"/api/admin/services/{shop.left}/deliveries/{letter['id']}/redeliver")
    await shop.inbox.until_revisions(user, [0, 0])
    first, again = shop.inbox.events(user)
    assert first["data"]["payload"] == {"order": 7, "card": "secret"}
    assert again == {**first, "data": {**first["data"], "payload": {"order": 7}}}


async def test_entities_are_in_events(shop: Shop, user: str) -> None:
    await shop.open(instances="many")
    for entity in ("one", "two"):
        await shop.start(user, entityId=entity)
    await shop.run(user, "again", entityId="one", host=1)
    await shop.inbox.until(lambda: len(shop.inbox.events(user)) == 3)
    found = [(event["data"]["entityId"], event["data"]["revision"]) for event in shop.inbox.events(user)]
    assert sorted(found) == [("one", 0), ("one", 1), ("two", 0)]
    assert found.index(("one", 0)) < found.index(("one", 1))


async def test_a_change_of_participants_is_an_event(shop: Shop, user: str) -> None:
    await shop.open(participants={"reviewer": {"assignable": True}})
    await shop.start(user)
    reviewer = f"{user}-reviewer"
    async with shop.hosts[1].http(user) as http:
        body = {"participants": [{"role": "reviewer", "userId": reviewer}]}
        answer = await http.put(f"/api/flow/{shop.flow}/participants", json=body)
        assert answer.status_code == 200, answer.text
    await shop.inbox.until_revisions(user, [0, 1])
    event = shop.inbox.events(user)[-1]
    assert (event["type"], event["data"]["kind"], event["data"]["actor"]) == (
        "flow.participants",
        "assigned",
        user,
    )
    assert reviewer not in str(event), "who they are is not data of the service"


def stored_text(own: Settings, name: str | None = None) -> str:
    """Everything in the database, or in one collection, as JSON."""
    assert own.mongo_url is not None
    client: MongoClient[Any] = MongoClient(own.mongo_url.get_secret_value())
    with client:
        database = client[own.mongo_database]
        names = database.list_collection_names() if name is None else [name]
        return dumps({each: list(database[each].find()) for each in names})


async def erase(shop: Shop, user: str) -> None:
    await shop.admin_call("DELETE", "/api/admin/personal-data", userId=user)


async def test_nothing_that_an_erased_user_entered_is_left(own: Settings, shop: Shop, user: str) -> None:
    marker = f"iban-{uuid.uuid4().hex}"
    await shop.open()
    shop.inbox.plans[user] = [FINAL]
    shop.inbox.always[user] = Planned(
        500
    )  # also to a repetition before the erasure, which may follow at once
    await shop.start(user, payload={"iban": marker})
    await shop.until_letters(1)
    await shop.run(user, "again")
    await shop.inbox.until(lambda: 1 in shop.inbox.revisions(user))
    assert all(marker in stored_text(own, name) for name in ("flow_dead_letters", "flow_history"))
    await erase(shop, user)
    shop.inbox.always.clear()
    await shop.enable()
    await shop.inbox.until(lambda: 2 in shop.inbox.revisions(user))
    repeated, erased = shop.inbox.events(user)[-2:]
    assert (repeated["data"]["revision"], repeated["data"].get("payload")) == (1, None)
    assert (erased["type"], erased["data"].get("payload")) == ("flow.erased", None)
    await shop.until_delivered(erased["id"])
    assert marker not in stored_text(own)


async def test_an_event_that_dies_during_an_erasure_leaves_nothing(
    own: Settings, shop: Shop, user: str
) -> None:
    marker = f"iban-{uuid.uuid4().hex}"
    await shop.open()

    async def erased_meanwhile(_: Json) -> None:
        await erase(shop, user)

    shop.inbox.plans[user] = [Planned(422, FINAL.body, before=erased_meanwhile)]
    await shop.start(user, payload={"iban": marker})
    await shop.inbox.until_revisions(user, [0, 1])
    (letter,) = await shop.until_letters(1)
    await shop.until_delivered(shop.inbox.events(user)[-1]["id"])
    assert marker not in stored_text(own)
    place = f"/api/admin/services/{shop.left}/deliveries/{letter['id']}"
    event = (await shop.admin_call("GET", place))["letter"]["event"]
    assert (event["id"], "payload" in event["data"]) == (letter["id"], False)


async def test_a_letter_names_no_erased_person_of_another_state(own: Settings, shop: Shop, user: str) -> None:
    steps = shop.definition()["steps"]
    steps["a"]["transitions"]["again"]["roles"] = ["reviewer"]
    await shop.open(participants={"reviewer": {"assignable": True}}, steps=steps)
    helper = f"helper-{uuid.uuid4().hex}"
    shop.inbox.always[user] = FINAL
    await shop.start(user, participants=[{"role": "reviewer", "userId": helper}])
    async with shop.hosts[0].http(helper) as http:
        route = f"/api/flow/{shop.flow}/transition/again"
        answer = await http.post(route, params={"userId": user}, json={})
        assert answer.status_code == 200, answer.text
    await shop.until_letters(2)
    assert helper in stored_text(own, "flow_dead_letters")
    await erase(shop, helper)
    await shop.until_letters(3)
    assert helper not in stored_text(own)


@pytest.mark.long  # the claim of a worker that was killed ends after half a minute
async def test_a_worker_that_is_killed_before_it_notes_an_answer_runs_it_once(
    settings: Settings, tmp_path: Path, user: str
) -> None:
    env = {**external(settings), "FLOW_SERVICES_PRIVATE_ADDRESSES": "true"}
    first = Serving(env=env, cwd=tmp_path)
    receiver = Receiver()
    await receiver.start()
    shop = Shop((first, first), receiver)
    try:
        await shop.open(members={"events": ["flow.step.entered"]})

        async def kills(event: Json) -> None:
            """Run the transition as the worker would, and kill the worker before it has the answer."""
            async with shop.service(shop.left) as http:
                route = f"/api/flow/{shop.flow}/transition/go"
                headers = {"Idempotency-Key": event["id"]}
                answer = await http.post(route, params={"userId": user}, json={}, headers=headers)
                assert answer.status_code == 200, answer.text
            first.end(signal.SIGKILL)

        go = {"transition": "go"}
        shop.inbox.plans[user] = [Planned(body=go, before=kills), Planned(body=go)]
        await shop.start(user)
        await asyncio.to_thread(first.popen.wait, 60)
        second = Serving(env=env, cwd=tmp_path)
        shop.hosts = second, second
        await eventually(lambda: asyncio.sleep(0.2), lambda _: len(shop.inbox.events(user)) >= 2, seconds=90)
        before, again = shop.inbox.events(user)[:2]
        assert before == again
        assert (await shop.until_delivered(again["id"]))["transition"] == "go"
        kinds = [(each["toStep"], each["metadata"]["actor"]) for each in await shop.history(user)]
        assert kinds == [("a", user), ("b", f"service:{shop.left}")]
        second.end()
    finally:
        first.end(signal.SIGKILL)
        await receiver.stop()
