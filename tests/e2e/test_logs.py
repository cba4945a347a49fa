"""Logs of a service, as the operator of several instances reads them."""

import json
from pathlib import Path

from config.settings import Settings
from tests.support.serving import Serving, external


async def test_a_request_has_its_process_user_and_code(settings: Settings, tmp_path: Path) -> None:
    env = {**external(settings), "FLOW_LOG_FORMAT": "json", "FLOW_LOG_LEVEL": "info"}
    serving = Serving(env=env, cwd=tmp_path)
    async with serving.http("ada@example.org") as http:
        refused = await http.post("/api/flow/sign-in/transition/nowhere", headers={"X-Request-Id": "r-1"})
        assert refused.status_code == 409
    line = json.loads(serving.wait_for(r'\{[^\n]*"r-1"[^\n]*\}')[0])
    assert (line["event"], line["status"], line["code"]) == ("request", 409, "FLOW_NOT_STARTED")
    assert line["user"].startswith("u-")
    assert line["worker"]
    assert line["pid"] in [process.pid for process in serving.family()]
    output = serving.output
    assert "ada@example.org" not in output
    assert "eyJ" not in output, "no token is written where the servers are not embedded"
    serving.end()
