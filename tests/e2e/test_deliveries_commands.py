"""The commands about services and their deliveries, beside a worker on the same database."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from config.settings import Settings
from tests.support.constants import with_constants
from tests.support.delivery_cases import Planned, Shop
from tests.support.receivers import Receiver
from tests.support.serving import Serving
from tests.support.shell import Shell
from tests.support.shorter_waits import SETTLING

Command = Callable[..., Coroutine[Any, Any, str]]
FINAL = Planned(422, {"error": {"final": True, "reason": "unknown customer"}})


@pytest.fixture
def command(settings: Settings, tmp_path: Path) -> Command:
    """Run a command in a thread: the receivers run in this one."""
    shell = Shell(settings, tmp_path)
    shell.env |= {"FLOW_SERVICES_PRIVATE_ADDRESSES": "true", **with_constants(SETTLING)}

    async def run(*arguments: str, code: int = 0) -> str:
        return await asyncio.to_thread(shell, *arguments, code=code)

    return run


@pytest.fixture
async def shop(settings: Settings, tmp_path: Path) -> AsyncIterator[Shop]:
    env = {**Shell(settings, tmp_path).env, "FLOW_SERVICES_PRIVATE_ADDRESSES": "true"}
    serving = Serving(env=env, cwd=tmp_path)
    receiver = Receiver()
    await receiver.start()
    yield Shop((serving, serving), receiver)
    await receiver.stop()
    serving.end()


async def test_services(shop: Shop, command: Command, user: str) -> None:
    await shop.admin_call("POST", "/api/flows", shop.definition())
    left = shop.left
    assert "No services are registered" in await command("services", "list")
    registered = json.loads(await command("services", "register", left, json.dumps({"url": shop.inbox.url})))
    assert registered["secret"].startswith("whsec_")
    changed = json.loads(await command("services", "register", left, '{"thin": true}'))
    assert (changed["thin"], "secret" in changed) == (True, False)
    refused = await command("services", "register", left, '{"url": "ftp://x/", "rate": 0}', code=1)
    assert "rate" in refused
    assert registered["secret"] not in await command("services", "show", left)
    listed = f"{left}\tenabled\tclosed\t0 delivered\t0 failed\t0 failed here\t{shop.inbox.url}\n"
    assert await command("services", "list") == listed

    rotated = json.loads(await command("services", "rotate", left))["secret"]
    assert json.loads(await command("services", "ping", left))["ok"] is True
    ping = shop.inbox.requests[0]
    for secret in (registered["secret"], rotated):
        Webhook(secret).verify(ping.body, dict(ping.headers))

    assert "is disabled" in await command("services", "disable", left, "--reason", "maintenance")
    shown = json.loads(await command("services", "show", left))
    assert (shown["enabled"], shown["disabledReason"]) == (False, "maintenance")
    await shop.start(user)
    await shop.run(user, "again")
    assert shop.inbox.events(user) == []
    await command("services", "enable", left, "--backlog", "newest")
    await shop.inbox.until_revisions(user, [1])
    assert shop.inbox.events(user)[0]["data"].keys() == {"flowId", "userId", "epoch", "revision"}
    assert "No service is registered as nobody" in await command("services", "show", "nobody", code=1)


async def test_deliveries(shop: Shop, command: Command, user: str) -> None:
    await shop.open()
    left = shop.left
    dying = [f"{user}-{n}" for n in range(3)]
    for each in dying:
        shop.inbox.plans[each] = [FINAL]
        await shop.start(each)
    await shop.until_letters(3)
    lines = (await command("deliveries", "list", "--service", left)).splitlines()
    fields = [line.split("\t") for line in lines]
    assert {line[5] for line in fields} == set(dying)
    assert {(line[0], line[2], line[3]) for line in fields} == {(left, "receiver", "flow.step.entered")}
    one, *others = [line[1] for line in fields]
    shown = json.loads(await command("deliveries", "show", left, one))
    assert (shown["status"], shown["letter"]["attempts"][0]["status"]) == ("dead", 422)
    assert "unknown customer" in shown["letter"]["detail"]

    assert (
        await command("deliveries", "drop", "--id", one, "--dry-run") == "1 dead letters would be dropped\n"
    )
    assert await command("deliveries", "drop", "--id", one) == "1 dead letters dropped\n"
    only = ("--service", left, "--reason", "receiver")
    counted = await command("deliveries", "redeliver", *only, "--dry-run")
    assert counted == "2 of 2 dead letters would be redelivered\n"
    assert len(shop.inbox.requests) == 3
    assert "2 of 2 dead letters are" in await command("deliveries", "redeliver", *only)
    await shop.inbox.until(lambda: len(shop.inbox.requests) == 5)
    assert {event["id"] for event in shop.inbox.events()[3:]} == set(others)
    await shop.until_letters(0)
    assert "There are no dead letters" in await command("deliveries", "list")

    replay = ("deliveries", "replay", left, "--flow", shop.flow, "--user", dying[0], "--from-revision", "0")
    assert await command(*replay, "--dry-run") == "1 changes of 1 states would be replayed\n"
    assert "are replayed" in await command(*replay)
    await shop.inbox.until(lambda: len(shop.inbox.requests) == 6)
    assert (shop.inbox.events()[-1]["replay"], shop.inbox.events()[-1]["data"]["userId"]) == (True, dying[0])

    shop.inbox.always[user] = Planned(503)
    await shop.start(user)
    await shop.inbox.until(lambda: bool(shop.inbox.events(user)))
    failing = await command("deliveries", "failing", left)
    while user not in failing:  # the answer is noted a moment after it is sent
        failing = await command("deliveries", "failing", left)
    assert failing.startswith(f"{shop.flow}\t{user}\t")
    assert failing.endswith("\tthe receiver answered 503\n")
