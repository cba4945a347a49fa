"""Limits of requests and connections on two workers, behind a proxy that they trust."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
import socketio
from pydantic import SecretStr

from config.settings import Settings
from tests.support.faults import RedisServer
from tests.support.http import http_client
from tests.support.serving import Follower, Serving, end_together, external, serving_together
from tests.support.streams import Stream

FLOW = "user-onboarding"
PER_MINUTE = 240
"""Requests of a user; four a second are regained."""
ADDRESS_PER_MINUTE = 30
FAILURES_PER_MINUTE = 5
POLL_SECONDS = 0.2
"""Polling spends about as much of a budget as is regained meanwhile."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def hosts(
    servers: Settings, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Serving, Serving]]:
    """Two workers on a Redis of their own, with low limits."""
    names = {"mongo_database": f"test_{uuid.uuid4().hex[:12]}", "redis_url": SecretStr(redis.url)}
    env = {
        **external(servers.model_copy(update=names)),
        "FLOW_TRUSTED_PROXIES": "127.0.0.1",
        "FLOW_USER_REQUESTS_PER_MINUTE": str(PER_MINUTE),
        "FLOW_ADDRESS_REQUESTS_PER_MINUTE": str(ADDRESS_PER_MINUTE),
        "FLOW_ADDRESS_FAILURES_PER_MINUTE": str(FAILURES_PER_MINUTE),
        "FLOW_USER_CONNECTIONS": "2",
        "FLOW_ADDRESS_CONNECTIONS": "3",
    }
    first, second = serving_together(2, env=env, cwd=tmp_path_factory.mktemp("limits"))
    yield first, second
    end_together([first, second])


@pytest.fixture
async def clients(hosts: tuple[Serving, Serving], user: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """The user at both workers."""
    async with hosts[0].http(user) as first, hosts[1].http(user) as second:
        yield [first, second]


async def read(http: httpx.AsyncClient) -> httpx.Response:
    return await http.get("/api/flows", params={"limit": 1})


async def use_up(http: httpx.AsyncClient) -> int:
    """Send requests until one is refused, and return how many were admitted."""
    for admitted in range(2 * PER_MINUTE):
        answer = await read(http)
        if answer.status_code == 429:
            assert answer.json()["code"] == "RATE_LIMITED"
            assert answer.headers["ratelimit-policy"] == f'"user";q={PER_MINUTE};w=60'
            return admitted
        assert answer.status_code == 200
    raise AssertionError("there is no limit")


async def until_refused(http: httpx.AsyncClient) -> httpx.Response:
    async with asyncio.timeout(10):
        while (answer := await read(http)).status_code != 429:
            await asyncio.sleep(POLL_SECONDS)
    return answer


async def test_workers_share_the_limit_of_a_user_and_say_when_to_come_back(
    hosts: tuple[Serving, Serving], clients: list[httpx.AsyncClient]
) -> None:
    first, second = clients
    assert await use_up(first) >= PER_MINUTE
    refused = await until_refused(second)
    assert await use_up(first) < PER_MINUTE / 4, "it has only what was regained meanwhile"
    again = await read(first)
    assert again.status_code == 429
    for answer in (refused, again):
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["details"]["retryAfterMs"] <= 1000 * int(answer.headers["retry-after"])
    async with hosts[1].http(f"other-{uuid.uuid4().hex[:6]}") as other:
        assert (await read(other)).status_code == 200, "another user is unaffected"
    waits = [int(answer.headers["retry-after"]) for answer in (refused, again)]
    # One second more for the requests that one worker admitted and the other did not know of.
    await asyncio.sleep(max(waits) + 1)
    assert (await read(second)).status_code == 200
    assert (await read(first)).status_code == 200


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_without_redis_each_worker_limits_alone_and_then_they_share_again(
    hosts: tuple[Serving, Serving], redis: RedisServer
) -> None:
    names = [f"user-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    redis.kill()
    async with hosts[0].http(names[0]) as first, hosts[1].http(names[0]) as second:
        assert await use_up(first) >= PER_MINUTE
        assert await use_up(second) >= PER_MINUTE
    redis.start()
    async with hosts[0].http(names[1]) as first, hosts[1].http(names[1]) as second:
        assert await use_up(first) >= PER_MINUTE
        await until_refused(second)


async def test_an_address_behind_a_proxy_is_limited_also_without_a_token(
    hosts: tuple[Serving, Serving],
) -> None:
    async def get(address: str, path: str = "/api/flows") -> httpx.Response:
        return await http.get(
            path, headers={"X-Forwarded-For": f"198.51.100.{uuid.uuid4().int % 250}, {address}"}
        )

    async with http_client(hosts[0].url) as http:
        statuses = [(await get("203.0.113.1")).status_code for _ in range(ADDRESS_PER_MINUTE + 5)]
        assert (statuses[0], statuses[-1]) == (401, 429), "the part that the client writes changes nothing"
        limited = await get("203.0.113.1", "/static/flow-client.js")
        assert limited.status_code == 429
        assert limited.headers["ratelimit-policy"] == f'"address";q={ADDRESS_PER_MINUTE};w=60'
        assert (await get("203.0.113.1", "/livez")).status_code == 200
        assert (await get("203.0.113.1", "/readyz")).status_code == 200
        assert (await get("203.0.113.2")).status_code == 401
        assert (await get("[2001:db8::1]:7")).status_code == 401
        handshake = {"X-Forwarded-For": "203.0.113.1", "Connection": "Upgrade", "Upgrade": "websocket"}
        handshake |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        socket = await http.get("/socket.io/?EIO=4&transport=websocket", headers=handshake)
        assert (socket.status_code, socket.json()["code"]) == (429, "RATE_LIMITED")


async def test_failed_authentications_of_an_address_are_limited_more(
    hosts: tuple[Serving, Serving], user: str
) -> None:
    address = {"X-Forwarded-For": "203.0.113.77"}
    async with hosts[0].http(user) as known, http_client(hosts[0].url) as http:
        assert (await known.get("/api/flows", headers=address)).status_code == 200
        bad = {**address, "Authorization": "Bearer bad"}
        statuses = [(await http.get("/api/flows", headers=bad)).status_code for _ in range(8)]
        assert statuses == [401] * FAILURES_PER_MINUTE + [429] * 3
        assert (await known.get("/api/flows", headers=address)).status_code == 200, "a verified token goes on"
        socket = socketio.AsyncClient(reconnection=False)
        refusals: asyncio.Queue[object] = asyncio.Queue()
        socket.on("connect_error", refusals.put)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await socket.connect(hosts[0].url, auth={"token": "x"}, headers=address, transports=["websocket"])
        assert "RATE_LIMITED" in str(await asyncio.wait_for(refusals.get(), 10))


async def test_connections_of_a_user_and_of_an_address_are_limited(
    hosts: tuple[Serving, Serving], user: str
) -> None:
    url = hosts[0].url
    follower = await Follower().connect(url, hosts[0].token(user))
    path = f"/api/flow/{FLOW}/stream"
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(hosts[0].http(user))
        response = await stack.enter_async_context(http.stream("GET", path))
        assert response.status_code == 200
        events = Stream(response)  # it ends when nobody has it any more
        assert (await events.next())[0] == "flow-state"
        refused = await http.get(path)
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        with pytest.raises(socketio.exceptions.ConnectionError):
            await Follower().connect(url, hosts[0].token(user))
        await follower.client.disconnect()
        follower = await Follower().connect(url, hosts[0].token(user))
    await follower.client.disconnect()
    async with AsyncExitStack() as stack:
        headers = {"X-Forwarded-For": "203.0.113.88"}
        for _ in range(3):
            one = await stack.enter_async_context(hosts[0].http(f"user-{uuid.uuid4().hex[:8]}"))
            stream = await stack.enter_async_context(one.stream("GET", path, headers=headers))
            assert stream.status_code == 200
        another = await stack.enter_async_context(hosts[0].http(user))
        assert (await another.get(path, headers=headers)).status_code == 429
        assert (await another.get("/api/flows", headers=headers)).status_code == 200
