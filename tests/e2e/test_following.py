"""Following states over Socket.IO: subscribe and catch up, several devices, presence, watching, bounds."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.services.live.catch_up import MAX_EVENTS
from config.settings import Settings
from realtime.gateway.limits import MAX_EVENT_BURST, MAX_REFUSALS, MAX_SUBSCRIPTIONS
from tests.support.serving import Follower, Serving, close_all, external
from tests.support.transports import transport_of

FLOW = "user-onboarding"
Hosts = tuple[Serving, Serving]


async def connected(serving: Serving, user: str, *scopes: str) -> Follower:
    return await Follower().connect(serving.url, serving.token(user, *scopes))


async def walk(serving: Serving, user: str, *transitions: str) -> dict[str, Any]:
    """The state after these transitions; started first."""
    async with serving.http(user) as http:
        answer = await http.post(f"/api/flow/{FLOW}/start")
        for transition in transitions:
            answer = await http.post(f"/api/flow/{FLOW}/transition/{transition}")
            assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
    return state


def named(follower: Follower, event: str) -> list[Any]:
    return [body for name, body in follower.events if name == event]


async def test_a_first_subscription_starts_with_the_whole_state(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    none = await client.call("flow-subscribe", {"flowId": FLOW})
    assert none == {"ok": True, "state": None, "events": [], "complete": False}
    state = await walk(serving, user, "start")
    answer = await client.call("flow-subscribe", {"flowId": FLOW})
    assert answer == {"ok": True, "state": state, "events": [], "complete": False}
    await client.close()


async def test_a_client_without_a_state_receives_the_present_one_from_its_start(
    serving: Serving, user: str
) -> None:
    client = await connected(serving, user)
    unknown = {"flowId": FLOW, "fromStart": True}
    none = await client.call("flow-subscribe", unknown)
    assert none == {"ok": True, "state": None, "events": [], "complete": False}
    state = await walk(serving, user, "start")
    await client.until(lambda f: len(f.updates()) == 2)
    answer = await client.call("flow-subscribe", unknown)
    assert answer == {"ok": True, "state": state, "events": client.updates(), "complete": True}
    async with serving.http(user) as http:
        over_http = await http.get(f"/api/flow/{FLOW}/events", params={"fromStart": True})
        assert over_http.json() == {"state": state, "events": client.updates(), "complete": True}
    await client.close()


async def test_missed_events_are_in_the_answer(serving: Serving, user: str) -> None:
    live = await connected(serving, user)
    state = await walk(serving, user, "start", "continue", "save", "complete")
    await live.until(lambda f: len(f.updates()) == 5)
    client = await connected(serving, user)
    for since in range(5):
        answer = await client.call(
            "flow-subscribe", {"flowId": FLOW, "epoch": state["epoch"], "since": since}
        )
        assert (answer["complete"], answer["state"]) == (True, state)
        assert answer["events"] == live.updates()[since + 1 :], "as they were sent live"
    async with serving.http(user) as http:
        over_http = await http.get(f"/api/flow/{FLOW}/events", params={"epoch": state["epoch"], "since": 2})
        assert over_http.json() == {"state": state, "events": live.updates()[3:], "complete": True}
    await close_all([live, client])


async def test_the_end_of_a_state_is_caught_up_with(serving: Serving, user: str) -> None:
    state = await walk(serving, user, "start")
    async with serving.http(user) as http:
        await http.delete(f"/api/flow/{FLOW}/state")
    client = await connected(serving, user)
    position = {"flowId": FLOW, "epoch": state["epoch"], "since": state["revision"]}
    answer = await client.call("flow-subscribe", position)
    assert (answer["state"], answer["complete"]) == (None, True)
    assert [(e["status"], e["revision"]) for e in answer["events"]] == [("cleared", 2)]
    level = await client.call("flow-subscribe", {**position, "since": 2})
    assert level == {"ok": True, "state": None, "events": [], "complete": True}
    fresh = await walk(serving, user)
    anew = await client.call("flow-subscribe", position)
    assert anew == {"ok": True, "state": fresh, "events": [], "complete": False}, "another life"
    await client.close()


async def test_continuity_that_cannot_be_proven_is_not_claimed(serving: Serving, user: str) -> None:
    state = await walk(serving, user, "start")
    client = await connected(serving, user)
    for epoch, since in ((state["epoch"], 2), ("another", 0), (state["epoch"], 10**12)):
        answer = await client.call("flow-subscribe", {"flowId": FLOW, "epoch": epoch, "since": since})
        assert answer == {"ok": True, "state": state, "events": [], "complete": False}
    await client.close()


async def test_more_events_than_an_answer_takes(serving: Serving, user: str) -> None:
    state = await walk(serving, user, "start")
    client = await connected(serving, user, "flow:service")  # which may send more at once
    for _ in range(-(-MAX_EVENTS // 2)):
        for step in ("preferences", "profile-setup"):
            await client.client.emit("flow-reset", {"flowId": FLOW, "step": step})
    now = (await client.call("flow-state", {"flowId": FLOW}))["state"]
    at = {"flowId": FLOW, "epoch": state["epoch"]}
    held = now["revision"] - MAX_EVENTS
    assert held >= 1
    most = await client.call("flow-subscribe", {**at, "since": held})
    assert [e["revision"] for e in most["events"]] == list(range(held + 1, now["revision"] + 1))
    over = await client.call("flow-subscribe", {**at, "since": held - 1})
    assert (over["complete"], over["events"], over["state"]) == (False, [], now)
    await client.close()


async def test_large_events_are_bounded_in_bytes_too(serving: Serving, user: str) -> None:
    state = await walk(serving, user)
    async with serving.http(user) as http:
        for step in ("preferences", "profile-setup") * 10:
            big = {"step": step, "payload": {"a": "x" * 60_000}}
            async with serving.http(user, "flow:admin") as admin:
                assert (await admin.put(f"/api/flow/{FLOW}/state", json=big)).status_code == 200
        answer = (
            await http.get(f"/api/flow/{FLOW}/events", params={"epoch": state["epoch"], "since": 0})
        ).json()
        assert (answer["complete"], answer["events"]) == (False, [])
        few = (
            await http.get(f"/api/flow/{FLOW}/events", params={"epoch": state["epoch"], "since": 15})
        ).json()
        assert len(few["events"]) == 5


@pytest.mark.parametrize(
    ("event", "body", "code"),
    [
        ("flow-subscribe", {"flowId": "nowhere"}, "FLOW_NOT_FOUND"),
        ("flow-subscribe", {"flowId": FLOW, "epoch": "e"}, "INVALID_REQUEST"),
        ("flow-subscribe", {"flowId": FLOW, "since": 1}, "INVALID_REQUEST"),
        ("flow-subscribe", {"flowId": FLOW, "epoch": "e", "since": -1}, "INVALID_REQUEST"),
        ("flow-subscribe", {"flowId": FLOW, "epoch": 1, "since": "x"}, "INVALID_REQUEST"),
        ("flow-subscribe", {"flowId": FLOW, "userId": "somebody"}, "INSUFFICIENT_PERMISSIONS"),
        ("flow-watch", {"flowId": FLOW}, "INSUFFICIENT_PERMISSIONS"),
        ("flow-presence", {"flowId": FLOW}, "INVALID_REQUEST"),
        ("flow-presence", {"flowId": FLOW, "userId": "somebody"}, "INSUFFICIENT_PERMISSIONS"),
    ],
)
async def test_refusals(serving: Serving, user: str, event: str, body: Any, code: str) -> None:
    client = await connected(serving, user)
    answer = await client.call(event, body)
    assert answer["error"]["code"] == code, answer
    await client.close()


async def test_an_administrator_cannot_watch_an_unknown_flow(serving: Serving, user: str) -> None:
    admin = await connected(serving, user, "flow:admin")
    assert (await admin.call("flow-watch", {"flowId": "nowhere"}))["error"]["code"] == "FLOW_NOT_FOUND"
    await admin.close()


async def test_a_service_follows_one_state_of_another_user(serving: Serving, user: str) -> None:
    service = await connected(serving, f"svc-{user}", "flow:service")
    own = await connected(serving, user)
    await own.call("flow-start", {"flowId": FLOW})
    await own.until(lambda f: len(f.updates()) == 1)  # the start was published before the service subscribes
    user_topic = {"flowId": FLOW, "userId": user}
    assert (await service.call("flow-subscribe", user_topic))["state"]["revision"] == 0
    await own.call("flow-start", {"flowId": "sign-in"})
    await own.call("flow-transition", {"flowId": FLOW, "transition": "start"})
    await service.until(lambda f: len(f.updates()) == 1)
    assert [(e["flow"], e["revision"]) for e in service.updates()] == [(FLOW, 1)]
    await service.call("flow-unsubscribe", user_topic)
    await own.call("flow-transition", {"flowId": FLOW, "transition": "continue"})
    await own.until(lambda f: len(f.updates()) == 4)
    assert len(service.updates()) == 1
    present = await own.call("flow-subscribe", {"flowId": FLOW})
    assert present["ok"]
    shown = await own.call("flow-presence", {"flowId": FLOW})
    assert [c["userId"] for c in shown["clients"]] == [user], "a service is not present"
    await close_all([service, own])


@pytest.mark.parametrize("device", [7, "x" * 65, "a\nb", ["x"]])
async def test_a_device_is_a_short_label(serving: Serving, user: str, device: Any) -> None:
    follower = Follower()
    refusals: list[Any] = []
    follower.client.on("connect_error", refusals.append)
    with pytest.raises(Exception, match="namespaces failed to connect"):
        await follower.client.connect(
            serving.url, auth={"token": serving.token(user), "device": device}, transports=["websocket"]
        )
    assert refusals[0]["message"] == "INVALID_REQUEST"
    await follower.close()


async def test_long_polling_where_it_is_allowed(servers: Settings, tmp_path: Path) -> None:
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    env = {**external(own), "FLOW_SOCKET_TRANSPORTS": "websocket,polling"}
    serving = await asyncio.to_thread(lambda: Serving(env=env, cwd=tmp_path))
    follower = Follower()
    await follower.client.connect(
        serving.url, auth={"token": serving.token("ada")}, transports=["polling"], wait_timeout=10
    )
    await walk(serving, "ada", "start")
    await follower.until(lambda f: len(f.updates()) == 2)
    answer = await follower.call("flow-subscribe", {"flowId": FLOW})
    assert answer["state"]["revision"] == 1
    assert follower.client.transport() == "polling"
    address = "/socket.io/?EIO=4&transport=polling"
    async with serving.http("ada") as http:
        opened = json.loads((await http.get(address)).text[1:])
        body = "4" + "x" * opened["maxPayload"]
        refused = await http.post(f"{address}&sid={opened['sid']}", content=body)
    assert (refused.status_code, refused.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert (await follower.call("flow-state", {"flowId": FLOW}))["ok"]
    await follower.close()
    await asyncio.to_thread(serving.end)


# Bounds


async def test_a_client_that_exceeds_its_rate_is_refused_and_then_disconnected(
    serving: Serving, user: str
) -> None:
    neighbour = await connected(serving, user)
    client = await connected(serving, user)
    for _ in range(
        int(MAX_EVENT_BURST)
    ):  # cheap ones, which even a slow server takes faster than the bucket fills
        await client.client.emit("flow-nonsense", {})
    answers = await asyncio.gather(*(client.call("flow-state", {"flowId": FLOW}) for _ in range(60)))
    refused = [a["error"] for a in answers if not a["ok"]]
    assert refused
    assert {(e["code"], e["retryable"]) for e in refused} == {("RATE_LIMITED", True)}
    assert all(0 < e["details"]["retryAfterMs"] <= 1000 for e in refused)
    for _ in range(MAX_REFUSALS + 300):
        await client.client.emit("flow-nonsense", {})
    await client.until(lambda f: bool(named(f, "flow-error")))
    assert named(client, "flow-error")[0]["code"] == "RATE_LIMITED"
    await asyncio.wait_for(client.client.wait(), 5)
    assert (await neighbour.call("flow-state", {"flowId": FLOW}))["ok"], "each client has its own bounds"
    await neighbour.close()


async def test_subscriptions_of_a_client_are_bounded(serving: Serving, user: str) -> None:
    await walk(serving, user)
    service = await connected(serving, f"svc-{user}", "flow:service")
    for n in range(MAX_SUBSCRIPTIONS):
        assert (await service.call("flow-subscribe", {"flowId": FLOW, "userId": f"{user}-{n}"}))["ok"]
    more = await service.call("flow-subscribe", {"flowId": FLOW, "userId": user})
    assert more["error"]["code"] == "INVALID_REQUEST"
    assert (await service.call("flow-subscribe", {"flowId": FLOW, "userId": f"{user}-0"}))["ok"], "again"
    await service.call("flow-unsubscribe", {"flowId": FLOW, "userId": f"{user}-0"})
    assert (await service.call("flow-subscribe", {"flowId": FLOW, "userId": user}))["ok"]
    await service.close()


async def test_a_message_that_is_too_large_ends_the_connection(serving: Serving, user: str) -> None:
    client = await connected(serving, user)
    await client.client.emit("flow-start", {"flowId": FLOW, "payload": {"a": "x" * 1_100_000}})
    await asyncio.wait_for(client.client.wait(), 10)
    async with serving.http(user) as http:
        assert (await http.get(f"/api/flow/{FLOW}/state")).json() is None


async def test_a_slow_client_is_disconnected_with_a_reason_and_others_go_on(
    serving: Serving, user: str
) -> None:
    neighbour = await connected(serving, user)
    async with aiohttp.ClientSession() as session:
        slow = await session.ws_connect(
            f"{serving.url}/socket.io/?EIO=4&transport=websocket", max_msg_size=0, autoping=False
        )
        await slow.receive_str(timeout=5)
        await slow.send_str(f'40{{"token":"{serving.token(user)}"}}')
        assert (await slow.receive_str(timeout=5)).startswith("40")
        transport = transport_of(slow)
        transport.pause_reading()
        async with serving.http(user, "flow:admin") as admin:
            for n in range(160):  # 60 kB each: more than may wait
                body = {"step": ("preferences", "profile-setup")[n % 2], "payload": {"a": "x" * 60_000}}
                assert (await admin.put(f"/api/flow/{FLOW}/state", json=body)).status_code == 200
        await neighbour.until(lambda f: len(f.updates()) == 160)
        transport.resume_reading()
        received = []
        async with asyncio.timeout(20):
            async for message in slow:
                received.append(message.data)
                if message.data == "2":
                    await slow.send_str("3")
    updates = [m for m in received if m.startswith('42["flow-state-updated"')]
    assert len(updates) < 160
    (error,) = [m for m in received if m.startswith('42["flow-error"')]
    assert '"code":"SLOW_CLIENT"' in error
    assert received[-2:] == ["41", "1"], "disconnected, and closed"
    assert (await neighbour.call("flow-state", {"flowId": FLOW}))["ok"]
    await neighbour.close()
