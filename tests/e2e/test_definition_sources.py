"""``serve`` with two workers that follow a remote server and a folder."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.settings import Settings
from tests.support.http import http_client
from tests.support.long_form import form
from tests.support.remotes import RemoteServer
from tests.support.samples import flow_dict
from tests.support.serving import Process, Serving, external

TOKEN = "t0ken-of-the-remote"
AWAY = form("a remote that is away", short="refuses connections", long="hangs")


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    server = await RemoteServer().start()
    yield server
    await server.stop()


def environment(settings: Settings, *sources: str) -> dict[str, str]:
    return {
        **external(settings),
        "FLOW_DEFINITIONS": ",".join(sources),
        "FLOW_DEFINITION_CACHE_MS": "1000",
        "FLOW_DEFINITIONS_AUTH": f"bearer:{TOKEN}",
        "FLOW_LOG_FORMAT": "json",
    }


async def start(env: dict[str, str], cwd: Path, *arguments: str) -> Serving:
    """A ``serve``, with the loop free to answer it meanwhile."""
    return await asyncio.to_thread(Serving, *arguments, env=env, cwd=cwd)


async def until_all_serve(serving: Serving, slug: str, title: str, seconds: float = 15) -> float:
    """Wait until 20 new connections in a row, so that both workers are among them, are served this title; how
    long that took."""
    loop = asyncio.get_running_loop()
    began, in_a_row = loop.time(), 0
    headers = {"Authorization": f"Bearer {serving.token('ada')}"}
    while in_a_row < 20:
        assert loop.time() - began < seconds, f"{slug} is not {title} everywhere\n{serving.output}"
        async with http_client(serving.url, headers=headers, timeout=10) as http:
            answer = await http.get(f"/api/flows/{slug}")
        in_a_row = in_a_row + 1 if answer.json().get("title") == title else 0
    return loop.time() - began


async def logged(process: Process, words: str) -> list[dict[str, Any]]:
    """All log lines with these words, once there is one."""
    await asyncio.to_thread(process.wait_for, words)
    return [json.loads(line) for line in process.lines if words in line]


async def test_changes_of_a_remote_and_of_files_are_served_by_all_workers(
    settings: Settings, tmp_path: Path, server: RemoteServer
) -> None:
    folder = tmp_path / "flows"
    folder.mkdir()
    file = folder / "file.yaml"
    file.write_bytes(msgspec.json.encode(flow_dict("file", title="one")))
    server.gives({"items": [flow_dict("remote", title="one"), flow_dict("file-too", title="remote")]})
    env = environment(settings, server.url(), "database", f"file:{folder}")
    serving = await start(env, tmp_path, "--workers", "2")
    try:
        assert len(serving.workers()) == 2
        await until_all_serve(serving, "remote", "one")
        await until_all_serve(serving, "file", "one")

        server.gives({"items": [flow_dict("remote", title="two")]})
        assert await until_all_serve(serving, "remote", "two") < 8
        file.write_bytes(msgspec.json.encode(flow_dict("file", title="two")))
        assert await until_all_serve(serving, "file", "two") < 8

        await server.stop()
        away = await logged(serving, "definition source unavailable")
        assert away[0]["level"] == "warning"
        assert "no connection to 127.0.0.1" in away[0]["fault"]
        file.write_bytes(b"flow: file\nsteps: [}\n")
        broken = await logged(serving, "invalid definition, last valid one stays in use")
        assert broken[0]["fault"].startswith(f"{file}: line 2, column 9: ")
        await until_all_serve(serving, "remote", "two")
        await until_all_serve(serving, "file", "two")
        async with serving.http("ada") as http:
            assert (await http.post("/api/flow/remote/start")).status_code == 201

        file.write_bytes(msgspec.json.encode(flow_dict("file", title="three")))
        await until_all_serve(serving, "file", "three")
        await server.start(server.port)
        server.gives(flow_dict("remote", title="three"))
        await until_all_serve(serving, "remote", "three", seconds=40)

        assert len(await logged(serving, "definition source unavailable")) <= 2  # one of each worker
        assert len(await logged(serving, "invalid definition")) <= 2
        gone = await logged(serving, "flow missing from its source")
        assert {entry["flow"] for entry in gone} == {"file-too"}
        async with serving.http("root", "flow:admin") as http:
            versions = (await http.get("/api/flows/remote/versions")).json()["items"]
        assert [version["version"] for version in versions] == [3, 2, 1]
        assert {version["source"] for version in versions} == {f"remote:127.0.0.1:{server.port}/flows"}
        assert TOKEN not in serving.output
        assert all(request["Authorization"] == f"Bearer {TOKEN}" for request in server.requests)
    finally:
        serving.end()
    assert serving.popen.returncode == 0


async def test_a_remote_that_is_away_does_not_stop_the_start(
    settings: Settings, tmp_path: Path, server: RemoteServer
) -> None:
    async def hang(_: Any) -> Any:
        await asyncio.Event().wait()

    server.answers["/flows"] = hang
    if AWAY == "refuses connections":
        await server.stop()
    serving = await start(environment(settings, server.url(), "database"), tmp_path)
    try:
        (entry, *_) = await logged(serving, "definition source unavailable")
        says = {
            "hangs": "does not answer within 10 seconds",
            "refuses connections": "no connection to 127.0.0.1",
        }
        assert says[AWAY] in entry["fault"]
        if AWAY == "refuses connections":
            await server.start(server.port)
        server.gives(flow_dict("remote", title="late"))
        await until_all_serve(serving, "remote", "late", seconds=40)
    finally:
        serving.end()


async def test_the_worker_process_follows_sources_too(
    settings: Settings, tmp_path: Path, server: RemoteServer
) -> None:
    server.gives(flow_dict("remote", title="one"))
    worker = Process("worker", env=environment(settings, server.url(), "database"), cwd=tmp_path)
    try:
        await logged(worker, "definitions published")
        server.gives(flow_dict("remote", title="two"))
        await asyncio.to_thread(worker.wait_for, r"(?s)definitions published.*definitions published")
    finally:
        assert worker.end() == 0


async def test_check_config_hides_credentials_and_queries(settings: Settings, tmp_path: Path) -> None:
    env = environment(settings, "https://flows.invalid/x?key=s3cret", "database")
    checked = Process("check-config", env=env, cwd=tmp_path)
    await asyncio.to_thread(checked.wait_for, "Redis: answers")
    checked.end()
    assert "FLOW_DEFINITIONS=https://flows.invalid/x?***,database" in checked.output
    assert "FLOW_DEFINITIONS_AUTH=**********" in checked.output
    assert "s3cret" not in checked.output
    assert TOKEN not in checked.output
