"""The database stops, hangs, or loses a connection at the worst moment."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import bson
import httpx
import pytest
from pydantic import SecretStr

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin
from app.main import Backend, publish_definitions
from config.settings import Settings
from tests.support.faults import BreakingProxy, MongoServer
from tests.support.serving import Follower, Serving, external
from tests.support.shorter_waits import in_short_form

FLOW = "user-onboarding"
ANSWERS = in_short_form("time of a database that hangs", {"models.database.SOCKET_TIMEOUT_MS": 3000})
"""Of the readiness check, which has no shorter timeout of its own."""


@pytest.fixture(scope="module")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    server = MongoServer(tmp_path_factory.mktemp("mongo"))
    yield server
    server.kill()


@pytest.fixture
async def own(servers: Settings, mongo: MongoServer, request: pytest.FixtureRequest) -> Settings:
    """Settings with the database that can be stopped."""
    name = f"test_{abs(hash(request.node.name)):x}"[:30]
    return servers.model_copy(update={"mongo_url": SecretStr(mongo.url), "mongo_database": name})


async def _refused(http: httpx.AsyncClient, *requests: tuple[str, str]) -> None:
    async def refused(method: str, path: str) -> None:
        began = time.monotonic()
        answer = await http.request(method, f"/api/flow/{FLOW}/{path}")
        assert time.monotonic() - began < 3, "answers within three seconds"
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert answer.json()["retryable"] is True
        assert int(answer.headers["retry-after"]) >= 1

    async def unready() -> None:
        assert (await http.get("/readyz")).json()["checks"]["mongodb"] == "STORE_UNAVAILABLE"

    await asyncio.gather(unready(), *(refused(*request) for request in requests))
    assert (await http.get("/livez")).status_code == 200


async def _served_again(http: httpx.AsyncClient) -> int:
    """The revision after a change, as soon as changes are made again."""
    deadline = time.monotonic() + 15
    while True:
        answer = await http.post(f"/api/flow/{FLOW}/reset")
        if answer.status_code == 200:
            return int(answer.json()["revision"])
        assert answer.status_code == 503
        assert time.monotonic() < deadline


async def test_a_stopped_or_hanging_database_is_503_and_comes_back(
    own: Settings, mongo: MongoServer, tmp_path: Path
) -> None:
    serving = Serving(env=external(own), cwd=tmp_path, constants=ANSWERS)
    follower = await Follower().connect(serving.url, serving.token("ada"))
    async with serving.http("ada") as http:
        assert (await http.post(f"/api/flow/{FLOW}/start")).status_code == 201
        mongo.signal(signal.SIGSTOP)
        answer, _ = await asyncio.gather(
            follower.call("flow-state", {"flowId": FLOW}),
            _refused(http, ("GET", "state"), ("POST", "transition/start")),
        )
        assert answer["error"]["code"] == "STORE_UNAVAILABLE"
        mongo.signal(signal.SIGCONT)
        await _served_again(http)
        mongo.kill()
        await _refused(http, ("POST", "start"))
        mongo.start()
        last = await _served_again(http)
        history = (await http.get(f"/api/flow/{FLOW}/history")).json()["items"]
        commits = [r["metadata"]["revision"] for r in history if r["success"]]
        assert commits == list(range(last + 1))
    await follower.until(lambda f: bool(f.updates()) and f.updates()[-1]["revision"] == last)
    assert [e["revision"] for e in follower.updates()] == list(range(last + 1))
    await follower.close()
    serving.end()


@pytest.fixture
async def through_proxy(own: Settings, mongo: MongoServer) -> AsyncIterator[tuple[Backend, BreakingProxy]]:
    """A service whose connections to the database can be broken."""
    proxy = await BreakingProxy(mongo.port).start()
    url = f"mongodb://127.0.0.1:{proxy.port}/?retryWrites=false&directConnection=true&retryReads=false"
    parts = Backend(own.model_copy(update={"mongo_url": SecretStr(url)}))
    async with parts.running() as service:
        await publish_definitions(service, own)
        yield parts, proxy
    await proxy.stop()


@pytest.mark.parametrize("answered", [False, True], ids=["before it is applied", "after it is applied"])
async def test_a_connection_that_breaks_during_the_commit(
    through_proxy: tuple[Backend, BreakingProxy], answered: bool
) -> None:
    """The caller gets the right answer both times, and the change is made once."""
    parts, proxy = through_proxy
    service = parts.service
    flows = service.as_trusted()
    await flows.start_flow("ada", FLOW)
    await service.background.relay.drain(5)
    proxy.break_next(b"profile-setup", answered=answered)
    state = await service.execute_transition(
        "ada", FLOW, "start", {"n": 1}, origin=Origin(trusted_caller("ada"), request_id="r")
    )
    assert proxy.broken == 1
    assert (state.revision, state.step) == (1, "profile-setup")
    again = await service.execute_transition(
        "ada", FLOW, "start", {"n": 1}, origin=Origin(trusted_caller("ada"), request_id="r")
    )
    assert again == state
    history = await flows.get_flow_history("ada", FLOW)
    assert [r.revision for r in history] == [0, 1]


@pytest.mark.parametrize("answered", [False, True], ids=["before it is applied", "after it is applied"])
async def test_a_connection_that_breaks_during_the_start(
    through_proxy: tuple[Backend, BreakingProxy], answered: bool
) -> None:
    parts, proxy = through_proxy
    proxy.break_next(b"welcome", answered=answered)
    state, started = await parts.service.as_trusted().start_flow("ada", FLOW)
    assert (proxy.broken, started, state.revision) == (1, True, 0)
    assert [r.revision for r in await parts.service.as_trusted().get_flow_history("ada", FLOW)] == [0]


def in_bson(command: str, collection: str) -> bytes:
    """How a command on a collection begins: other collections are those of the background jobs."""
    return bson.encode({command: collection})[4:-1]


async def test_a_connection_that_breaks_again_and_again(
    through_proxy: tuple[Backend, BreakingProxy],
) -> None:
    """At the update, at its repetition, and at the insert that delivers the record."""
    parts, proxy = through_proxy
    service = parts.service
    flows = service.as_trusted()
    await flows.start_flow("ada", FLOW)
    await service.background.relay.drain(5)
    update, insert = in_bson("update", "flow_states"), in_bson("insert", "flow_history")
    for times, command in ((1, update), (2, update), (1, insert)):
        before = await flows.get_flow_state("ada", FLOW)
        assert before is not None
        broken = proxy.broken
        proxy.break_next(command, answered=False, times=times)
        state = await flows.reset_flow("ada", FLOW)
        assert state.revision == before.revision + 1
        await service.background.relay.drain(5)
        assert proxy.broken == broken + times
    history = await flows.get_flow_history("ada", FLOW)
    assert [r.revision for r in history] == [0, 1, 2, 3]
