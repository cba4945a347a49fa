"""Following a state with HTTP alone: catching up, and Server-Sent Events."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from app.http.routes.streams import MAX_READERS
from config.settings import Settings
from tests.support.http import http_client
from tests.support.serving import Serving, external
from tests.support.streams import Stream

FLOW = "user-onboarding"
ROUTE = f"/api/flow/{FLOW}"


@asynccontextmanager
async def stream(http: httpx.AsyncClient, last: str | None = None, **params: Any) -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": last} if last else {}
    async with http.stream("GET", f"{ROUTE}/stream", headers=headers, params=params) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield Stream(response)


async def test_a_stream_starts_with_the_state_and_reports_every_change(serving: Serving, user: str) -> None:
    async with serving.http(user) as http, stream(http) as events:
        assert await events.next() == ("flow-state", None, None)
        states = [(await http.post(f"{ROUTE}/start")).json()]
        name, position, data = await events.next()
        assert (name, data) == ("flow-state", states[0]), "a life that it knew nothing of"
        assert position == f"{data['epoch']}.0"
        for revision, transition in enumerate(("start", "continue", "save", "complete"), 1):
            state = (await http.post(f"{ROUTE}/transition/{transition}")).json()
            name, position, data = await events.next()
            assert (name, position) == ("flow-state-updated", f"{state['epoch']}.{revision}")
            assert {key: data[key] for key in state} == state
            assert (data["transition"], data["kind"]) == (transition, "transitioned")
        await http.delete(f"{ROUTE}/state")
        assert (await events.next())[2]["status"] == "cleared"


async def test_last_event_id_goes_on_without_a_gap(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        epoch = (await http.post(f"{ROUTE}/start")).json()["epoch"]
        for transition in ("start", "continue"):
            await http.post(f"{ROUTE}/transition/{transition}")
        async with stream(http, last=f"{epoch}.0") as events:
            assert [(await events.next())[:2] for _ in range(2)] == [
                ("flow-state-updated", f"{epoch}.{revision}") for revision in (1, 2)
            ]
            await http.post(f"{ROUTE}/transition/save")
            assert (await events.next())[1] == f"{epoch}.3"
        async with stream(http, epoch=epoch, since=3) as events:
            await http.post(f"{ROUTE}/transition/complete")
            assert (await events.next())[1] == f"{epoch}.4", "nothing was missed: nothing is sent"
        async with stream(http, last="another-life.7") as events:
            assert (await events.next())[:2] == ("flow-state", f"{epoch}.4")
        await http.delete(f"{ROUTE}/state")
        async with stream(http, last=f"{epoch}.4") as events:
            assert (await events.next())[2]["status"] == "cleared"


async def test_a_position_of_nowhere_hides_nothing(serving: Serving, user: str) -> None:
    async with serving.http(user) as http, stream(http, epoch="zzzz", since=3) as events:
        assert await events.next() == ("flow-state", None, None)
        await http.post(f"{ROUTE}/start")
        name, _, state = await events.next()
        assert (name, state["revision"]) == ("flow-state", 0)
        await http.post(f"{ROUTE}/transition/start")
        assert (await events.next())[2]["revision"] == 1


async def test_many_changes_at_once_come_once_and_in_order(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        epoch = (await http.post(f"{ROUTE}/start")).json()["epoch"]
        async with stream(http, last=f"{epoch}.0") as events:
            resets = [http.post(f"{ROUTE}/reset", json={"step": "preferences"}) for _ in range(40)]
            answers = asyncio.gather(*resets)
            positions = [(await events.next())[1] for _ in range(40)]
            assert {a.status_code for a in await answers} == {200}
    assert positions == [f"{epoch}.{n}" for n in range(1, 41)]


async def test_a_token_that_expires_ends_the_stream_with_its_code(serving: Serving, user: str) -> None:
    last_moment = {"sub": user, "exp": int(time.time()) - 3}  # 5 seconds are allowed to clocks
    token = jwt.encode(last_moment, serving.secret, "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    async with http_client(serving.url, headers=headers) as http, stream(http) as events:
        assert (await events.next())[0] == "flow-state"
        name, _, data = await events.next()
        assert (name, data["code"]) == ("flow-error", "AUTHENTICATION_REQUIRED")
        with pytest.raises(EOFError):
            await events.next()


@pytest.mark.parametrize("route", ["events", "stream"])
@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"epoch": "e"}, "/since"),
        ({"since": 1}, "/epoch"),
        ({"epoch": "e", "since": -1}, "/since"),
        ({"epoch": "e", "since": "x"}, "/since"),
    ],
)
async def test_half_a_position_is_none(
    serving: Serving, user: str, route: str, params: dict[str, Any], pointer: str
) -> None:
    async with serving.http(user) as http:
        answer = await http.get(f"{ROUTE}/{route}", params=params)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["details"]["errors"]] == [pointer]


@pytest.mark.parametrize("last", ["x", "1", "a.b", "e.-1", "." + "1" * 40])
async def test_a_last_event_id_is_one_that_was_reported(serving: Serving, user: str, last: str) -> None:
    async with serving.http(user) as http:
        answer = await http.get(f"{ROUTE}/stream", headers={"Last-Event-ID": last})
    assert answer.status_code == 422
    assert answer.json()["details"]["errors"][0]["pointer"] == "/Last-Event-ID"


async def test_streams_of_a_user_are_bounded_and_given_free(serving: Serving, user: str) -> None:
    headers = {"Authorization": f"Bearer {serving.token(user)}"}
    unlimited = httpx.Limits(max_connections=None)
    async with http_client(serving.url, headers=headers, limits=unlimited) as http:
        open_streams = [stream(http) for _ in range(MAX_READERS)]
        for each in open_streams:
            await each.__aenter__()
        async with http_client(serving.url, headers=http.headers) as another:
            refused = await another.get(f"{ROUTE}/stream")
            assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
            assert refused.headers["retry-after"]
            for each in open_streams:
                await each.__aexit__(None, None, None)
            async with asyncio.timeout(10):  # the server notices that they are gone
                while (await another.head(f"{ROUTE}/stream")).status_code != 200 or not await _opens(another):
                    await asyncio.sleep(0.05)


async def _opens(http: httpx.AsyncClient) -> bool:
    async with http.stream("GET", f"{ROUTE}/stream") as response:
        return response.status_code == 200


async def test_head_answers_the_headers_of_get_and_ends(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        answer = await http.head(f"{ROUTE}/stream")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_stopping_the_server_ends_streams_at_once(servers: Settings, tmp_path: Path) -> None:
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    serving = Serving(env=external(own), cwd=tmp_path)
    async with serving.http("ada") as http, stream(http) as events:
        await events.next()
        began = time.monotonic()
        ended = asyncio.create_task(asyncio.to_thread(serving.end))
        with pytest.raises((EOFError, httpx.RemoteProtocolError)):
            await events.next()
        assert await ended == 0
        assert time.monotonic() - began < 8, "not cut off by the time that uvicorn allows (10 s)"
    assert "Traceback" not in serving.output
