"""No secret and no text of a driver is in an answer, in an event or in the log, also while servers are away.

The requests are those of all routes and all socket events.
"""

import asyncio
import base64
import json
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from msgspec import Struct
from pydantic import SecretStr

from app.http.application import all_endpoints
from app.http.endpoint import Endpoint
from config.settings import Settings
from realtime.gateway.access import EVENT_ACCESS
from tests.support.faults import CuttableProxy
from tests.support.http import http_client
from tests.support.integrations import checkout_dict
from tests.support.long_form import form
from tests.support.marked import Markers, secret_of_the_bus
from tests.support.receivers import receiving
from tests.support.serving import Follower, Serving, external
from tests.support.shorter_waits import in_short_form

pytestmark = pytest.mark.timeout(300)

ENCRYPTION_KEY = base64.b64encode(secrets.token_bytes(32)).decode()
ENDLESS = {"streamFlowState", "streamServiceEvents"}
DESTRUCTIVE = {"erasePersonalData", "deleteFlow", "removeService"}
DRIVERS = re.compile(
    r"(?i)traceback|pymongo|motor|beanie|hiredis|aioredis|redis\.|bson|errno|connection refused|"
    r"topology|server ?selection|autoreconnect|\bcommand\b.*\bfailed\b|site-packages|\.py\b|<class "
)
"""Texts of drivers and of Python, which say nothing to a caller and much to an attacker."""
CODE_PLACES = {"at", "via", "error"}
"""Members of a line of the log that name a type of error and places in the code, by design."""


EVERYBODY = ("admin", "user", "API key", "nothing", "the secret", "a wrong key")
CREDENTIALS = form("credentials of all requests", short=("admin", "the secret"), long=EVERYBODY)
WHILE_AWAY = form("credentials while servers are away", short=("admin",), long=EVERYBODY)
ONE_AWAY: list[tuple[str, ...]] = [("Redis",), ("MongoDB",)]
AWAY = form("servers that are away", short=ONE_AWAY, long=[*ONE_AWAY, ("Redis", "MongoDB")])


ANSWERS = in_short_form(
    "time of servers that are away",
    {"models.database.SERVER_SELECTION_MS": 1000, "realtime.redis.servers.TIMEOUT_SECONDS": 1.0},
)


class Found(Struct):
    """The answers, each with its request, and the lines of the log."""

    markers: Markers
    answers: list[tuple[str, str]]
    lines: list[str]
    addresses: list[str]

    def leaks(self, name: str, text: str) -> Iterator[str]:
        """Yield what a text must not have."""
        for secret in sorted(self.markers.found(text.encode())):
            yield f"{name}: {secret}"
        for address in self.addresses:
            if address in text:
                yield f"{name}: the address {address}"


BODIES: dict[str, Any] = {
    "pauseFlow": {"reason": "r"},
    "setFlowState": {"step": "cart", "service": "", "ok": True},
    "validateFlow": checkout_dict("other"),
    "createFlow": checkout_dict("other"),
    "importFlow": checkout_dict("other"),
    "updateFlow": {"title": "changed"},
    "migrateFlowStates": {"from": 1, "to": 1},
    "changeFlowStates": {"operations": [{"op": "resume", "userId": "ada", "flowId": "checkout"}]},
    "setParticipants": {"participants": []},
    "replayDeliveries": {"fromRevision": 0, "flowId": "checkout", "userId": "ada"},
    "redeliverDeadLetters": {"filter": {}},
    "dropDeadLetters": {"filter": {}},
}

MEMBERS: dict[str, Any] = {
    "flow-transition": {"transition": "order"},
    "flow-participants": {"participants": []},
}


def requests_of(endpoint: Endpoint) -> tuple[str, dict[str, str], Any]:
    """Return a path, a query and a body with which an endpoint does something."""
    path = endpoint.path.format(
        flow_id="checkout", transition="order", earlier="1", later="1", version="1", alias="payment",
        key_id="0" * 16, event_id="evt_0",
    )  # fmt: skip
    takes = endpoint.query.__struct_fields__
    query = {"userId": "ada"} if "user_id" in takes else {}
    if "token" in takes:
        query["token"] = "eyJmIjoiY2hlY2tvdXQ6MCJ9"
    return path, query, BODIES.get(endpoint.name, {} if endpoint.body else None)


class Asking:
    """Sends every request and every event, and records the answers."""

    def __init__(self, serving: Serving, key: str) -> None:
        self.serving = serving
        self.answers: list[tuple[str, str]] = []
        self._key = key
        self._admin = serving.token("root", "flow:admin", "flow:service")

    async def ask_everything(self, condition: str, credentials: Sequence[str]) -> None:
        """Send all requests and all events, many at once."""
        serving = self.serving
        known = {
            "admin": f"Bearer {self._admin}",
            "user": f"Bearer {serving.token('ada')}",
            "API key": f"Bearer {self._key}",
            "nothing": "",
            "the secret": f"Bearer {serving.secret}",
            "a wrong key": f"Bearer {self._key[:-4]}AAAA",
        }
        limits = httpx.Limits(max_connections=60)
        async with http_client(serving.url, limits=limits, timeout=60, event_hooks={}) as http:
            asked = [
                self._ask(http, endpoint, f"{condition}, {name}", known[name])
                for endpoint in all_endpoints({})
                for name in credentials
                if endpoint.name not in DESTRUCTIVE
            ]
            called = [self._call(condition, event) for event in EVENT_ACCESS if event.startswith("flow-")]
            await asyncio.gather(*asked, *called)

    async def misplace_credentials(self) -> list[str]:
        """Send credentials in places where they do not belong, and return them."""
        credentials = [self._admin, self._key, self._key.replace("sfk_", "whsec_")]
        async with http_client(self.serving.url, event_hooks={}) as http:
            for credential in credentials:
                headers = {
                    "X-Request-Id": credential[:128],
                    "Origin": f"https://{credential[:60]}",
                    "User-Agent": credential,
                    "Idempotency-Key": credential[:128],
                }
                for path in (f"/{credential}", f"/api/flow/{credential}/state", f"/api/flows/{credential}"):
                    answer = await http.get(path, headers=headers, params={"access_token": credential})
                    assert answer.status_code in {401, 403, 404, 422}, answer.text
        return credentials

    async def _ask(self, http: httpx.AsyncClient, endpoint: Endpoint, name: str, credential: str) -> None:
        path, query, body = requests_of(endpoint)
        headers = {"Authorization": credential} if credential else {}
        place = f"{name}: {endpoint.method} {path}"
        async with http.stream(endpoint.method, path, params=query, json=body, headers=headers) as answer:
            text = f"{answer.status_code} {answer.headers!r} "
            if answer.status_code == 200 and endpoint.name in ENDLESS:
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        async for part in answer.aiter_text():
                            text += part
            else:
                text += (await answer.aread()).decode(errors="replace")
        self.answers.append((place, text))

    def _note(self, condition: str, event: str, body: Any) -> None:
        self.answers.append((f"{condition}: {event}", json.dumps(body)))

    async def _call(self, condition: str, event: str) -> None:
        follower = Follower()
        follower.client.on("*", partial(self._note, condition))
        await follower.client.connect(
            self.serving.url, auth={"token": self._admin}, transports=["websocket"], wait_timeout=30
        )
        members: dict[str, Any] = {
            "flow-transition": {"transition": "order"},
            "flow-participants": {"participants": []},
        }
        body = {"flowId": "checkout", "userId": "ada", **members.get(event, {})}
        answer = await follower.client.call(event, body, timeout=30)
        self.answers.append((f"{condition}: {event}", json.dumps(answer)))
        await follower.close()


@pytest.fixture(scope="module")
async def found(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Found]:
    """All requests and events, while all servers respond, and while the database, Redis, and both do not."""
    assert servers.mongo_url is not None
    assert servers.redis_url is not None
    markers, urls = Markers(), []
    proxies: dict[str, CuttableProxy] = {}
    for name, url in (("MongoDB", servers.mongo_url), ("Redis", servers.redis_url)):
        text = url.get_secret_value()
        parts = urlsplit(text)
        if parts.password:
            markers.add_secret(f"password of {name}", unquote(parts.password))
        proxy = proxies[name] = await CuttableProxy(parts.port or 0).mend()
        urls.append(SecretStr(text.replace(f":{parts.port}", f":{proxy.port}")))
    database = f"test_{uuid.uuid4().hex[:12]}"
    key = SecretStr(ENCRYPTION_KEY)
    changes = {"mongo_url": urls[0], "redis_url": urls[1], "mongo_database": database, "encryption_keys": key}
    own = servers.model_copy(update=changes)
    env = {
        **external(own),
        "FLOW_LOG_LEVEL": "debug",
        "FLOW_LOG_FORMAT": "json",
        "FLOW_ENCRYPTION_KEYS": ENCRYPTION_KEY,
        "FLOW_SERVICES_PRIVATE_ADDRESSES": "127.0.0.0/8",
    }
    markers.add_secret("secret of tokens", env["FLOW_JWT_SECRET"])
    markers.add_secret("encryption key", ENCRYPTION_KEY)
    markers.add_secret("encryption key", base64.b64decode(ENCRYPTION_KEY))
    folder = tmp_path_factory.mktemp("secrets")
    serving = await asyncio.to_thread(Serving, env=env, cwd=folder, constants=ANSWERS)
    async with receiving() as receiver, serving.http("root", "flow:admin") as admin:
        assert (await admin.post("/api/flows", json=checkout_dict())).status_code == 201
        members = {"url": receiver.url(), "stream": True, "flows": ["checkout"]}
        markers.add_secret("secret of the bus", await secret_of_the_bus(own))
        made = await admin.put("/api/admin/services/payment", json=members)
        markers.add_secret("webhook secret", made.json()["secret"].removeprefix("whsec_"))
        api_key = (await admin.post("/api/admin/services/payment/keys", json={})).json()["key"]
        markers.add_secret("API key", api_key.rpartition("_")[2][:20])
        asking = Asking(serving, api_key)
        await asking.ask_everything("all servers respond", CREDENTIALS)
        for credential in await asking.misplace_credentials():
            markers.add_secret("misplaced credential", credential.rpartition(".")[2][-30:])
        for names in AWAY:
            for name in names:
                await proxies[name].cut()
            await asking.ask_everything(f"without {' and '.join(names)}", WHILE_AWAY)
            for name in names:
                await proxies[name].mend()
    await asyncio.to_thread(serving.end)
    yield Found(markers, asking.answers, serving.lines, [f":{each.port}" for each in proxies.values()])
    for proxy in proxies.values():
        await proxy.cut()


def test_no_answer_has_a_secret_or_a_text_of_a_driver(found: Found) -> None:
    leaks = [leak for name, text in found.answers for leak in found.leaks(name, text)]
    leaks += [f"{name}: {text}" for name, text in found.answers if DRIVERS.search(text)]
    assert not leaks, "\n".join(leaks)


def test_no_line_of_the_log_has_a_secret_or_a_text_of_a_driver(found: Found) -> None:
    leaks = [leak for line in found.lines for leak in found.leaks(line, line)]
    for line in found.lines:
        if line.startswith("{"):
            members = json.loads(line)
            if DRIVERS.search(json.dumps({k: v for k, v in members.items() if k not in CODE_PLACES})):
                leaks.append(line)
    assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize(
    "text",
    [
        "localhost:27017: [Errno 111] Connection refused, Topology Description: <TopologyDescription",
        "ServerSelectionTimeoutError",
        "redis.exceptions.ConnectionError",
        'File "app/main.py", line 1',
        "Traceback (most recent call last)",
    ],
)
def test_texts_of_drivers_are_recognised(text: str) -> None:
    assert DRIVERS.search(text)


def test_the_tables_name_routes() -> None:
    assert BODIES.keys() | ENDLESS | DESTRUCTIVE <= {endpoint.name for endpoint in all_endpoints({})}


def test_the_servers_were_away(found: Found) -> None:
    text = "\n".join(text for _, text in found.answers)
    assert {"STORE_UNAVAILABLE", "AUTHENTICATION_REQUIRED"} <= set(re.findall(r'"code": ?"(\w+)"', text))
    assert "redis connection lost" in "\n".join(found.lines)
