"""Devices, watchers and presence on different workers."""

import asyncio
import time
from collections.abc import Callable

import pytest

from app.contracts.events import user_topic
from config.settings import Settings
from realtime.redis.bus import RedisBus
from tests.support.redis_tap import Tap
from tests.support.serving import Follower, Serving, close_all

FLOW = "user-onboarding"
Hosts = tuple[Serving, Serving]


async def connected(serving: Serving, user: str, *scopes: str, device: str = "") -> Follower:
    follower = Follower()
    auth = {"token": serving.token(user, *scopes), "device": device}
    await follower.client.connect(serving.url, auth=auth, transports=["websocket"], wait_timeout=10)
    return follower


async def test_devices_on_two_workers_see_each_others_changes(shared_hosts: Hosts, user: str) -> None:
    phone, laptop = [await connected(host, user) for host in shared_hosts]
    await phone.call("flow-start", {"flowId": FLOW})
    await laptop.until(lambda f: len(f.updates()) == 1)
    for n, transition in enumerate(("start", "continue", "save", "complete")):
        mover, other = (laptop, phone) if n % 2 else (phone, laptop)
        moved = await mover.call("flow-transition", {"flowId": FLOW, "transition": transition})
        for each in (mover, other):
            await each.until_revision(moved["state"]["revision"])
    assert phone.updates() == laptop.updates()
    assert [e["revision"] for e in phone.updates()] == [0, 1, 2, 3, 4]
    await close_all([phone, laptop])


async def test_administrators_watch_a_flow_on_all_workers(shared_hosts: Hosts, user: str) -> None:
    watchers = [await connected(host, "root", "flow:admin") for host in shared_hosts]
    for watcher in watchers:
        assert await watcher.call("flow-watch", {"flowId": FLOW}) == {"ok": True}
    clients = [await connected(shared_hosts[n % 2], f"{user}-{n}") for n in range(6)]
    for client in clients:
        await client.call("flow-start", {"flowId": FLOW})
        await client.call("flow-start", {"flowId": "sign-in"})
        await client.call("flow-transition", {"flowId": FLOW, "transition": "start"})
    for client in clients:
        await client.until(lambda f: len(f.updates()) == 3)
    for watcher in watchers:
        await watcher.until(lambda f: len(f.events) == 12)
        updates = [body for event, body in watcher.events if event == "flow-updated"]
        assert len(updates) == 12
        for n, client in enumerate(clients):
            mine = [body for body in updates if body["userId"] == f"{user}-{n}"]
            assert [(b["flowId"], b["kind"], b["state"]["step"]) for b in mine] == [
                (FLOW, "started", "welcome"),
                (FLOW, "transitioned", "profile-setup"),
            ]
            of_this = [e for e in client.updates() if e["flow"] == FLOW]
            extra = {"kind", "transition", "fromStep", "actor", "at"}
            assert mine[-1]["state"] == {k: v for k, v in of_this[-1].items() if k not in extra}
            assert {k: mine[-1][k] for k in extra} == {k: of_this[-1][k] for k in extra}
        await watcher.call("flow-unwatch", {"flowId": FLOW})
    await clients[0].call("flow-transition", {"flowId": FLOW, "transition": "continue"})
    await clients[0].until(lambda f: len(f.updates()) == 4)
    for watcher in watchers:
        assert len(watcher.events) == 12
    await close_all([*watchers, *clients])


@pytest.mark.timeout(120)
@pytest.mark.long
async def test_presence_across_workers_forgets_a_dead_one_within_30_seconds(two_hosts: Hosts) -> None:
    phone = await connected(two_hosts[0], "ada", device="phone")
    laptop = await connected(two_hosts[1], "ada", device="laptop")
    stranger = await connected(two_hosts[1], "bob", device="other")
    watcher = await connected(two_hosts[0], "root", "flow:admin")
    for client in (phone, laptop, stranger):
        await client.call("flow-start", {"flowId": FLOW})
        await client.call("flow-subscribe", {"flowId": FLOW})
    await watcher.call("flow-watch", {"flowId": FLOW})

    async def devices(client: Follower) -> list[str]:
        answer = await client.call("flow-presence", {"flowId": FLOW})
        assert answer["ok"], answer
        return [c["device"] for c in answer["clients"]]

    assert await devices(phone) == await devices(laptop) == ["phone", "laptop"]
    assert await devices(stranger) == ["other"]
    assert await devices(watcher) == ["phone", "laptop", "other"]

    def shown(*names: str) -> Callable[[Follower], bool]:
        return lambda f: any(
            event == "flow-presence"
            and body["userId"] == "ada"
            and [c["device"] for c in body["clients"]] == [*names]
            for event, body in f.events
        )

    tablet = await connected(two_hosts[1], "ada", device="tablet")
    await tablet.call("flow-subscribe", {"flowId": FLOW})
    for client in (phone, laptop, watcher):
        await client.until(shown("phone", "laptop", "tablet"))
    assert {body["userId"] for event, body in stranger.events if event == "flow-presence"} <= {"bob"}
    for client in (phone, laptop, watcher):
        client.events.clear()
    await tablet.close()
    for client in (phone, laptop, watcher):
        await client.until(shown("phone", "laptop"))

    for client in (phone, watcher):
        client.events.clear()
    began = time.monotonic()
    two_hosts[1].popen.kill()
    await phone.until(shown("phone"), 30)
    await watcher.until(shown("phone"), 30)
    print(f"a dead worker's clients were forgotten after {time.monotonic() - began:.1f} s")
    assert await devices(watcher) == ["phone"]
    await close_all([phone, watcher])
    for client in (laptop, stranger):
        await client.client.wait()


async def test_a_worker_that_is_stopped_is_forgotten_at_once(two_hosts: Hosts) -> None:
    phone = await connected(two_hosts[0], "ada", device="phone")
    laptop = await connected(two_hosts[1], "ada", device="laptop")
    for client in (phone, laptop):
        await client.call("flow-start", {"flowId": FLOW})
        await client.call("flow-subscribe", {"flowId": FLOW})
    assert len((await phone.call("flow-presence", {"flowId": FLOW}))["clients"]) == 2
    await asyncio.to_thread(two_hosts[1].end)
    await phone.until(
        lambda f: any(e == "flow-presence" and len(b["clients"]) == 1 for e, b in f.events), seconds=5
    )
    await phone.close()


async def test_replayed_channel_messages_never_show_an_older_state(
    two_hosts: Hosts, settings: Settings
) -> None:
    """Somebody with access to Redis sends genuine messages again, in any order, and forged ones."""
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()
    channel = RedisBus(url, settings.mongo_database)._channel(user_topic("ada"))
    followers = [await connected(host, "ada") for host in two_hosts]
    messages = []
    async with Tap(url, channel) as tap:
        async with two_hosts[0].http("ada") as http:
            await http.post(f"/api/flow/{FLOW}/start")
            messages.append(await tap.next())
            for transition in ("start", "continue", "save"):
                await http.post(f"/api/flow/{FLOW}/transition/{transition}")
                messages.append(await tap.next())
            for follower in followers:
                await follower.until(lambda f: len(f.updates()) == 4)
            forged = [m[:16] + m[16:].replace(b'"revision":3', b'"revision":7') for m in messages]
            for message in (*messages, *messages[::-1], *forged, b"[]", b"{}", b"\xff" * 40):
                await tap.send(message)
            await http.post(f"/api/flow/{FLOW}/transition/complete")
        for follower in followers:
            await follower.until(lambda f: f.updates()[-1]["status"] == "completed")
            assert [e["revision"] for e in follower.updates()] == [0, 1, 2, 3, 4]
    await close_all(followers)
