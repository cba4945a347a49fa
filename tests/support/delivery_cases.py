"""Flows of two registered services whose webhooks run in the test, over real workers."""

import asyncio
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import httpx
from aiohttp import web
from msgspec import Struct

from app.auth.tokens import issue_token
from app.contracts.callers import ADMIN
from tests.support.http import http_client
from tests.support.receivers import Received, Receiver
from tests.support.serving import Serving
from tests.support.waiting import eventually

Json = dict[str, Any]
Hosts = tuple[Serving, Serving]
SECONDS = 40.0


class Planned(Struct, frozen=True):
    """An answer of a webhook. ``before`` runs first; ``cut``: the connection ends without an answer."""

    status: int = 200
    body: Json = {}
    headers: Mapping[str, str] = {}
    before: Callable[[Json], Any] | None = None
    cut: bool = False


class Inbox:
    """The webhook of one service: for each user it answers as planned, one after the other, and then 204.

    ``always`` has the answers of users to each request.
    """

    def __init__(self, receiver: Receiver, alias: str) -> None:
        self.path = f"/{alias}"
        self.url = receiver.url(self.path)
        self.plans: dict[str, list[Planned]] = defaultdict(list)
        self.always: dict[str, Planned] = {}
        self._receiver = receiver
        receiver.answers[self.path] = self._answer

    @property
    def requests(self) -> list[Received]:
        return [request for request in self._receiver.requests if request.path == self.path]

    def events(self, user: str | None = None) -> list[Json]:
        """The events that have arrived, repeats too."""
        found = [json.loads(request.body) for request in self.requests]
        return [event for event in found if user in (None, event["data"].get("userId"))]

    def revisions(self, user: str) -> list[int]:
        return [event["data"]["revision"] for event in self.events(user)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition over what has arrived holds."""
        changed = self._receiver.changed
        try:
            async with asyncio.timeout(SECONDS), changed:
                await changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{self.path} received {self.events()}") from None

    async def until_revisions(self, user: str, revisions: list[int]) -> None:
        """Wait until as many events of a user have arrived, which must be these."""
        await self.until(lambda: len(self.revisions(user)) >= len(revisions))
        assert self.revisions(user) == revisions, self.events(user)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        event = json.loads(await request.read())
        user = event["data"].get("userId", "")
        plan = self.plans[user]
        planned = plan.pop(0) if plan else self.always.get(user)
        if planned is None:
            return web.Response(status=204)
        if planned.before is not None:
            await planned.before(event)
        if planned.cut:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(planned.body, status=planned.status, headers=planned.headers)


class Shop:
    """A flow of two services: ``a`` (left: again stays, go to b), ``b`` (right: done to c), ``c``."""

    def __init__(self, hosts: Hosts, receiver: Receiver) -> None:
        self.hosts = hosts
        self.receiver = receiver
        self.name = uuid.uuid4().hex[:8]
        self.flow = f"shop-{self.name}"
        self.left, self.right = f"left-{self.name}", f"right-{self.name}"
        self.inbox = Inbox(receiver, self.left)
        self.other = Inbox(receiver, self.right)

    def admin(self, host: int = 0) -> httpx.AsyncClient:
        return self.hosts[host].http("root", ADMIN)

    def service(self, alias: str, host: int = 0) -> httpx.AsyncClient:
        serving = self.hosts[host]
        token = issue_token(
            serving.secret, alias, ttl=timedelta(hours=1), scopes=["flow:service"], service=alias
        )
        return http_client(serving.url, headers={"Authorization": f"Bearer {token}"})

    def definition(self, **changes: Any) -> Json:
        ways = {
            "a": (self.left, {"again": "a", "go": "b"}),
            "b": (self.right, {"back": "a", "done": "c"}),
            "c": (self.right, {}),
        }
        steps = {
            name: {
                "index": index,
                "step": name,
                "service": service,
                "transitions": {key: {"transition": key, "step": to} for key, to in transitions.items()},
            }
            for index, (name, (service, transitions)) in enumerate(ways.items())
        }
        return {"flow": self.flow, "initialStep": "a", "steps": steps, **changes}

    async def open(self, *, members: Json | None = None, **changes: Any) -> None:
        """Publish the flow and register the left service, with more ``members``."""
        async with self.admin() as http:
            published = await http.post("/api/flows", json=self.definition(**changes))
            assert published.status_code == 201, published.text
        await self.register(self.left, url=self.inbox.url, **(members or {}))

    async def register(self, alias: str, **members: Any) -> Json:
        return await self.admin_call("PUT", f"/api/admin/services/{alias}", members)

    async def admin_call(self, method: str, path: str, body: Json | None = None, **params: Any) -> Json:
        """Send a request of an administrator, and return the answer."""
        async with self.admin() as http:
            answer = await http.request(method, path, json=body, params=params)
            assert answer.is_success, answer.text
            found: Json = answer.json() if answer.content else {}
            return found

    async def start(self, user: str, host: int = 0, **body: Any) -> Json:
        async with self.hosts[host].http(user) as http:
            answer = await http.post(f"/api/flow/{self.flow}/start", json=body)
            assert answer.status_code == 201, answer.text
            found: Json = answer.json()
            return found

    async def run(self, user: str, *transitions: str, host: int = 0, **params: Any) -> None:
        async with self.hosts[host].http(user) as http:
            for transition in transitions:
                route = f"/api/flow/{self.flow}/transition/{transition}"
                answer = await http.post(route, json={}, params=params)
                assert answer.status_code == 200, answer.text

    async def history(self, user: str) -> list[Json]:
        async with self.hosts[0].http(user) as http:
            verified = (await http.get(f"/api/flow/{self.flow}/history/verify")).json()
            assert verified["whole"] is True, verified
            answer = await http.get(f"/api/flow/{self.flow}/history")
            assert answer.status_code == 200, answer.text
            found: list[Json] = answer.json()["items"]
            return found

    async def letters(self, **params: Any) -> Json:
        query = {"service": self.left, **params}
        return await self.admin_call("GET", "/api/admin/dead-letters", None, **query)

    async def until_letters(self, count: int, **params: Any) -> list[Json]:
        """Wait until the left service has so many dead letters."""
        found = await eventually(
            lambda: self.letters(**params), lambda page: len(page["items"]) == count, SECONDS
        )
        items: list[Json] = found["items"]
        return items

    async def delivery(self, event_id: str, alias: str | None = None) -> httpx.Response:
        async with self.admin() as http:
            return await http.get(f"/api/admin/services/{alias or self.left}/deliveries/{event_id}")

    async def until_delivered(self, event_id: str, alias: str | None = None) -> Json:
        """Wait until an event is delivered, and return the delivery."""

        def is_delivered(answer: httpx.Response) -> bool:
            return answer.status_code == 200 and answer.json()["status"] == "delivered"

        answer = await eventually(lambda: self.delivery(event_id, alias), is_delivered, SECONDS)
        found: Json = answer.json()
        return found

    async def enable(self, **body: Any) -> None:
        """Enable the left service, whose lanes are tried at once."""
        await self.admin_call("POST", f"/api/admin/services/{self.left}/enable", body)
