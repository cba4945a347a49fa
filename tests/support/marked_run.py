"""A run of every feature, with a marker in everything that users and services enter."""

import asyncio
import json
from typing import Any

import httpx
from pymongo import MongoClient

from app.services.integrations.key_text import CHECKSUM_CHARACTERS, read_key
from tests.support.delivery_cases import Inbox, Json, Planned
from tests.support.http import http_client
from tests.support.marked import Markers
from tests.support.receivers import Receiver
from tests.support.serving import Follower, Serving
from tests.support.streams import Stream
from tests.support.waiting import eventually

FLOW = "marked"
ROUTE = f"/api/flow/{FLOW}"
PEOPLE = Markers()
"""The ids of users, which a database has in the clear, and neither Redis nor the log."""
ADA, BOB, CYD, EVE, FAY, GUS, HAL = (
    PEOPLE(name) for name in ("Ada", "Bob", "Cyd", "Eve", "Fay", "Gus", "Hal")
)
LIMITED = {"type": "object", "properties": {"limit": {"type": "integer"}, "code": {"enum": ["a", "b"]}}}


def definition(title: str = "first") -> Json:
    """The flow: draft, waiting (a second), review (two votes), done; each step has a service of its own."""
    ways: dict[str, tuple[str, dict[str, Json]]] = {
        "draft": (
            "hook",
            {
                "save": {"step": "draft", "conflict": {"merge": ["/note"]}},
                "check": {"step": "draft", "payloadSchema": LIMITED},
                "guarded": {"step": "draft", "guard": "payload.text == 'open' && int(payload.text) > 1"},
                "reading": {"step": "draft", "guard": "int(state.payload.note) > 1"},
                "submit": {"step": "review", "reversible": True},
                "wait": {"step": "waiting"},
            },
        ),
        "waiting": ("poll", {"passed": {"step": "draft"}}),
        "review": (
            "stream",
            {
                "approve": {
                    "step": "done",
                    "roles": ["reviewer"],
                    "approvals": {"of": "reviewer", "count": 2},
                },
                "edit": {"step": "review", "roles": ["reviewer"]},
            },
        ),
        "done": ("stream", {}),
    }
    steps: Json = {
        name: {
            "index": index, "step": name, "service": service, "initial": True,
            "payloadMap": {"note": 0},
            "transitions": {key: {"transition": key, **members} for key, members in transitions.items()},
        }
        for index, (name, (service, transitions)) in enumerate(ways.items())
    }  # fmt: skip
    steps["waiting"]["timeout"] = {"after": "PT1S", "transition": "passed"}
    return {
        "flow": FLOW, "title": title, "initialStep": "draft", "steps": steps,
        "participants": {"reviewer": {"assignable": True, "claim": "PT15M"}},
        "searchable": ["/ref"], "sensitive": {"/private": ["owner"]},
    }  # fmt: skip


class MarkedRun:
    """The run, and what it needs: a service with its databases, and receivers of its webhooks."""

    def __init__(self, serving: Serving, receiver: Receiver, markers: Markers) -> None:
        self.serving = serving
        self.markers = markers
        self.inbox = Inbox(receiver, "hook")
        self.answers: list[str] = []
        """The answers of the service."""
        self.keys: dict[str, str] = {}
        self._admin = serving.http("root", "flow:admin", "flow:service")
        self._followers: list[Follower] = []

    async def __aenter__(self) -> "MarkedRun":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(each.close() for each in self._followers))
        await self._admin.aclose()

    async def admin(self, method: str, path: str, status: int = 200, body: Any = None, **params: Any) -> Any:
        """Send a request of an administrator, and return the answer."""
        return await self.call(self._admin, method, path, status, body, **params)

    async def call(
        self,
        http: httpx.AsyncClient,
        method: str,
        path: str,
        status: int = 200,
        body: Any = None,
        headers: dict[str, str] | None = None,
        **params: Any,
    ) -> Any:
        answer = await http.request(method, path, json=body, params=params, headers=headers)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        self.answers.append(answer.text)
        return answer.json() if answer.content and "json" in answer.headers["content-type"] else answer.text

    async def follower(self, user: str, *scopes: str, device: str = "") -> Follower:
        """Connect a socket."""
        follower = Follower()
        auth = {"token": self.serving.token(user, *scopes), "device": device}
        await follower.client.connect(self.serving.url, auth=auth, transports=["websocket"], wait_timeout=10)
        self._followers.append(follower)
        return follower

    # Services and their secrets

    async def register_services(self) -> None:
        """Publish the flow, register services, rotate their secrets, and make API keys."""
        await self.admin("POST", "/api/flows", 201, definition())
        registrations: dict[str, Json] = {
            "hook": {"url": self.inbox.url},
            "stream": {"stream": True},
            "poll": {"flows": [FLOW]},
        }
        for alias, members in registrations.items():
            place = f"/api/admin/services/{alias}"
            made = await self.admin("PUT", place, 201, members)
            rotated = await self.admin("POST", f"{place}/rotate", 200, {})
            for name, answer in (("secret", made), ("rotated secret", rotated)):
                secret = answer["secret"]
                self.markers.add_secret(f"{name} of {alias}", secret)
                self.markers.add_secret(f"{name} of {alias}", secret.removeprefix("whsec_"))
            key = (await self.admin("POST", f"{place}/keys", 201, {"name": "a key"}))["key"]
            self.markers.add_secret(f"API key of {alias}", key.rpartition("_")[2][:-CHECKSUM_CHARACTERS])
            parts = read_key(key)
            assert parts is not None
            self.markers.add_secret(f"hash of API key of {alias}", bytes.fromhex(parts.hashed))
            self.keys[alias] = key

    def service(self, alias: str) -> httpx.AsyncClient:
        """Return a client with the API key of a service."""
        return http_client(self.serving.url, headers={"Authorization": f"Bearer {self.keys[alias]}"})

    # States

    async def change_states(self) -> None:
        """Make every kind of change of a state, over HTTP and the socket, and every kind of refusal."""
        mark = self.markers
        ada = await self.follower(ADA, device=mark("Device"))
        watcher = await self.follower("root", "flow:admin", device=mark("DeviceOfWatcher"))
        assert (await watcher.call("flow-watch", {"flowId": FLOW}))["ok"]
        assert (await ada.call("flow-subscribe", {"flowId": FLOW}))["ok"]
        assert (await ada.call("flow-presence", {"flowId": FLOW}))["ok"]
        async with self.serving.http(ADA) as http:
            await self._start_and_refuse(http)
            await self._move(http)
            await self._hold(http)
            await self._review(http, ada)
            await self._replace(http)
        await ada.until(lambda f: any(each["kind"] == "set" for each in f.updates()))

    async def _start_and_refuse(self, http: httpx.AsyncClient) -> None:
        mark = self.markers
        payload = {"note": mark("Start"), mark("MemberName"): [{"deep": mark("StartDeep")}], "ref": "R-100"}
        payload["private"] = mark("Private")
        started = {"payload": payload, "entityId": mark("Label")}
        key = {"Idempotency-Key": mark("IdempotencyKey")}
        await self.call(http, "POST", f"{ROUTE}/start", 201, started, key)
        await self.call(http, "POST", f"{ROUTE}/start", 201, started, key)
        bad = {"limit": mark("SchemaLimit"), "code": mark("SchemaEnum")}
        refusals: list[tuple[str, int, Any]] = [
            ("check", 422, {"payload": bad, "message": mark("RefusedMessage")}),
            ("guarded", 409, {"payload": {"text": mark("GuardPayload")}}),
            ("reading", 409, {"payload": {"text": mark("GuardOfState")}}),
            ("save", 422, {"payload": mark("NoObject")}),
            ("save", 422, {mark("NoMember"): 1}),
            ("nowhere", 409, {"payload": {"note": mark("RefusedPayload")}}),
        ]
        for transition, status, body in refusals:
            await self.call(http, "POST", f"{ROUTE}/transition/{transition}", status, body)
        given = json.dumps({"text": mark("Explained"), "limit": mark("ExplainedLimit")})
        await self.call(http, "GET", f"{ROUTE}/explain", payload=given)
        malformed = '{"payload": {"note": "' + mark("Malformed")
        answer = await http.post(
            f"{ROUTE}/transition/save", content=malformed, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 422), answer.text

    async def _move(self, http: httpx.AsyncClient) -> None:
        mark = self.markers
        save = f"{ROUTE}/transition/save"
        first = {"payload": {"note": mark("Saved"), "other": mark("Other")}, "message": mark("Message")}
        state = await self.call(http, "POST", save, 200, first, {"Idempotency-Key": mark("SavedKey")})
        before = f'"{state["epoch"]}.{state["revision"]}"'
        tag = (await http.get(f"{ROUTE}/state")).headers["etag"]
        assert before.strip('"') in tag
        await self.call(http, "POST", save, 200, {"payload": {"note": mark("Theirs")}})
        merged = {"payload": {"note": mark("Ours")}}
        await self.call(http, "POST", save, 200, merged, {"If-Match": tag})
        conflicting = {"payload": {"other": mark("Lost")}}
        await self.call(http, "POST", save, 200, {"payload": {"other": mark("OtherTheirs")}})
        await self.call(http, "POST", save, 412, conflicting, {"If-Match": tag})
        await self.call(
            http, "POST", save, 200, {"remove": ["/other"], "ok": False, "message": mark("Failed")}
        )
        await self.call(http, "POST", f"{ROUTE}/transition/wait", 200, {"payload": {"note": mark("Waiting")}})
        await eventually(lambda: self.call(http, "GET", f"{ROUTE}/state"), lambda s: s["step"] == "draft")

    async def _hold(self, http: httpx.AsyncClient) -> None:
        mark = self.markers
        await self.admin("POST", f"{ROUTE}/pause", 200, {"reason": mark("PauseReason")}, userId=ADA)
        await self.call(http, "POST", f"{ROUTE}/transition/save", 409, {"payload": {"note": mark("Paused")}})
        await self.admin("POST", f"{ROUTE}/resume", 200, None, userId=ADA)

    async def _review(self, http: httpx.AsyncClient, ada: Follower) -> None:
        mark = self.markers
        body = {"flowId": FLOW, "transition": "submit", "payload": {"note": mark("Socket")}}
        answer = await ada.call("flow-transition", {**body, "message": mark("SocketMessage")})
        assert answer["ok"], answer
        await self.call(http, "POST", f"{ROUTE}/back")
        refused = await ada.call("flow-transition", {**body, "payload": mark("SocketRefused")})
        assert not refused["ok"]
        await ada.client.emit(
            "flow-transition", {**body, "transition": "none", "message": mark("SocketError")}
        )
        await ada.until(lambda f: any(event == "flow-error" for event, _ in f.events))
        assert (await ada.call("flow-transition", {**body, "requestId": mark("RequestId")}))["ok"]
        people = [{"role": "reviewer", "userId": name} for name in (BOB, EVE)]
        await self.call(http, "PUT", f"{ROUTE}/participants", 200, {"participants": people})
        async with self.serving.http(BOB) as bob:
            for path, given in (
                ("claim", {"role": "reviewer"}),
                ("transition/edit", {"payload": {"note": mark("Edited")}}),
                ("release", {"role": "reviewer"}),
                ("transition/approve", {"payload": {"note": mark("Vote")}, "message": mark("VoteMessage")}),
                ("withdraw", None),
            ):
                await self.call(bob, "POST", f"{ROUTE}/{path}", 200, given, userId=ADA)

    async def _replace(self, http: httpx.AsyncClient) -> None:
        mark = self.markers
        await self.call(http, "POST", f"{ROUTE}/reset", 200, {})
        replaced = {
            "step": "draft",
            "service": "",
            "payload": {"note": mark("Set")},
            "message": mark("SetMessage"),
        }
        await self.admin("PUT", f"{ROUTE}/state", 200, {**replaced, "entityId": mark("SetLabel")}, userId=ADA)
        for path in ("state", "history", "history/verify", "events", "states"):
            await self.call(http, "GET", f"{ROUTE}/{path}")
        token = (await self.call(http, "GET", f"{ROUTE}/token"))["token"]
        await self.call(http, "GET", "/api/flow/state", 200, None, None, token=token)
        async with http.stream("GET", f"{ROUTE}/stream") as answer:
            stream = Stream(answer)
            assert mark("Set") in json.dumps(await stream.next())
            await self.call(
                http, "POST", f"{ROUTE}/transition/save", 200, {"payload": {"note": mark("Streamed")}}
            )
            assert mark("Streamed") in json.dumps(await stream.next())

    async def change_in_bulk(self) -> None:
        """Start more states, and change many at once."""
        mark = self.markers
        for user in (BOB, CYD, EVE):
            async with self.serving.http(user) as http:
                await self.call(http, "POST", f"{ROUTE}/start", 201, {"payload": {"note": mark("Another")}})
        operations: list[Json] = [
            {"op": "set", "userId": CYD, "body": {"step": "draft", "payload": {"note": mark("BulkSet")}}},
            {
                "op": "transition", "userId": BOB, "transition": "save", "requestId": mark("BulkRequest"),
                "body": {"payload": {"note": mark("BulkPayload")}, "message": mark("BulkMessage")},
            },
            {"op": "transition", "userId": BOB, "transition": "check",
             "body": {"payload": {"limit": mark("BulkRefused")}}},
            {"op": "pause", "userId": CYD, "body": {"reason": mark("BulkPause")}},
            {"op": "resume", "userId": CYD},
        ]  # fmt: skip
        every = [{"flowId": FLOW, **each} for each in operations]
        await self.admin("POST", "/api/admin/states/batch", 200, {"operations": every})
        pause = {"op": "pause", "body": {"reason": mark("FilterPause")}}
        chosen = {"filter": {"flowId": FLOW, "userId": CYD}, "operation": pause}
        await self.admin("POST", "/api/admin/states/batch", 200, chosen)

    # Deliveries

    async def deliver(self) -> None:
        """Have webhooks fail, refuse, and answer with transitions; then operate the deliveries."""
        mark = self.markers
        final = {"error": {"final": True, "reason": mark("FinalReason")}}
        answered = {"transition": "save", "payload": {"note": mark("Answered")}}
        self.inbox.plans[FAY] = [
            Planned(500, {"detail": mark("FailedAnswer")}),
            Planned(200, answered, {"X-Note": mark("AnswerHeader")}),
        ]
        self.inbox.plans[GUS] = [Planned(422, final), Planned(422, final)]
        refused = {"transition": "check", "payload": {"limit": mark("AnsweredRefused")}}
        self.inbox.plans[HAL] = [Planned(200, refused)]
        for user in (FAY, GUS, HAL):
            async with self.serving.http(user) as http:
                await self.call(http, "POST", f"{ROUTE}/start", 201, {"payload": {"note": mark("Delivered")}})
        await self.inbox.until(lambda: bool(self.inbox.events(FAY)))
        await self.admin("POST", "/api/admin/services/hook/enable", 200, {})
        await self.inbox.until(lambda: len(self.inbox.events(FAY)) >= 3)
        letters = await eventually(
            lambda: self.admin("GET", "/api/admin/dead-letters"), lambda page: len(page["items"]) == 1
        )
        await self._operate(letters["items"][0]["id"])
        await self.admin("POST", "/api/admin/services/hook/ping")
        await self.admin("POST", "/api/admin/services/hook/test", 200, {})
        await self._poll()

    async def _operate(self, letter: str) -> None:
        mark = self.markers
        place = f"/api/admin/services/hook/deliveries/{letter}"
        event = (await self.admin("GET", place))["letter"]["event"]
        event["data"]["payload"] = {"note": mark("EditedLetter")}
        await self.admin("PATCH", place, 200, {"event": event})
        await self.admin("POST", f"{place}/redeliver")
        await self.inbox.until(lambda: len(self.inbox.events(GUS)) >= 2)
        await eventually(lambda: self.admin("GET", place), lambda found: found["letter"]["attemptCount"] == 2)
        await self.admin(
            "POST",
            "/api/admin/services/hook/replay",
            200,
            {"fromRevision": 0, "flowId": FLOW, "userId": FAY},
        )
        await self.admin("GET", "/api/admin/services/hook/failing")

    async def _poll(self) -> None:
        async with self.service("poll") as http:
            await self.call(http, "GET", "/api/services/poll/pending")
            page = await eventually(
                lambda: self.call(http, "GET", "/api/services/poll/events"),
                lambda found: bool(found["items"]),
            )
            assert page["items"]
            async with http.stream("GET", "/api/services/poll/events/stream") as answer:
                await Stream(answer).next()
        async with self.service("stream") as http:
            await self.call(http, "GET", "/api/services/stream/pending")
        wrong = self.keys["poll"][:-4] + "AAAA"
        refused = await self.refused_key(wrong)
        self.answers.append(refused.text)

    async def refused_key(self, key: str) -> httpx.Response:
        async with http_client(self.serving.url, headers={"Authorization": f"Bearer {key}"}) as http:
            answer = await http.get("/api/services/poll/pending")
        assert answer.status_code == 401, answer.text
        return answer

    # Operation

    async def operate(self, url: str, database: str) -> None:
        """Damage a state and repair it, migrate, export, and end states."""
        mark = self.markers
        with MongoClient[Any](url) as client:
            changed = client[database]["flow_states"].update_one({"userId": EVE}, {"$set": {"step": "none"}})
        assert changed.modified_count == 1
        async with self.serving.http(EVE) as http:
            await self.call(http, "GET", f"{ROUTE}/state", 500)
            await self.call(
                http, "POST", f"{ROUTE}/transition/save", 500, {"payload": {"n": mark("Damaged")}}
            )
        await self.admin("POST", f"{ROUTE}/recover", 200, None, userId=EVE)
        tag = (await self._admin.get(f"/api/flows/{FLOW}")).headers["etag"]
        second = definition("second")
        await self.call(self._admin, "POST", "/api/flows", 200, second, {"If-Match": tag})
        await self.admin("POST", f"/api/flows/{FLOW}/migrate", 200, {"from": 1, "to": 2})
        for path in ("/api/admin/states", "/api/admin/statistics", "/api/admin/audit"):
            await self.admin("GET", path)
        found = await self.admin("GET", f"/api/flows/{FLOW}/states", match="/ref=R-100")
        await self.admin("GET", f"/api/flows/{FLOW}/states", match="/ref=R-101")
        assert isinstance(found["items"], list)
        exported = await self.admin("GET", "/api/admin/personal-data", userId=ADA)
        assert mark("Set") in json.dumps(exported)
        await self.admin("POST", "/api/admin/purge")

    async def erase(self) -> None:
        """Erase one user, and end the state of another."""
        await self.admin("DELETE", "/api/admin/personal-data", userId=ADA)
        async with self.serving.http(BOB) as http:
            await self.call(http, "DELETE", f"{ROUTE}/state", 204)
