"""Roles, guards and payload schemas at the doors: refusals, and what each client receives."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.samples import expense_flow
from tests.support.serving import Follower, Serving

SUBMITTED = {"payload": {"amount": 80, "reason": "lunch"}}


async def published(serving: Serving, **changes: Any) -> str:
    """A flow of the test's own."""
    slug = f"expense-{uuid.uuid4().hex[:8]}"
    async with serving.http("root", "flow:admin") as admin:
        answer = await admin.post("/api/flows", json=expense_flow(flow=slug, **changes))
        assert answer.status_code == 201, answer.text
    return slug


async def connected(serving: Serving, user: str, *scopes: str, roles: Sequence[str] = ()) -> Follower:
    return await Follower().connect(serving.url, serving.token(user, *scopes, roles=roles))


def _watched(watcher: Follower) -> list[Any]:
    updates = [body for event, body in watcher.events if event == "flow-updated"]
    return [body for body in updates if body["state"]["step"] == "review"]


def names(state: dict[str, Any]) -> list[str]:
    return [t["transition"] for t in state["transitions"]]


async def test_refusals_over_http(serving: Serving, user: str) -> None:
    flow = f"/api/flow/{await published(serving)}"
    async with (
        serving.http(user) as own,
        serving.http("ada", "flow:service", roles=["approver"]) as approver,
        serving.http(user, "flow:service", roles=["approver"]) as self_approver,
    ):
        await own.post(f"{flow}/start")
        invalid = await own.post(f"{flow}/transition/submit", json={"payload": {"amount": "x"}})
        assert (invalid.status_code, invalid.json()["code"]) == (422, "INVALID_PAYLOAD")
        assert {e["pointer"] for e in invalid.json()["details"]["errors"]} == {"/payload", "/payload/amount"}
        submitted = await own.post(f"{flow}/transition/submit", json=SUBMITTED)
        assert names(submitted.json()) == ["withdraw"]

        refused = await own.post(f"{flow}/transition/approve")
        assert (refused.status_code, refused.json()["code"]) == (403, "INSUFFICIENT_PERMISSIONS")
        assert refused.json()["details"] == {"transition": "approve", "roles": ["approver"]}
        guarded = await self_approver.post(f"{flow}/transition/approve")
        assert (guarded.status_code, guarded.json()["code"]) == (409, "GUARD_REFUSED")
        assert guarded.json()["retryable"] is False
        assert guarded.json()["details"] == {
            "transition": "approve",
            "guard": "user.id != state.userId",
            "values": {"user.id": user, "state.userId": user},
        }
        seen = (await approver.get(f"{flow}/state?userId={user}")).json()
        assert names(seen) == ["approve", "reject", "withdraw"]
        approved = await approver.post(f"{flow}/transition/approve?userId={user}")
        assert (approved.status_code, approved.json()["step"]) == (200, "approved")
        recorded: list[str] = []
        async with asyncio.timeout(20):  # who is refused does not wait for its record
            while len(recorded) < 3:
                history = (await own.get(f"{flow}/history")).json()["items"]
                recorded = [r["error"] for r in history if not r["success"]]
    assert recorded == ["INVALID_PAYLOAD", "INSUFFICIENT_PERMISSIONS", "GUARD_REFUSED"]


async def test_a_refusal_over_the_socket(serving: Serving, user: str) -> None:
    flow = await published(serving)
    client = await connected(serving, user, roles=["approver"])
    await client.call("flow-start", {"flowId": flow})
    await client.call("flow-transition", {"flowId": flow, "transition": "submit", **SUBMITTED})
    refused = await client.call("flow-transition", {"flowId": flow, "transition": "approve"})
    assert refused["error"]["code"] == "GUARD_REFUSED"
    assert refused["error"]["details"]["values"] == {"user.id": user, "state.userId": user}
    await client.close()


async def test_each_client_is_reported_of_the_transitions_that_it_may_run(
    serving: Serving, user: str
) -> None:
    flow = await published(serving)
    own = await connected(serving, user)
    approver = await connected(serving, "ada", "flow:service", roles=["approver"])
    back_end = await connected(serving, "shop", "flow:service")
    watcher = await connected(serving, "root", "flow:admin")
    await own.call("flow-start", {"flowId": flow})
    for client in (approver, back_end):
        await client.call("flow-subscribe", {"flowId": flow, "userId": user})
    await watcher.call("flow-watch", {"flowId": flow})
    await own.call("flow-transition", {"flowId": flow, "transition": "submit", **SUBMITTED})
    reported = []
    for client in (own, approver, back_end):
        await client.until(lambda f: any(u["step"] == "review" for u in f.updates()))
        (update,) = [u for u in client.updates() if u["step"] == "review"]
        reported.append(names(update))
    assert reported == [["withdraw"], ["approve", "reject", "withdraw"], ["withdraw"]]
    await watcher.until(lambda f: bool(_watched(f)))
    (watched,) = _watched(watcher)
    assert names(watched["state"]) == ["approve", "reject", "remind", "withdraw"]

    caught_up = await approver.call(
        "flow-subscribe",
        {"flowId": flow, "userId": user, "epoch": watched["state"]["epoch"], "since": 0},
    )
    assert [names(event) for event in caught_up["events"]] == [["approve", "reject", "withdraw"]]
    async with serving.http(user) as http:
        events = await http.get(f"/api/flow/{flow}/events?epoch={watched['state']['epoch']}&since=0")
        assert [names(event) for event in events.json()["events"]] == [["withdraw"]]
        assert events.json()["complete"] is True
    for client in (own, approver, back_end, watcher):
        await client.close()


async def test_a_stream_reports_what_its_reader_may_run(serving: Serving, user: str) -> None:
    flow = await published(serving)
    async with serving.http(user, roles=["approver"]) as http:
        await http.post(f"/api/flow/{flow}/start")
        async with http.stream("GET", f"/api/flow/{flow}/stream") as stream:
            lines = stream.aiter_lines()
            states = []
            async for line in lines:
                if line.startswith("data: "):
                    states.append(json.loads(line.removeprefix("data: ")))
                    if len(states) == 2:
                        break
                    await http.post(f"/api/flow/{flow}/transition/submit", json=SUBMITTED)
    assert [names(state) for state in states] == [["submit"], ["withdraw"]]


async def test_a_flow_with_roles_is_reported_to_those_who_have_one(serving: Serving, user: str) -> None:
    flow = await published(serving, roles=["employee"])
    employee = await connected(serving, user, roles=["employee"])
    stranger = await connected(serving, user)
    refused = await stranger.call("flow-subscribe", {"flowId": flow})
    assert refused["error"]["code"] == "INSUFFICIENT_PERMISSIONS"
    await employee.call("flow-start", {"flowId": flow})
    await employee.until(lambda f: len(f.updates()) == 1)
    await stranger.call("flow-start", {"flowId": "user-onboarding"})
    await stranger.until(lambda f: len(f.updates()) >= 1)
    assert [u["flow"] for u in stranger.updates()] == ["user-onboarding"], "which came after the other"
    async with serving.http(user) as http, serving.http(user, roles=["employee"]) as allowed:
        assert (await http.get(f"/api/flow/{flow}/state")).json()["code"] == "INSUFFICIENT_PERMISSIONS"
        assert (await http.get(f"/api/flows/{flow}")).status_code == 403
        assert (await http.get(f"/api/flows/{flow}/versions")).status_code == 403
        assert (await http.get(f"/api/flows/{flow}/versions/1")).status_code == 403
        assert flow not in [f["flow"] for f in (await http.get("/api/flows?limit=1000")).json()["items"]]
        assert flow in [f["flow"] for f in (await allowed.get("/api/flows?limit=1000")).json()["items"]]
        assert [s["flow"] for s in (await http.get("/api/states")).json()["items"]] == ["user-onboarding"]
        assert len((await allowed.get("/api/states")).json()["items"]) == 2
    for client in (employee, stranger):
        await client.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_role_that_is_lost_ends_what_it_showed(serving: Serving, user: str, method: str) -> None:
    """The newest version says who may see: also of states that began before."""
    flow = await published(serving)
    async with serving.http(user) as http, serving.http("root", "flow:admin") as admin:
        await http.post(f"/api/flow/{flow}/start")
        changed = await admin.patch(f"/api/flows/{flow}", json={"roles": ["employee"]})
        assert changed.headers["flow-version"] == "2"
        route = f"/api/flow/{flow}/state" if method == "GET" else f"/api/flow/{flow}/transition/submit"
        assert (
            await http.request(method, route, json=SUBMITTED if method == "POST" else None)
        ).status_code == 403


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_list_of_flows_names_none_that_the_caller_must_not_see(
    serving: Serving, user: str, limit: int
) -> None:
    hidden = {await published(serving, roles=["employee"]) for _ in range(3)}
    shown = {await published(serving) for _ in range(2)}
    async with serving.http(user) as http:
        listed: list[str] = []
        query: dict[str, Any] = {"limit": limit, "after": min(shown | hidden)[:-1]}
        while True:
            page = (await http.get("/api/flows", params=query)).json()
            listed += [flow["flow"] for flow in page["items"]]
            assert len(page["items"]) <= limit
            if "next" not in page or page["next"] > max(shown | hidden):
                break
            assert page["next"] == listed[-1]
            query["after"] = page["next"]
    assert listed == sorted(set(listed))
    assert shown <= set(listed)
    assert not hidden & set(listed)


def with_an_undo() -> dict[str, Any]:
    """Steps in which an approval can be undone."""
    steps: dict[str, Any] = expense_flow()["steps"]
    steps["review"]["transitions"]["approve"]["reversible"] = True
    return steps


async def test_only_who_may_approve_may_undo_an_approval(serving: Serving, user: str) -> None:
    flow = f"/api/flow/{await published(serving, steps=with_an_undo())}"
    async with (
        serving.http(user) as own,
        serving.http("ada", "flow:service", roles=["approver"]) as approver,
    ):
        await own.post(f"{flow}/start")
        await own.post(f"{flow}/transition/submit", json=SUBMITTED)
        approved = await approver.post(f"{flow}/transition/approve?userId={user}")
        assert (approved.json()["status"], approved.json()["undoRoles"]) == ("completed", ["approver"])
        assert (await own.get(f"{flow}/state")).json()["undoRoles"] == ["approver"]
        refused = await own.post(f"{flow}/back")
        assert (refused.status_code, refused.json()["code"]) == (403, "INSUFFICIENT_PERMISSIONS")
        assert refused.json()["details"] == {"transition": "back", "roles": ["approver"]}
        undone = await approver.post(f"{flow}/back?userId={user}")
        assert (undone.status_code, undone.json()["step"]) == (200, "review")
        assert "undoRoles" not in undone.json()


async def test_a_flow_says_who_may_reset_and_clear(serving: Serving, user: str) -> None:
    slug = await published(serving, resettable=["approver"], clearable=False)
    flow = f"/api/flow/{slug}"
    client = await connected(serving, user)
    async with (
        serving.http(user) as own,
        serving.http("ada", "flow:service", roles=["approver"]) as approver,
        serving.http("root", "flow:admin") as admin,
    ):
        await own.post(f"{flow}/start")
        for refused in (await own.post(f"{flow}/reset"), await own.delete(f"{flow}/state")):
            assert (refused.status_code, refused.json()["code"]) == (403, "INSUFFICIENT_PERMISSIONS")
        answer = await client.call("flow-reset", {"flowId": slug})
        assert answer["error"]["details"] == {"flowId": slug, "roles": ["approver"]}
        assert (await approver.post(f"{flow}/reset?userId={user}")).status_code == 200
        assert (await approver.delete(f"{flow}/state?userId={user}")).status_code == 403
        assert (await admin.delete(f"{flow}/state?userId={user}")).status_code == 204
        ended = await own.post(f"{flow}/transition/submit", json=SUBMITTED)
        assert (ended.status_code, ended.json()["code"]) == (409, "FLOW_NOT_STARTED")
        assert set(ended.json()["details"]) == {"flowId", "clearedAt"}
        reported = await client.call("flow-transition", {"flowId": slug, "transition": "submit", **SUBMITTED})
        assert reported["error"]["details"] == ended.json()["details"]
    await client.close()


async def test_a_paused_state_outlives_one_that_is_not(serving: Serving, user: str) -> None:
    slug = await published(serving, ttl="PT2S")
    flow = f"/api/flow/{slug}"
    other = await connected(serving, f"{user}-2")
    await other.call("flow-subscribe", {"flowId": slug})
    async with serving.http("root", "flow:admin") as admin:
        await admin.post(f"{flow}/start?userId={user}")
        paused = await admin.post(f"{flow}/pause?userId={user}", json={"reason": "checks"})
        assert "expiresAt" not in paused.json()
        await other.call("flow-start", {"flowId": slug})
        await other.until(lambda f: any(u["status"] == "expired" for u in f.updates()))
        held = (await admin.get(f"{flow}/state?userId={user}")).json()
        assert (held["status"], held["revision"]) == ("paused", 1)
        resumed = (await admin.post(f"{flow}/resume?userId={user}")).json()
        assert resumed["updatedAt"] < resumed["expiresAt"]
    await other.close()
