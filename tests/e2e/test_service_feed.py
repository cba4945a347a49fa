"""Services that poll: their waiting states and their deliveries, on two workers and real servers."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.auth.tokens import issue_token
from app.http.routes.service_feed import MAX_READERS
from tests.support.http import http_client
from tests.support.integrations import checkout_dict
from tests.support.serving import Serving
from tests.support.streams import Stream
from tests.support.waiting import eventually

Hosts = tuple[Serving, Serving]


class Shop:
    """A checkout flow of its own, whose services are registered and have keys."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.name = uuid.uuid4().hex[:8]
        self.flow = f"checkout-{self.name}"
        self.payment, self.user = f"payment-{self.name}", f"user-{self.name}"

    def administrator(self, host: int = 0) -> httpx.AsyncClient:
        return self.hosts[host].http("root", "flow:admin")

    def service(self, alias: str, host: int = 0) -> httpx.AsyncClient:
        serving = self.hosts[host]
        token = issue_token(
            serving.secret, alias, ttl=timedelta(hours=1), scopes=["flow:service"], service=alias
        )
        return http_client(serving.url, headers={"Authorization": f"Bearer {token}"})

    async def publish(self) -> None:
        definition = checkout_dict(self.flow)
        definition["steps"]["pay"]["service"] = self.payment
        definition["steps"]["cart"]["service"] = self.user
        async with self.administrator() as http:
            assert (await http.post("/api/flows", json=definition)).status_code == 201

    async def register(self, alias: str, **members: Any) -> None:
        async with self.administrator() as http:
            answer = await http.put(f"/api/admin/services/{alias}", json=members)
            assert answer.is_success, answer.text

    async def order(self, customer: str, host: int = 0) -> dict[str, Any]:
        """Bring a state to the step ``pay``."""
        async with self.hosts[host].http(customer) as http:
            assert (await http.post(f"/api/flow/{self.flow}/start", json={})).status_code == 201
            return await self.run(http, "order")

    async def run(self, http: httpx.AsyncClient, transition: str, **query: str) -> dict[str, Any]:
        route = f"/api/flow/{self.flow}/transition/{transition}"
        answer = await http.post(route, json={"payload": {"by": transition}}, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
async def shop(shared_hosts: Hosts) -> Shop:
    made = Shop(shared_hosts)
    await made.publish()
    return made


async def read(http: httpx.AsyncClient, alias: str, what: str, **query: Any) -> dict[str, Any]:
    answer = await http.get(f"/api/services/{alias}/{what}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@asynccontextmanager
async def stream(http: httpx.AsyncClient, alias: str, last: str | None = None) -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": last} if last else {}
    async with http.stream("GET", f"/api/services/{alias}/events/stream", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(response)


async def test_a_service_works_through_its_waiting_states(shop: Shop) -> None:
    await shop.register(shop.payment)
    customers = [f"{name}-{shop.name}" for name in ("ada", "bob", "cleo")]
    for number, customer in enumerate(customers):
        await shop.order(customer, number % 2)
    async with shop.service(shop.payment, 1) as http:

        async def waiting() -> list[str]:
            return [item["userId"] for item in (await read(http, shop.payment, "pending"))["items"]]

        await eventually(waiting, lambda found: len(found) == 3)
        assert await waiting() == customers
        page = await read(http, shop.payment, "pending", limit=1, flowId=shop.flow, step="pay")
        item = page["items"][0]
        assert item["since"] == item["updatedAt"]
        assert [each["transition"] for each in item["transitions"]] == ["paid", "again", "cancel"]
        second = await read(http, shop.payment, "pending", limit=1, after=page["next"])
        assert second["items"][0]["userId"] == customers[1]
        while (page := await read(http, shop.payment, "pending"))["items"]:
            for item in page["items"]:
                await shop.run(http, "paid", userId=item["userId"])
        await eventually(
            lambda: read(http, shop.payment, "pending"), lambda page: page["complete"], seconds=20
        )


async def test_states_that_waited_before_the_registration(shop: Shop) -> None:
    customer = f"ada-{shop.name}"
    await shop.order(customer)
    await shop.register(shop.payment)
    async with shop.service(shop.payment) as http:
        page = await eventually(
            lambda: read(http, shop.payment, "pending"), lambda page: page["complete"], seconds=20
        )
        assert [item["userId"] for item in page["items"]] == [customer]
        assert (await read(http, shop.payment, "events"))["items"] == [], "nothing before is delivered"


async def test_a_service_reads_its_deliveries_on_any_worker(shop: Shop) -> None:
    await shop.register(shop.payment, fields=["/by"])
    customer = f"ada-{shop.name}"
    await shop.order(customer)
    async with shop.service(shop.payment, 1) as http:
        await shop.run(http, "paid", userId=customer)
        page = await eventually(
            lambda: read(http, shop.payment, "events"), lambda page: len(page["items"]) == 3
        )
        assert (page["next"], page["complete"]) == (3, True)
        assert [item["type"] for item in page["items"]] == [
            "flow.started",
            "flow.step.entered",
            "flow.transition",
        ]
        for number, item in enumerate(page["items"]):
            event = item["event"]
            assert (item["sequence"], event["id"]) == (number + 1, item["id"])
            assert (event["source"], event["data"]["revision"]) == (f"/flows/{shop.flow}", number)
        assert page["items"][2]["event"]["data"]["actor"] == f"service:{shop.payment}"
        assert page["items"][2]["event"]["data"]["payload"] == {"by": "paid"}
        rest = await read(http, shop.payment, "events", after=1, limit=1)
        assert ([item["sequence"] for item in rest["items"]], rest["next"]) == ([2], 2)


async def test_a_stream_of_deliveries_continues_on_another_worker(shop: Shop) -> None:
    await shop.register(shop.payment)
    customer = f"ada-{shop.name}"
    async with shop.service(shop.payment, 0) as http, stream(http, shop.payment) as events:
        await shop.order(customer, 1)
        sent = [await events.next() for _ in range(2)]
        assert [(name, position) for name, position, _ in sent] == [
            ("service-event", "1"),
            ("service-event", "2"),
        ]
        assert sent[1][2]["event"]["type"] == "flow.step.entered"
    async with shop.service(shop.payment, 1) as http:
        await shop.run(http, "again", userId=customer)
        async with stream(http, shop.payment, last="1") as events:
            assert [(await events.next())[1] for _ in range(2)] == ["2", "3"]
            await shop.run(http, "paid", userId=customer)
            assert (await events.next())[1] == "4"


async def test_only_so_many_streams_of_a_service(shop: Shop) -> None:
    await shop.register(shop.payment)
    async with shop.service(shop.payment) as http:
        opened = [stream(http, shop.payment) for _ in range(MAX_READERS)]
        for each in opened:
            await each.__aenter__()
        route = f"/api/services/{shop.payment}/events/stream"
        refused = await http.get(route)
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        for each in opened:
            await each.__aexit__(None, None, None)

        async def status() -> int:
            async with http.stream("GET", route) as answer:
                return answer.status_code

        await eventually(status, lambda code: code == 200)


async def test_refusals(shop: Shop) -> None:
    await shop.register(shop.payment)
    routes = [f"/api/services/{shop.payment}/{each}" for each in ("pending", "events", "events/stream")]
    async with (
        shop.service(shop.user) as other,
        shop.hosts[0].http("ada") as person,
        shop.service(shop.payment) as own,
        shop.administrator() as administrator,
    ):
        for route in routes:
            unknown = route.replace(shop.payment, "unknown")
            for http in (other, person):
                answers = [await http.get(each) for each in (route, unknown)]
                assert [answer.status_code for answer in answers] == [403, 403]
                assert answers[0].json()["detail"] == answers[1].json()["detail"]
            missing = await administrator.get(unknown)
            assert (missing.status_code, missing.json()["code"]) == (404, "SERVICE_NOT_FOUND")
        faults = [
            ("pending?after=user;0;x", "/after"),
            ("pending?limit=201", "/limit"),
            ("events?after=-1", "/after"),
        ]
        for request, pointer in faults:
            answer = await own.get(f"/api/services/{shop.payment}/{request}")
            assert answer.status_code == 422
            assert answer.json()["details"]["errors"][0]["pointer"] == pointer
        answer = await own.get(routes[2], headers={"Last-Event-ID": "abc"})
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")


async def test_events_of_two_services_do_not_mix(shop: Shop) -> None:
    await shop.register(shop.payment)
    await shop.register(shop.user, events=["flow.step.entered"])
    await asyncio.gather(
        *(shop.order(f"{name}-{shop.name}", number) for number, name in enumerate(("a", "b")))
    )
    async with shop.service(shop.payment) as payment, shop.service(shop.user) as user:
        of_payment = await eventually(
            lambda: read(payment, shop.payment, "events"), lambda page: len(page["items"]) == 4
        )
        of_user = await eventually(
            lambda: read(user, shop.user, "events"), lambda page: len(page["items"]) == 2
        )
    ids = [item["id"] for page in (of_payment, of_user) for item in page["items"]]
    assert len(set(ids)) == 6
    assert {item["event"]["data"]["step"] for item in of_user["items"]} == {"cart"}
