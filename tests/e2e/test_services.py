"""Registered services over HTTP, on two workers that can be told apart."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from app.contracts.callers import ADMIN
from config.settings import Settings
from tests.support.receivers import Receiver
from tests.support.samples import flow_dict
from tests.support.serving import Serving, end_together, external, serving_together

PATH = "/api/admin/services"
Hosts = tuple[Serving, Serving]


@pytest.fixture(scope="module")
def hosts(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    env = {**external(own), "FLOW_SERVICES_PRIVATE_ADDRESSES": "127.0.0.0/8"}
    first, second = serving_together(2, env=env, cwd=tmp_path_factory.mktemp("services"))
    yield first, second
    end_together([first, second])


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def alias() -> str:
    return f"svc-{uuid.uuid4().hex[:8]}"


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_service_is_registered_changed_and_removed_on_any_worker(hosts: Hosts, alias: str) -> None:
    path = f"{PATH}/{alias}"
    async with hosts[0].http("root", ADMIN) as one, hosts[1].http("root", ADMIN) as two:
        made = await one.put(path, json={"url": "https://svc.example/hook", "rate": 5})
        assert (made.status_code, made.headers["location"], made.headers["etag"]) == (201, path, '"1"')
        secret = made.json()["secret"]
        assert secret.startswith("whsec_")

        read = await two.get(path)
        assert {**read.json(), "secret": secret} == {**made.json(), "waiting": 0}
        assert secret not in read.text
        assert [each["alias"] for each in (await two.get(PATH)).json()["items"]].count(alias) == 1
        assert secret not in (await two.get(PATH)).text

        stale = await two.put(path, json={"rate": None}, headers={"If-Match": '"7"'})
        assert code_of(stale) == (412, "SERVICE_CONFLICT")
        changed = await two.put(path, json={"rate": None, "thin": True}, headers={"If-Match": '"1"'})
        assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
        assert (changed.json()["rate"], changed.json()["thin"]) == (None, True)
        assert "secret" not in changed.json()
        assert code_of(await one.put(path, json={}, headers={"If-Match": '"x"'})) == (422, "INVALID_REQUEST")

        assert (await one.delete(path)).status_code == 204
        assert code_of(await two.get(path)) == (404, "SERVICE_NOT_FOUND")
        assert code_of(await two.delete(path)) == (404, "SERVICE_NOT_FOUND")
        missing = await two.put(path, json={}, headers={"If-Match": "*"})
        assert code_of(missing) == (412, "SERVICE_CONFLICT")


async def test_every_fault_of_a_registration_has_its_place(hosts: Hosts, alias: str) -> None:
    async with hosts[0].http("root", ADMIN) as http:
        body = {"url": "http://10.0.0.1/", "flows": ["no-such-flow"], "steps": ["a/b/c!"], "fields": ["x"]}
        refused = await http.put(f"{PATH}/{alias}", json=body)
        assert code_of(refused) == (422, "INVALID_REQUEST")
        places = [fault["pointer"] for fault in refused.json()["details"]["errors"]]
        assert places == ["/url", "/flows/0", "/steps/0", "/fields/0"]
        wrong = {"concurrency": 101, "events": ["flow.unknown"], "unknown": 1}
        refused = await http.put(f"{PATH}/{alias}", json=wrong)
        places = [fault["pointer"] for fault in refused.json()["details"]["errors"]]
        assert sorted(places) == ["", "/concurrency", "/events/0"]
        assert code_of(await http.put(f"{PATH}/Not%20an%20alias", json={})) == (422, "INVALID_REQUEST")
        assert code_of(await http.get(f"{PATH}/{alias}")) == (404, "SERVICE_NOT_FOUND")


async def test_a_webhook_is_tested_with_signed_events(hosts: Hosts, alias: str, receiver: Receiver) -> None:
    path = f"{PATH}/{alias}"
    async with hosts[0].http("root", ADMIN) as http:
        secret = (await http.put(path, json={})).json()["secret"]
        assert code_of(await http.post(f"{path}/ping")) == (409, "WEBHOOK_MISSING")
        await http.put(path, json={"url": receiver.url()})
        pinged = (await http.post(f"{path}/ping")).json()
        assert (pinged["ok"], pinged["status"]) == (True, 204)
        rotated = (await http.post(f"{path}/rotate", json={"expiresIn": 60})).json()
        tested = (await http.post(f"{path}/test", json={"type": "flow.completed"})).json()
        assert tested["ok"] is True
        assert len(rotated["secrets"]) == 2

        ping, sample = receiver.requests
        for request, valid in ((ping, [secret]), (sample, [secret, rotated["secret"]])):
            for each in valid:
                Webhook(each).verify(request.body, dict(request.headers))
        assert json.loads(ping.body)["id"] == ping.headers["webhook-id"] == pinged["eventId"]
        assert json.loads(ping.body)["type"] == "server-flow.ping"
        assert json.loads(sample.body)["type"] == "flow.completed"

        await receiver.stop()
        failed = (await http.post(f"{path}/ping")).json()
        assert (failed["ok"], failed["failure"]) == (False, "receiver")
        assert "status" not in failed
        assert "127.0.0.1" not in failed["error"]


async def test_a_service_that_is_disabled_returns_with_a_choice(hosts: Hosts, alias: str) -> None:
    path = f"{PATH}/{alias}"
    async with hosts[0].http("root", ADMIN) as http:
        await http.put(path, json={})
        off = (await http.post(f"{path}/disable", json={"reason": "maintenance"})).json()
        assert (off["enabled"], off["disabledReason"], off["disabledBy"]) == (
            False,
            "maintenance",
            "administrator",
        )
        since = "2026-11-01T00:00:00Z"
        back = (await http.post(f"{path}/enable", json={"backlog": "since", "since": since})).json()
        assert back["enabled"] is True
        assert back["backlog"] == {"kind": "skip", "before": "2026-11-01T00:00:00.000Z"}
        half = await http.post(f"{path}/enable", json={"backlog": "since"})
        assert code_of(half) == (422, "INVALID_REQUEST")


async def test_statistics_show_the_heartbeat(hosts: Hosts, alias: str) -> None:
    path = f"{PATH}/{alias}"
    async with hosts[0].http("root", ADMIN) as one, hosts[1].http("root", ADMIN) as two:
        assert code_of(await one.post(f"{path}/heartbeat", json={})) == (404, "SERVICE_NOT_FOUND")
        await one.put(path, json={})
        beat = await one.post(f"{path}/heartbeat", json={"status": "degraded", "message": "slow disk"})
        assert beat.json()["status"] == "degraded"
        services = (await two.get("/api/admin/statistics")).json()["services"]
        (found,) = [each for each in services if each["alias"] == alias]
        assert found["heartbeat"] == beat.json()
        assert (found["enabled"], found["breaker"], found["delivered"]) == (True, "closed", 0)


async def test_users_get_the_same_refusal_whether_or_not_there_is_the_service(
    hosts: Hosts, alias: str
) -> None:
    async with hosts[0].http("root", ADMIN) as root, hosts[0].http("ada") as ada:
        await root.put(f"{PATH}/{alias}", json={})
        refusals: set[str] = set()
        for named in (alias, "nobody"):
            for request in (
                ada.get(f"{PATH}/{named}"),
                ada.put(f"{PATH}/{named}", json={}),
                ada.post(f"{PATH}/{named}/rotate", json={}),
                ada.post(f"{PATH}/{named}/ping"),
            ):
                answer = await request
                assert code_of(answer) == (403, "INSUFFICIENT_PERMISSIONS")
                refusals.add(answer.json()["detail"])
        assert len(refusals) == 1


async def test_a_definition_that_names_nobody_gets_a_warning_on_every_worker(
    hosts: Hosts, alias: str
) -> None:
    raw: dict[str, Any] = flow_dict("named")
    for step in raw["steps"].values():
        step["service"] = alias
    async with hosts[0].http("root", ADMIN) as one, hosts[1].http("root", ADMIN) as two:
        await one.put(f"{PATH}/{alias}-other", json={})
        for http in (one, two):
            checked = (await http.post("/api/flows/validate", json=raw)).json()
            assert checked["valid"] is True
            assert {each["message"] for each in checked["findings"]} == {
                f"No service is registered as '{alias}'"
            }
        await two.put(f"{PATH}/{alias}", json={})
        for http in (one, two):
            assert (await http.post("/api/flows/validate", json=raw)).json()["findings"] == []
