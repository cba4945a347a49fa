"""Batches of state operations over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.serving import Serving

FLOW = "user-onboarding"
ROUTE = "/api/admin/states/batch"


@pytest.fixture
async def admin(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with serving.http("root", "flow:admin") as client:
        yield client


def operation(op: str, user: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "userId": user, "flowId": FLOW, **more}


async def test_each_operation_has_its_own_answer(admin: httpx.AsyncClient, user: str) -> None:
    answer = await admin.post(
        ROUTE,
        json={
            "operations": [
                operation("reset", f"{user}-1"),
                operation("transition", f"{user}-1", transition="start", body={"payload": {"a": 1}}),
                operation("pause", f"{user}-1", body={"reason": "audit"}),
                operation("transition", f"{user}-1", transition="skip"),
                operation("resume", f"{user}-1"),
                operation("set", f"{user}-2", body={"step": "verification", "payload": {"b": 2}}),
                operation("clear", f"{user}-2"),
                operation("clear", f"{user}-3"),
                operation("transition", f"{user}-3", transition="start"),
                {**operation("reset", f"{user}-4"), "flowId": "nowhere"},
                operation("reset", f"{user}-1", expectedRevision=99),
            ]
        },
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    codes = [result.get("error", {}).get("code") for result in body["results"]]
    expected = [None, None, None, "STATE_PAUSED", None, None, None, None, "FLOW_NOT_STARTED",
                "FLOW_NOT_FOUND", "REVISION_CONFLICT"]  # fmt: skip
    assert codes == expected
    assert (body["succeeded"], body["failed"]) == (7, 4)
    states = [result.get("state") for result in body["results"]]
    assert [s and s["step"] for s in states[:3]] == ["welcome", "profile-setup", "profile-setup"]
    assert states[2]["pauseReason"] == "audit"
    assert states[1]["payload"] == {"a": 1}
    assert states[6] is states[7] is None
    assert body["results"][10]["error"]["details"]["state"]["revision"] == 3


async def test_every_fault_is_named_and_nothing_is_changed(admin: httpx.AsyncClient, user: str) -> None:
    answer = await admin.post(
        ROUTE,
        json={
            "operations": [
                operation("reset", user),
                operation("transition", user),
                operation("clear", user, body={"x": 1}),
                operation("pause", user, body={"reason": ""}),
                operation("reset", user, transition="start"),
                operation("set", user, body={"step": 1, "ok": "yes"}),
            ]
        },
    )
    assert answer.status_code == 422
    pointers = sorted(fault["pointer"] for fault in answer.json()["details"]["errors"])
    assert pointers == [
        "/operations/1/transition",
        "/operations/2/body",
        "/operations/3/body/reason",
        "/operations/4/transition",
        "/operations/5/body/ok",
        "/operations/5/body/step",
    ]
    state = await admin.get(f"/api/flow/{FLOW}/state", params={"userId": user})
    assert state.json() is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"operations": [], "filter": {}, "operation": {"op": "clear"}},
        {"filter": {}},
        {"filter": {}, "operation": {"op": "clear"}},
        {"operation": {"op": "clear"}},
        {"operations": [operation("fly", "x")]},
        {"operations": [operation("clear", "x")], "after": "y"},
        {"operations": [operation("clear", "x", expectedEpoch="e")]},
        {"operations": [operation("clear", "x\u0000")]},
        {"operations": [operation("set", "x", body={"step": "welcome", "flow": "sign-in"})]},
        {"operations": [operation("reset", "x")] * 2, "dryRun": True},
        {"operations": [operation("clear", "x")] * 1001},
        {"filter": {"status": "odd"}, "operation": {"op": "clear"}},
        {"filter": {"stepp": "a"}, "operation": {"op": "clear"}},
    ],
)
async def test_what_is_no_batch_is_refused(admin: httpx.AsyncClient, body: Any) -> None:
    answer = await admin.post(ROUTE, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("header", [{"Idempotency-Key": "k"}, {"If-Match": '"1"'}])
async def test_headers_of_one_change_are_refused(admin: httpx.AsyncClient, header: dict[str, str]) -> None:
    answer = await admin.post(ROUTE, json={"operations": []}, headers=header)
    assert answer.status_code == 422
    assert answer.json()["details"]["errors"][0]["pointer"] == f"/{next(iter(header))}"


async def test_a_repeated_batch_changes_nothing_twice(admin: httpx.AsyncClient, user: str) -> None:
    wanted = [
        operation("reset", f"{user}-{n}", requestId="r-1", body={"step": "profile-setup"}) for n in range(5)
    ]
    first = (await admin.post(ROUTE, json={"operations": wanted})).json()
    again = (await admin.post(ROUTE, json={"operations": wanted})).json()
    assert first == again
    assert [result["state"]["revision"] for result in again["results"]] == [0] * 5


async def test_by_a_filter(admin: httpx.AsyncClient, user: str) -> None:
    users = [f"{user}-{n}" for n in range(5)]
    starts = [operation("set", one, body={"step": "verification"}) for one in users]
    await admin.post(ROUTE, json={"operations": starts})
    await admin.post(ROUTE, json={"operations": [operation("pause", users[4], body={"reason": "x"})]})
    wanted = {"filter": {"flowId": FLOW, "step": "verification", "status": "active", "userId": users[0]}}
    skip = {"operation": {"op": "transition", "transition": "complete", "body": {"message": "done"}}}
    dry = (await admin.post(ROUTE, json={**wanted, **skip, "dryRun": True})).json()
    assert [(r["userId"], r["state"]["step"]) for r in dry["results"]] == [(users[0], "completed")]
    history = await admin.get(f"/api/flow/{FLOW}/history", params={"userId": users[0]})
    assert len(history.json()["items"]) == 1, "a dry run changes and records nothing"
    done = (await admin.post(ROUTE, json={**wanted, **skip})).json()
    assert done["results"][0]["state"]["status"] == "completed"
    none = (await admin.post(ROUTE, json={**wanted, **skip})).json()
    assert (none["results"], none["succeeded"]) == ([], 0)


async def test_finding_states_pages_and_filters(admin: httpx.AsyncClient, user: str) -> None:
    users = sorted(f"{user}-{n}" for n in range(5))
    starts = [operation("reset", one) for one in users]
    await admin.post(ROUTE, json={"operations": starts})
    found = (await admin.get("/api/admin/states", params={"userId": users[0]})).json()
    assert [(s["userId"], s["flow"]) for s in found["items"]] == [(users[0], FLOW)]
    assert found["items"][0]["transitions"]
    params: dict[str, Any] = {
        "flowId": FLOW,
        "step": "welcome",
        "status": "active",
        "limit": 2,
        "after": f"{FLOW}:{user}",
    }
    seen: list[str] = []
    while True:
        page = (await admin.get("/api/admin/states", params=params)).json()
        seen += [state["userId"] for state in page["items"]]
        if "next" not in page:
            break
        params["after"] = page["next"]
    assert [one for one in seen if one.startswith(user)] == users
    nothing = (await admin.get("/api/admin/states", params={"userId": f"{user}-none"})).json()
    assert nothing == {"items": []}
