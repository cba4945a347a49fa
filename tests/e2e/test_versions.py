"""Versions of definitions over HTTP: never changed, published under a lock, retired."""

import asyncio
import uuid
from typing import Any

from tests.support.samples import flow_dict
from tests.support.serving import Serving


def slug() -> str:
    return f"flow-{uuid.uuid4().hex[:8]}"


async def test_every_change_is_the_next_version_and_the_old_ones_stay(serving: Serving) -> None:
    flow = flow_dict(slug())
    route = f"/api/flows/{flow['flow']}"
    async with serving.http("root", "flow:admin") as admin:
        created = await admin.post("/api/flows", json=flow)
        assert (created.status_code, created.headers["etag"], created.json()["flow"]) == (
            201,
            '"1"',
            flow["flow"],
        )
        patched = await admin.patch(route, json={"title": "Second"})
        assert patched.headers["etag"] == '"2"'
        third = await admin.post("/api/flows", json={**flow, "title": "Third"}, headers={"If-Match": '"2"'})
        assert (third.status_code, third.headers["etag"]) == (200, '"3"')
        same = await admin.post("/api/flows", json={**flow, "title": "Third"}, headers={"If-Match": '"3"'})
        assert same.headers["etag"] == '"3"', "what changes nothing is no version"
        conditions = {
            "*": 200,
            '"1", "3"': 200,
            '"1", "2"': 409,
            '"another", "one-more"': 409,
            'W/"3"': 409,
            "3": 422,
        }
        for given, status in conditions.items():
            again = await admin.patch(route, json={"title": "Third"}, headers={"If-Match": given})
            assert again.status_code == status, given
        other = flow_dict(slug())
        assert (await admin.post("/api/flows", json=other, headers={"If-Match": "*"})).status_code == 404
        assert [(await admin.get(f"{route}/versions/{n}")).json().get("title") for n in (1, 2, 3)] == [
            None,
            "Second",
            "Third",
        ]
        listed = (await admin.get(f"{route}/versions")).json()["items"]
        assert [(v["version"], v["publishedBy"], v["source"]) for v in listed] == [
            (n, "root", "api") for n in (3, 2, 1)
        ]


async def test_what_is_known_already_is_not_sent_again(serving: Serving) -> None:
    """By If-None-Match: so that another server-flow that reads definitions here reads what is new."""
    flow = flow_dict(slug())
    route = f"/api/flows/{flow['flow']}"
    async with serving.http("root", "flow:admin") as admin:
        await admin.post("/api/flows", json=flow)
        for path in (route, f"{route}/versions/1", f"/api/flows?after={flow['flow'][:-1]}&limit=1"):
            first = await admin.get(path)
            for tags in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
                again = await admin.get(path, headers={"If-None-Match": tags})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == first.headers["etag"]
            assert first.headers["etag"] != '"1"', "a database that was exchanged has a version 1 too"
            assert (await admin.get(path, headers={"If-None-Match": '"1"'})).status_code == 200
            await admin.patch(route, json={"title": path})
            changed = await admin.get(path, headers={"If-None-Match": first.headers["etag"]})
            assert changed.status_code == (304 if path.endswith("/versions/1") else 200)
        state = await admin.post(f"/api/flow/{flow['flow']}/start")
        asked = {"If-None-Match": state.headers["etag"]}
        same = await admin.get(f"/api/flow/{flow['flow']}/state", headers=asked)
        assert same.status_code == 200, "what may run now is not told by its position"


async def test_of_administrators_at_once_one_wins_and_the_others_are_reported(serving: Serving) -> None:
    flow = flow_dict(slug())
    route = f"/api/flows/{flow['flow']}"

    async def patch(n: int) -> Any:
        async with serving.http(f"root-{n}", "flow:admin") as admin:
            return await admin.patch(route, json={"title": f"By {n}"}, headers={"If-Match": '"1"'})

    async def post(n: int) -> Any:
        async with serving.http(f"root-{n}", "flow:admin") as admin:
            changed = {**flow, "title": f"By {n}"}
            return await admin.post("/api/flows", json=changed, headers={"If-Match": '"1"'})

    async with serving.http("root", "flow:admin") as admin:
        await admin.post("/api/flows", json=flow)
        answers = await asyncio.gather(*(patch(n) if n % 2 else post(n) for n in range(12)))
        won = [a for a in answers if a.status_code == 200]
        lost = [a.json() for a in answers if a.status_code != 200]
        assert len(won) == 1
        assert {(p["status"], p["code"], p["retryable"], p["details"]["version"]) for p in lost} == {
            (409, "VERSION_CONFLICT", True, 2)
        }
        assert (await admin.get(route)).json() == won[0].json()
        late = await admin.delete(route, headers={"If-Match": '"1"'})
        assert late.json()["code"] == "VERSION_CONFLICT"


async def test_a_new_version_is_expected_of_a_flow_that_exists(serving: Serving) -> None:
    flow = flow_dict(slug())
    async with serving.http("root", "flow:admin") as admin:
        missing = await admin.post("/api/flows", json=flow, headers={"If-Match": '"1"'})
        assert missing.json()["code"] == "FLOW_NOT_FOUND"
        await admin.post("/api/flows", json=flow)
        exists = await admin.post("/api/flows", json={**flow, "title": "x"})
        assert (exists.status_code, exists.json()["code"]) == (409, "FLOW_EXISTS")
        assert exists.json()["details"]["version"] == 1


async def test_retired_by_force(serving: Serving, user: str) -> None:
    flow = slug()
    async with serving.http("root", "flow:admin") as admin, serving.http(user) as own:
        await admin.post("/api/flows", json=flow_dict(flow))
        await own.post(f"/api/flow/{flow}/start")
        retired = await admin.delete(f"/api/flows/{flow}")
        assert (retired.status_code, retired.content) == (204, b"")
        assert (await own.post(f"/api/flow/{flow}/transition/again")).status_code == 200, "it goes on"
        forced = await admin.delete(f"/api/flows/{flow}?force=true")
        assert (forced.status_code, forced.json()) == (200, {"ended": 1, "failed": 0, "more": False})
        assert (await own.post(f"/api/flow/{flow}/start")).json()["code"] == "FLOW_NOT_FOUND"
        history = (await own.get(f"/api/flow/{flow}/history")).json()["items"]
        assert [(r["metadata"]["kind"], r["metadata"]["actor"]) for r in history] == [
            ("started", user),
            ("transitioned", user),
            ("cleared", "root"),
        ]
        refused = await own.delete(f"/api/flows/{flow}?force=true")
        assert refused.json()["code"] == "INSUFFICIENT_PERMISSIONS"
