"""API keys of services at both doors of two workers, as the programs of these services use them."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import socketio

from app.auth.tokens import issue_token
from config.settings import Settings
from tests.support.http import http_client
from tests.support.serving import Follower, Serving, end_together, external, serving_together
from tests.support.streams import Stream

Json = dict[str, Any]
Hosts = tuple[Serving, Serving]
FLOW = "paid-order"
KEYS = "/api/admin/services/payment/keys"


@pytest.fixture(scope="session")
def hosts(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two workers with a port and a log of their own."""
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    env = {**external(own), "FLOW_LOG_LEVEL": "debug"}
    first, second = serving_together(2, env=env, cwd=tmp_path_factory.mktemp("keys"))
    yield first, second
    end_together([first, second])


@pytest.fixture(scope="session")
async def payment(hosts: Hosts) -> str:
    """The registered service, whose flow has a step of another service after its own."""

    def step(index: int, name: str, owner: str, to: str) -> Json:
        return {
            "index": index,
            "step": name,
            "service": owner,
            "transitions": {"go": {"transition": "go", "step": to}},
        }

    steps = {"pay": step(0, "pay", "payment", "ship"), "ship": step(1, "ship", "shipping", "pay")}
    async with hosts[0].http("root", "flow:admin") as http:
        made = await http.put("/api/admin/services/payment", json={})
        assert made.is_success, made.text
        flow = {"flow": FLOW, "initialStep": "pay", "steps": steps}
        assert (await http.post("/api/flows", json=flow)).status_code == 201
    return "payment"


@contextlib.asynccontextmanager
async def client(host: Serving, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(host.url, headers={"Authorization": f"Bearer {key}"}) as http:
        yield http


async def new_key(hosts: Hosts, **command: Any) -> Json:
    async with hosts[0].http("root", "flow:admin") as http:
        made = await http.post(KEYS, json=command)
    assert made.status_code == 201, made.text
    found: Json = made.json()
    return found


async def revoke(hosts: Hosts, key: Json) -> None:
    async with hosts[0].http("root", "flow:admin") as http:
        assert (await http.delete(f"{KEYS}/{key['id']}")).status_code == 204


async def start(hosts: Hosts, user: str) -> None:
    async with hosts[0].http(user) as http:
        assert (await http.post(f"/api/flow/{FLOW}/start")).is_success


async def go(http: httpx.AsyncClient, user: str) -> httpx.Response:
    return await http.post(f"/api/flow/{FLOW}/transition/go", params={"userId": user})


async def test_a_service_moves_its_own_step_on_every_worker(hosts: Hosts, payment: str, user: str) -> None:
    key = await new_key(hosts, name="ci")
    await start(hosts, user)
    for host in hosts:
        async with client(host, key["key"]) as http, hosts[0].http(user) as owner:
            moved = await go(http, user)
            assert (moved.status_code, moved.json()["step"]) == (200, "ship")
            refused = await go(http, user)
            assert (refused.status_code, refused.json()["details"]) == (403, {"service": payment})
            assert (await go(owner, user)).json()["step"] == "pay"
            for method, path in (
                ("POST", f"/api/flow/{FLOW}/reset"),
                ("GET", "/api/flow/user-onboarding/state"),
                ("GET", "/api/admin/states"),
                ("GET", "/api/admin/services/shipping/keys"),
                ("POST", "/api/flows/validate"),
            ):
                outside = await http.request(method, path, params={"userId": user} if "flow/" in path else {})
                assert (outside.status_code, outside.json()["code"]) == (403, "INSUFFICIENT_PERMISSIONS")
                assert f"limited to the service {payment}" in outside.json()["detail"]
    async with hosts[0].http("root", "flow:admin") as http:
        history = (await http.get(f"/api/flow/{FLOW}/history", params={"userId": user})).json()["items"]
    assert {each["metadata"]["actor"] for each in history} == {user, f"service:{payment}"}


async def test_a_revoked_key_is_refused_by_all_workers_at_once(hosts: Hosts, payment: str, user: str) -> None:
    key = await new_key(hosts)
    for host in hosts:
        async with client(host, key["key"]) as http:
            assert (await http.get("/api/states")).status_code == 200
    await revoke(hosts, key)
    async with client(hosts[0], key["key"]) as http:
        refused = await http.get("/api/states")
        assert (refused.status_code, refused.json()["detail"]) == (401, "The API key is not valid here")
        assert refused.headers["www-authenticate"].startswith("Bearer")
    async with client(hosts[1], key["key"]) as http:
        await until_refused(http)


async def until_refused(http: httpx.AsyncClient) -> None:
    """Wait until the event of the revocation has arrived at another worker."""
    async with asyncio.timeout(10):
        while (await http.get("/api/states")).status_code != 401:
            await asyncio.sleep(0.01)


async def test_a_socket_of_a_service_follows_states_until_its_key_is_revoked(
    hosts: Hosts, payment: str, user: str
) -> None:
    key = await new_key(hosts)
    await start(hosts, user)
    followers = [await Follower().connect(host.url, key["key"]) for host in hosts]
    for follower in followers:
        subscribed = await follower.call("flow-subscribe", {"flowId": FLOW, "userId": user})
        assert subscribed["ok"], subscribed
        for event, body in (
            ("flow-watch", {"flowId": FLOW}),
            ("flow-presence", {"flowId": FLOW, "userId": user}),
            ("flow-start", {"flowId": FLOW, "userId": "somebody"}),
            ("flow-subscribe", {"flowId": "user-onboarding", "userId": user}),
        ):
            refused = await follower.call(event, body)
            assert refused["error"]["code"] == "INSUFFICIENT_PERMISSIONS", (event, refused)
    moved = await followers[0].call("flow-transition", {"flowId": FLOW, "userId": user, "transition": "go"})
    assert moved["state"]["step"] == "ship"
    for follower in followers:
        await follower.until_revision(1)
        assert follower.updates()[-1]["transitions"] == []
    await revoke(hosts, key)
    for follower in followers:
        async with asyncio.timeout(15):
            await follower.client.wait()
        assert not follower.client.connected
    with pytest.raises(socketio.exceptions.ConnectionError):
        await Follower().connect(hosts[1].url, key["key"])


async def test_a_stream_of_a_service_ends_when_its_key_is_revoked(
    hosts: Hosts, payment: str, user: str
) -> None:
    key = await new_key(hosts)
    await start(hosts, user)
    async with (
        client(hosts[1], key["key"]) as http,
        http.stream("GET", f"/api/flow/{FLOW}/stream", params={"userId": user}) as response,
    ):
        events = Stream(response)
        assert (await events.next())[2]["step"] == "pay"
        await revoke(hosts, key)
        name, _, body = await events.next()
        assert (name, body["code"]) == ("flow-error", "AUTHENTICATION_REQUIRED")


async def test_a_service_rotates_its_key(hosts: Hosts, payment: str) -> None:
    old = await new_key(hosts)
    async with client(hosts[0], old["key"]) as http:
        fresh = (await http.post(KEYS, json={"name": "next", "expiresIn": 3600})).json()
    async with client(hosts[1], fresh["key"]) as http:
        assert (await http.delete(f"{KEYS}/{old['id']}")).status_code == 204
        listed = {each["id"]: each for each in (await http.get(KEYS)).json()["items"]}
        assert "revokedAt" in listed[old["id"]]
        assert listed[fresh["id"]]["createdBy"] == f"service:{payment}"
        assert listed[fresh["id"]].keys() >= {"expiresAt", "createdAt", "name"}
        assert "key" not in json.dumps(list(listed[fresh["id"]]))
        assert (await http.delete(f"{KEYS}/{old['id']}")).json()["code"] == "API_KEY_NOT_FOUND"
        too_short = await http.post(KEYS, json={"expiresIn": 1})
        assert too_short.status_code == 422


async def test_a_token_with_the_claim_is_limited_in_the_same_way(
    hosts: Hosts, payment: str, user: str
) -> None:
    token = issue_token(
        hosts[0].secret, "x", ttl=timedelta(hours=1), scopes=["flow:service"], service=payment
    )
    await start(hosts, user)
    async with client(hosts[0], token) as http:
        assert (await go(http, user)).json()["step"] == "ship"
        assert (await go(http, user)).status_code == 403


async def test_no_log_has_a_key_wherever_it_was_sent(hosts: Hosts, payment: str) -> None:
    made = await new_key(hosts)
    key, secret = made["key"], made["key"].rpartition("_")[2]
    for host in hosts:
        async with client(host, key) as http, http_client(host.url) as anonymous:
            await http.get("/api/states")
            await http.get(f"/api/flow/{key}/state")
            await http.get("/api/states", headers={"X-Request-Id": "a"}, params={"userId": key})
            for answer in (
                await anonymous.get("/api/states", params={"token": key}),
                await anonymous.get("/api/states", headers={"Authorization": key}),
                await anonymous.get("/api/states", headers={"Authorization": f"Bearer {key}x"}),
                await anonymous.get("/api/states", headers={"Authorization": f"Bearer {key[:-1]}"}),
                await anonymous.get("/api/states", headers={"Authorization": f"Bearer {key.upper()}"}),
            ):
                assert answer.status_code == 401, answer.text
                assert secret not in answer.text
            marker = f"/api/{uuid.uuid4().hex}"
            await anonymous.get(marker)
            host.wait_for(marker)
        with contextlib.suppress(socketio.exceptions.ConnectionError):
            await Follower().connect(f"{host.url}?token={key}", None)
    await revoke(hosts, made)
    for host in hosts:
        assert secret[:12] not in host.output
        assert secret[:12].upper() not in host.output
