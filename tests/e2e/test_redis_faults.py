"""Redis stops: changes go on, workers say that they are deaf, clients are told when they hear again."""

import asyncio
import signal
from pathlib import Path

from pydantic import SecretStr

from config.settings import Settings
from tests.e2e.faults import RedisServer
from tests.e2e.serving import Follower, Serving, external

FLOW = "user-onboarding"


async def _ready(serving: Serving, status: int) -> dict[str, str]:
    async with asyncio.timeout(20), serving.http("ada") as http:
        while True:
            answer = await http.get("/readyz")
            if answer.status_code == status:
                checks: dict[str, str] = answer.json()["checks"]
                return checks


async def test_redis_stops_and_returns(settings: Settings, tmp_path: Path) -> None:
    redis = RedisServer()
    own = settings.model_copy(update={"redis_url": SecretStr(redis.url)})
    first = Serving(env=external(own), cwd=tmp_path)
    second = Serving(env=external(own), cwd=tmp_path)
    follower = await Follower().connect(second.url, second.token("ada"))
    async with first.http("ada") as http, second.http("ada", "flow:admin") as other:
        assert (await http.post(f"/api/flow/{FLOW}/start")).status_code == 201
        await follower.until(lambda f: len(f.updates()) == 1)
        assert (await other.get(f"/api/flows/{FLOW}")).headers["etag"] == '"1"'

        redis.kill()
        assert (await _ready(first, 503))["redis"] == "BUS_UNAVAILABLE"
        assert (await _ready(second, 503))["mongodb"] == "ok"
        for transition in ("start", "continue"):
            assert (await http.post(f"/api/flow/{FLOW}/transition/{transition}")).status_code == 200
        changed = await other.patch(f"/api/flows/{FLOW}", json={"title": "Changed meanwhile"})
        assert changed.status_code == 200

        redis.start()
        for serving in (first, second):
            assert (await _ready(serving, 200))["redis"] == "ok"
        await follower.until(lambda f: any(event == "flow-resync" for event, _ in f.events))
        again = await follower.call("flow-state", {"flowId": FLOW})
        assert again["state"]["revision"] == 2
        assert (await http.get(f"/api/flows/{FLOW}")).headers["etag"] == '"2"', "asked again"
        await http.post(f"/api/flow/{FLOW}/transition/save")
        await follower.until(lambda f: f.updates()[-1]["revision"] == 3)
        history = (await http.get(f"/api/flow/{FLOW}/history")).json()["items"]
        assert [r["metadata"]["revision"] for r in history] == [0, 1, 2, 3]
    seen = [e["revision"] for e in follower.updates()]
    assert seen == sorted(set(seen)), "never doubled, never back"
    await follower.close()
    for serving in (first, second):
        serving.end(signal.SIGTERM)
    redis.kill()
