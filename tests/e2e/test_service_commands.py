"""The commands on registered services and their deliveries, as a person runs them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from config.settings import Settings
from tests.support.receivers import Receiver, answering, receiving
from tests.support.samples import flow_dict
from tests.support.serving import Serving
from tests.support.shell import Shell
from tests.support.waiting import eventually

LETTERS = ("--service", "svc")
FINAL = b'{"error": {"final": true, "reason": "no such card"}}'


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


async def test_services(shell: Shell, receiver: Receiver) -> None:
    async def run(*arguments: str, code: int = 0) -> str:
        return await asyncio.to_thread(shell, "services", *arguments, code=code)

    async def shown() -> Any:
        return json.loads(await run("show", "payment"))

    shell.env["FLOW_SERVICES_PRIVATE_ADDRESSES"] = "127.0.0.0/8"
    assert "No services are registered" in await run("list")
    assert (
        await run("show", "payment", code=1)
        == "server-flow: No service is registered as payment; register it first\n"
    )
    made = json.loads(await run("register", "payment", json.dumps({"url": receiver.url(), "rate": 5})))
    assert (made["url"], made["rate"], made["revision"]) == (receiver.url(), 5, 1)
    refused = await run("register", "payment", '{"rate": 0, "nonsense": 1}', code=1)
    assert "/rate" in refused
    assert "nonsense" in refused
    changed = json.loads(await run("register", "payment", '{"rate": null, "thin": true}'))
    assert (changed["rate"], changed["thin"]) == (None, True)
    assert "secret" not in changed
    assert await run("list") == (
        f"payment\tenabled\tclosed\t0 delivered\t0 failed\t0 failed here\t{receiver.url()}\n"
    )

    rotated = json.loads(await run("rotate", "payment", "--expires-in", "60"))
    assert len(rotated["secrets"]) == 2
    assert "/expiresIn" in await run("rotate", "payment", "--expires-in", "-1", code=1)
    assert json.loads(await run("ping", "payment"))["status"] == 204
    (ping,) = receiver.requests
    for secret in (made["secret"], rotated["secret"]):
        Webhook(secret).verify(ping.body, dict(ping.headers))
    receiver.answers["/hooks"] = answering(500)
    assert json.loads(await run("ping", "payment", code=1))["status"] == 500

    assert "payment is disabled" in await run("disable", "payment", "--reason", "maintenance")
    off = await shown()
    assert (off["enabled"], off["disabledReason"]) == (False, "maintenance")
    since = "2026-11-01T00:00:00Z"
    assert await run("enable", "payment", "--since", since) == "payment is enabled\n"
    assert (await shown())["backlog"] == {"kind": "skip", "before": "2026-11-01T00:00:00.000Z"}
    await run("enable", "payment", "--backlog", "newest")
    assert (await shown())["backlog"]["kind"] == "newest"
    assert "/since" in await run("enable", "payment", "--since", "yesterday", code=1)
    figures = await asyncio.to_thread(shell, "stats")
    assert "payment: no heartbeat, breaker closed, 0 delivered, 0 failed, 0 failed here\n" in figures


async def test_deliveries(settings: Settings, tmp_path: Path, receiver: Receiver) -> None:
    shell = Shell(settings, tmp_path)
    shell.env["FLOW_SERVICES_PRIVATE_ADDRESSES"] = "127.0.0.0/8"

    async def run(*arguments: str, code: int = 0) -> str:
        return await asyncio.to_thread(shell, "deliveries", *arguments, code=code)

    async def letters() -> list[list[str]]:
        return [line.split("\t") for line in (await run("list", *LETTERS)).splitlines() if "\t" in line]

    (tmp_path / "loop.json").write_text(json.dumps(flow_dict()))
    await asyncio.to_thread(shell, "flows", "import", "loop.json")
    await asyncio.to_thread(shell, "services", "register", "svc", json.dumps({"url": receiver.url()}))
    assert "There are no dead letters" in await run("list")
    receiver.answers["/hooks"] = answering(200, FINAL, {"Content-Type": "application/json"})
    serving = Serving(env=shell.env, cwd=tmp_path)
    try:
        for user in ("ada", "bob"):
            async with serving.http(user) as http:
                assert (await http.post("/api/flow/loop/start", json={})).status_code == 201
        (ada, bob) = await eventually(letters, lambda found: len(found) == 2)
        assert ada[0] == "svc"
        assert ada[2:6] == ["receiver", "flow.step.entered", "loop", "ada"]
        assert ada[7] == "the receiver refused the event for good: no such card"
        found = json.loads(await run("show", "svc", ada[1]))
        assert (found["status"], len(found["letter"]["attempts"])) == ("dead", 1)
        assert (await run("show", "svc", "evt_none", code=1)).startswith("server-flow: ")

        would = "1 of 1 dead letters would be redelivered\n"
        assert await run("redeliver", *LETTERS, "--user", "ada", "--dry-run") == would
        del receiver.answers["/hooks"]
        await run("redeliver", *LETTERS, "--user", "ada")
        assert await eventually(letters, lambda found: len(found) == 1) == [bob]
        assert json.loads(await run("show", "svc", ada[1]))["status"] == "delivered"
        assert await run("drop", *LETTERS, "--id", bob[1], "--dry-run") == "1 dead letters would be dropped\n"
        assert await run("drop", *LETTERS, "--id", bob[1]) == "1 dead letters dropped\n"
        assert await letters() == []

        assert (await run("failing", "svc")).startswith("No events have failed")
        span = ("svc", "--since", "2026-01-01T00:00:00Z")
        assert await run("replay", *span, "--dry-run") == "2 changes of 2 states would be replayed\n"
        assert "/fromRevision" in await run("replay", "svc", "--from-revision", "0", code=1)
        sent = len(receiver.requests)
        await run("replay", "svc", "--from-revision", "0", "--flow", "loop", "--user", "ada")
        async with asyncio.timeout(30):
            await receiver.received(sent + 1)
        replayed = json.loads(receiver.requests[-1].body)
        assert (replayed["replay"], replayed["data"]["userId"]) == (True, "ada")
    finally:
        serving.end()
