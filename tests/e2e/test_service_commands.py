"""The commands on services and deliveries where no worker runs, and wrong arguments of theirs."""

import asyncio
import json
from typing import Any

from tests.support.receivers import answering, receiving
from tests.support.shell import Shell


async def test_services(shell: Shell) -> None:
    async def run(*arguments: str, code: int = 0) -> str:
        return await asyncio.to_thread(shell, "services", *arguments, code=code)

    async def shown() -> Any:
        return json.loads(await run("show", "payment"))

    shell.env["FLOW_SERVICES_PRIVATE_ADDRESSES"] = "127.0.0.0/8"
    async with receiving() as receiver:
        await run("register", "payment", json.dumps({"url": receiver.url(), "rate": 5}))
        refused = await run("register", "payment", '{"rate": 0, "nonsense": 1}', code=1)
        assert "/rate" in refused
        assert "nonsense" in refused
        assert json.loads(await run("register", "payment", '{"rate": null}'))["rate"] is None
        assert len(json.loads(await run("rotate", "payment", "--expires-in", "60"))["secrets"]) == 2
        assert "/expiresIn" in await run("rotate", "payment", "--expires-in", "-1", code=1)
        receiver.answers["/hooks"] = answering(500)
        assert json.loads(await run("ping", "payment", code=1))["status"] == 500
    await run("disable", "payment")
    assert "disabledReason" in await shown()
    assert "/reason" in await run("disable", "payment", "--reason", "x" * 501, code=1)
    assert await run("enable", "payment", "--since", "2026-11-01T00:00:00Z") == "payment is enabled\n"
    assert (await shown())["backlog"] == {"kind": "skip", "before": "2026-11-01T00:00:00.000Z"}
    assert "/since" in await run("enable", "payment", "--since", "yesterday", code=1)
    figures = await asyncio.to_thread(shell, "stats")
    assert "payment: no heartbeat, breaker closed, 0 delivered, 0 failed, 0 failed here\n" in figures


def test_deliveries_are_named(shell: Shell) -> None:
    shell("services", "register", "payment", "{}")
    assert "evt_none" in shell("deliveries", "show", "payment", "evt_none", code=1)
    for change in ("drop", "redeliver"):
        assert "or pass --all" in shell("deliveries", change, code=2), "nobody drops everything by accident"
    assert shell("deliveries", "drop", "--dry-run") == "0 dead letters would be dropped\n"
    assert shell("deliveries", "drop", "--all") == "0 dead letters dropped\n"
    assert "/fromRevision" in shell("deliveries", "replay", "payment", "--from-revision", "0", code=1)
