"""The routes at work."""

import re
from contextlib import nullcontext
from typing import Any

import httpx
import jsonschema_rs
import pytest

from app.auth.tokens import TokenVerifier
from app.http.application import all_endpoints, build_application
from app.main import Backend
from tests.support.http import http_client
from tests.support.samples import flow_dict
from tests.support.serving import Serving

ONBOARDING = "/api/flow/user-onboarding"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_a_state_as_the_interface_says(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        before = await http.get(f"{ONBOARDING}/state")
        assert (before.status_code, before.text) == (200, "null")
        assert before.headers["content-type"] == "application/json"
        body = {"service": "web", "entityId": None, "payload": {"a": {"b.c": [1, None]}}}
        started = await http.post(f"{ONBOARDING}/start", json=body)
        assert started.status_code == 201
        state = started.json()
        assert {k: v for k, v in state.items() if k not in ("epoch", "createdAt", "updatedAt")} == {
            "flow": "user-onboarding",
            "step": "welcome",
            "entityId": None,
            "service": "web",
            "payload": {"a": {"b.c": [1, None]}},
            "ok": True,
            "userId": user,
            "version": 1,
            "revision": 0,
            "status": "active",
            "transitions": [
                {"transition": "start", "step": "profile-setup", "explicit": False, "reversible": False}
            ],
        }
        assert TIME.fullmatch(state["createdAt"])
        assert TIME.fullmatch(state["updatedAt"])
        assert started.headers["etag"] == f'"{state["epoch"]}.0"'
        again = await http.post(f"{ONBOARDING}/start", json={"payload": {"other": 1}})
        assert (again.status_code, again.json()) == (200, state)
        assert (await http.get(f"{ONBOARDING}/state")).json() == state


async def test_integers_as_javascript_writes_doubles(serving: Serving, user: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        headers = {"Content-Type": "application/json"}
        body = b'{"payload": {"n": 100000000000000000000}}'
        started = await http.post(f"{ONBOARDING}/start", content=body, headers=headers)
        assert started.json()["payload"] == {"n": 1e20}
        body = b'{"payload": {"m": 9223372036854776000}}'
        await http.post(f"{ONBOARDING}/transition/start", content=body, headers=headers)
        read = (await http.get(f"{ONBOARDING}/state")).json()["payload"]
        assert read == {"n": 1e20, "m": 2.0**63}
        body = b'{"step": "welcome", "payload": {"k": 18446744073709551616}}'
        replaced = await http.put(f"{ONBOARDING}/state", content=body, headers=headers)
        assert replaced.json()["payload"] == {"k": 2.0**64}
        for digits in (b"18446744073709551615", b"1" * 400, b"9" * 9000):
            body = b'{"payload": {"n": %b}}' % digits
            refused = await http.post(f"{ONBOARDING}/transition/start", content=body, headers=headers)
            assert refused.status_code == 422
            assert "64 bits, or be exact as a double" in refused.json()["details"]["errors"][0]["message"]


async def test_transition_reset_clear_and_history(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        await http.post(f"{ONBOARDING}/start")
        body = {"payload": {"name": "Ada"}, "ok": False, "message": "careful"}
        headers = {"Idempotency-Key": "key-1"}
        moved = (await http.post(f"{ONBOARDING}/transition/start", json=body, headers=headers)).json()
        assert (moved["step"], moved["ok"], moved["message"]) == ("profile-setup", False, "careful")
        assert [t["transition"] for t in moved["transitions"]] == ["continue", "skip"]
        assert (await http.post(f"{ONBOARDING}/transition/fly")).status_code == 409
        reset = (await http.post(f"{ONBOARDING}/reset")).json()
        assert (reset["step"], reset["revision"]) == ("welcome", 2)
        assert "payload" not in reset
        assert (await http.delete(f"{ONBOARDING}/state")).status_code == 204
        assert (await http.get(f"{ONBOARDING}/state")).json() is None
        assert (await http.delete(f"{ONBOARDING}/state")).status_code == 204

        history: list[Any] = []
        after = None
        while True:
            page = {"limit": 2, **({"after": after} if after else {})}
            got = (await http.get(f"{ONBOARDING}/history", params=page)).json()
            history += got["items"]
            after = got.get("next")
            if after is None:
                break

        async def only(**wanted: Any) -> list[str]:
            got = (await http.get(f"{ONBOARDING}/history", params=wanted)).json()["items"]
            return [record["transition"] for record in got]

        assert await only(transition="reset", success=True) == ["reset"]
        assert await only(actor="nobody") == []
        assert await only(until=history[0]["timestamp"]) == []
        assert (await only(since=history[0]["timestamp"], success=True))[0] == "started"
        naive = await http.get(f"{ONBOARDING}/history", params={"since": "2026-01-01T00:00:00"})
        assert naive.json()["details"]["errors"][0]["pointer"] == "/since"
    commits = [r for r in history if r["success"]]
    assert [r["transition"] for r in commits] == ["started", "start", "reset", "cleared"]
    assert [r["metadata"]["kind"] for r in commits] == ["started", "transitioned", "reset", "cleared"]
    assert [(r["fromStep"], r["toStep"]) for r in commits] == [
        ("", "welcome"),
        ("welcome", "profile-setup"),
        ("profile-setup", "welcome"),
        ("welcome", "welcome"),
    ]
    assert [r["metadata"]["revision"] for r in commits] == [0, 1, 2, 3]
    moved_record = commits[1]
    assert moved_record["payload"] == {"name": "Ada"}
    assert moved_record["metadata"]["requestId"] == "key-1"
    assert (moved_record["metadata"]["actor"], moved_record["metadata"]["client"]) == (user, "http")
    assert moved_record["userId"] == user
    assert TIME.fullmatch(moved_record["timestamp"])


async def test_refused_attempts_come_to_the_history(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        await http.post(f"{ONBOARDING}/start")
        await http.post(f"{ONBOARDING}/transition/fly")
        await http.post(f"{ONBOARDING}/transition/start")
        # the relay works in order: when the second change is there, the refusal before it is too
        for _ in range(200):
            history = (await http.get(f"{ONBOARDING}/history")).json()["items"]
            if len(history) == 3:
                break
    refused = history[1]
    assert (refused["success"], refused["error"]) == (False, "INVALID_TRANSITION")
    assert refused["fromStep"] == refused["toStep"] == "welcome"
    assert refused["transition"] == "fly"
    assert refused["metadata"]["durationMs"] >= 0


async def test_if_match(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        tag = (await http.post(f"{ONBOARDING}/start")).headers["etag"]
        moved = await http.post(f"{ONBOARDING}/transition/start", headers={"If-Match": tag})
        assert moved.status_code == 200
        stale = await http.post(f"{ONBOARDING}/transition/skip", headers={"If-Match": tag})
        assert stale.status_code == 412
        assert stale.json()["details"]["state"] == moved.json()
        assert (await http.get(f"{ONBOARDING}/state")).json() == moved.json()


async def test_if_match_as_rfc_9110_says(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        none = await http.post(f"{ONBOARDING}/start", headers={"If-Match": "*"})
        assert (none.status_code, none.json()["code"]) == (412, "REVISION_CONFLICT"), "there is no state"
        tag = (await http.post(f"{ONBOARDING}/start")).headers["etag"]

        async def reset(*if_match: str) -> int:
            answer = await http.post(f"{ONBOARDING}/reset", headers=[("If-Match", line) for line in if_match])
            return answer.status_code

        epoch = tag.strip('"').partition(".")[0]
        assert await reset("*") == 200
        assert await reset(f'"{epoch}.0", "{epoch}.1"') == 200
        assert await reset(f'"{epoch}.0"', f'"{epoch}.2"') == 200, "two lines are one list"
        assert await reset(f'"another", "{epoch}.3"') == 200
        assert await reset(f'"{epoch}.0", "{epoch}.9"') == 412
        assert await reset('"another", "one-more"') == 412, "a list counts, whoever made its tags"
        assert await reset(f'W/"{epoch}.4"') == 412, "a weak tag matches nothing"
        assert await reset(f'W/"{epoch}.4", "{epoch}.4"') == 200
        await http.delete(f"{ONBOARDING}/state")
        await http.post(f"{ONBOARDING}/start")
        anew = await http.post(f"{ONBOARDING}/reset", headers={"If-Match": f'"{epoch}.0"'})
        assert "The state was started anew: it is at revision 0 of epoch" in anew.json()["detail"]


async def test_a_service_acts_for_a_user_and_is_named(serving: Serving, user: str) -> None:
    async with serving.http(f"svc-{user}", "flow:service") as service, serving.http(user) as own:
        await service.post(f"{ONBOARDING}/start", params={"userId": user})
        assert (await own.get(f"{ONBOARDING}/state")).json()["userId"] == user
        assert (await service.get(f"{ONBOARDING}/state")).json() is None
        record = (await own.get(f"{ONBOARDING}/history")).json()["items"][0]
        assert record["metadata"]["actor"] == f"svc-{user}"


async def test_set_repairs_and_makes(serving: Serving, user: str) -> None:
    async with serving.http("root", "flow:admin") as admin:
        route, whose = f"{ONBOARDING}/state", {"userId": user}
        minimum = {"flow": "user-onboarding", "step": "verification", "service": "default", "ok": True}
        made = (await admin.put(route, json=minimum, params=whose)).json()
        assert (made["step"], made["revision"], made["service"]) == ("verification", 0, "default")
        again = (await admin.put(route, json={"step": "welcome"}, params=whose)).json()
        assert (again["step"], again["revision"], again["epoch"]) == ("welcome", 1, made["epoch"])
        other = await admin.put(route, json={"step": "welcome", "flow": "sign-in"}, params=whose)
        assert other.json()["details"]["errors"][0]["pointer"] == "/flow"


async def test_states_of_a_user_are_paged(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        for flow in ("user-onboarding", "sign-in", "purchase-approval"):
            await http.post(f"/api/flow/{flow}/start")
        first = (await http.get("/api/states", params={"limit": 2})).json()
        assert [s["flow"] for s in first["items"]] == ["purchase-approval", "sign-in"]
        rest = (await http.get("/api/states", params={"limit": 2, "after": first["next"]})).json()
        assert [s["flow"] for s in rest["items"]] == ["user-onboarding"]
        assert "next" not in rest


async def test_pages_end_at_a_number_of_bytes_too(serving: Serving, user: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        for n in range(20):
            body = {"step": "welcome", "payload": {"n": n, "text": "x" * 60_000}}
            assert (await http.put(f"{ONBOARDING}/state", json=body)).status_code == 200
        found: list[int] = []
        after: dict[str, str] = {}
        while True:
            answer = await http.get(f"{ONBOARDING}/history", params={"limit": 1000, **after})
            assert len(answer.content) < 1_100_000
            page = answer.json()
            found += [record["payload"]["n"] for record in page["items"]]
            if "next" not in page:
                break
            after = {"after": page["next"]}
        assert found == list(range(20))
        assert len(page["items"]) < 20
        versions = (await http.get("/api/flows/user-onboarding/versions", params={"limit": 1})).json()
        assert len(versions["items"]) == 1


async def test_members_of_a_payload_are_removed_over_http(serving: Serving, user: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        await http.post(f"{ONBOARDING}/start", json={"payload": {"a": {"b": 1, "c": None}, "d": 2}})
        bad = await http.post(f"{ONBOARDING}/transition/start", json={"remove": ["/a", "a", "/~"]})
        assert (bad.status_code, bad.json()["code"]) == (422, "INVALID_REQUEST")
        assert [f["pointer"] for f in bad.json()["details"]["errors"]] == ["/remove/1", "/remove/2"]
        moved = await http.post(
            f"{ONBOARDING}/transition/start", json={"remove": ["/a/b"], "payload": {"e": 3}}
        )
        assert moved.json()["payload"] == {"a": {"c": None}, "d": 2, "e": 3}
        repaired = await http.put(
            f"{ONBOARDING}/state", json={"step": "welcome", "remove": ["/a/c", "/nowhere"]}
        )
        assert repaired.json()["payload"] == {"a": {}, "d": 2, "e": 3}
        for wrong in ("/a", [1], ["/a"] * 101, ["/" + "a" * 1000]):
            refused = await http.post(f"{ONBOARDING}/transition/start", json={"remove": wrong})
            assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_REQUEST")


async def test_a_payload_that_grows_is_bounded(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        await http.post(f"{ONBOARDING}/start", json={"payload": {"a": "x" * 40_000}})
        full = await http.post(f"{ONBOARDING}/transition/start", json={"payload": {"b": "x" * 40_000}})
        assert (full.status_code, full.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
        wrong = await http.post(
            f"{ONBOARDING}/transition/start", json={"payload": {"n": 2**64 + 1, "m": 2**65 + 1}}
        )
        assert (wrong.status_code, wrong.json()["code"]) == (422, "INVALID_PAYLOAD")
        pointers = [fault["pointer"] for fault in wrong.json()["details"]["errors"]]
        assert pointers == ["/payload/n", "/payload/m"]
        assert (await http.get(f"{ONBOARDING}/state")).json()["revision"] == 0


async def test_definitions(serving: Serving, user: str) -> None:
    slug = f"flow-{user}"
    async with serving.http(user, "flow:admin") as admin, serving.http(user) as http:
        created = await admin.post("/api/flows", json=flow_dict(slug))
        assert (created.status_code, created.headers["location"]) == (201, f"/api/flows/{slug}")
        twice = await admin.post("/api/flows", json=flow_dict(slug))
        assert (twice.status_code, twice.json()["code"]) == (409, "FLOW_EXISTS")
        slugs, after = [], None
        while True:
            page = (
                await http.get("/api/flows", params={"limit": 2, **({"after": after} if after else {})})
            ).json()
            slugs += [flow["flow"] for flow in page["items"]]
            after = page.get("next")
            if after is None:
                break
        assert slugs == sorted(slugs)
        assert {slug, "user-onboarding", "sign-in", "purchase-approval"} <= set(slugs)

        read = await http.get(f"/api/flows/{slug}")
        assert re.fullmatch(r'"1\.[0-9a-f]{24}"', read.headers["etag"])
        tag = {"If-Match": read.headers["etag"]}
        assert (await admin.patch(f"/api/flows/{slug}", json={"title": "T"}, headers=tag)).status_code == 200
        late = await admin.patch(f"/api/flows/{slug}", json={"title": "U"}, headers=tag)
        assert (late.status_code, late.json()["code"]) == (409, "VERSION_CONFLICT")
        assert late.json()["details"]["version"] == 2
        assert (await http.get(f"/api/flows/{slug}")).json()["title"] == "T"
        assert (await http.get(f"/api/flows/{slug}/versions/1")).json() == read.json()
        versions = (await http.get(f"/api/flows/{slug}/versions")).json()["items"]
        assert [v["version"] for v in versions] == [2, 1]
        assert (await http.get(f"/api/flows/{slug}/versions/9")).json()["code"] == "FLOW_NOT_FOUND"
        assert (await http.get(f"/api/flows/{slug}/versions/x")).status_code == 422
        assert (await admin.delete(f"/api/flows/{slug}")).status_code == 204
        assert (await http.get(f"/api/flows/{slug}")).status_code == 404
        assert (await admin.delete(f"/api/flows/{slug}")).status_code == 404


async def test_references_are_resolved_on_demand(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        raw = (await http.get("/api/flows/sign-in")).json()
        resolved = (await http.get("/api/flows/sign-in", params={"resolve": "true"})).json()
    assert raw["steps"]["choice"]["service"] == "$auth"
    assert resolved["steps"]["choice"]["service"] == "auth-service"
    assert resolved["steps"]["choice"]["module"] == "auth-choice"
    assert resolved["steps"]["choice"]["path"] == "/sign-in"
    assert resolved["steps"]["signed-in"]["service"] == "-"


async def test_the_sign_in_flow(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        route = "/api/flow/sign-in"
        await http.post(f"{route}/start", json={"service": "shop"})
        chosen = (await http.post(f"{route}/transition/sign-in")).json()
        assert chosen["previous"] == "choice"
        proven = (
            await http.post(f"{route}/transition/authenticate", json={"payload": {"login": "ada"}})
        ).json()
        assert "previous" not in proven
        done = (await http.post(f"{route}/transition/verify")).json()
        assert (done["step"], done["status"], done["service"]) == ("signed-in", "completed", "shop")
        assert done["payload"] == {"login": "ada"}
        assert done["transitions"] == []


async def test_a_transition_is_explained(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        route = "/api/flow/user-onboarding"
        assert (await http.get(f"{route}/explain")).json()["code"] == "FLOW_NOT_STARTED"
        await http.post(f"{route}/start")
        steps = (await http.get("/api/flows/user-onboarding")).json()["steps"]
        *_, last = steps
        found = (await http.get(f"{route}/explain", params={"to": last, "payload": "{}"})).json()
        assert found["state"]["step"] == next(iter(steps))
        assert [hop["step"] for hop in found["way"]["hops"]][-1] == last
        assert all(check["message"] for each in found["transitions"] for check in each["checks"])
        for query in ({"payload": "["}, {"payload": "[]"}, {"to": "nowhere"}):
            refusal = await http.get(f"{route}/explain", params=query)
            assert (refusal.status_code, refusal.json()["code"]) == (422, "INVALID_REQUEST")
        assert (await http.get(f"{route}/explain", params={"roles": "gold"})).status_code == 403
        done = (await http.get(f"{route}/explain", params={"transition": "nosuch"})).json()
        assert [check["condition"] for each in done["transitions"] for check in each["checks"]] == [
            "status",
            "step",
        ]


async def test_validate_stores_nothing(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        sound = (await http.post("/api/flows/validate", json=flow_dict(f"v-{user}"))).json()
        assert sound == {"valid": True, "findings": []}
        broken = flow_dict("a:b", initialStep="x")
        report = (await http.post("/api/flows/validate", json=broken)).json()
        assert report["valid"] is False
        assert [f["pointer"] for f in report["findings"]] == ["/flow", "/initialStep"]
        assert all(f["severity"] == "error" and f["message"] and f["advice"] for f in report["findings"])
        assert (await http.get(f"/api/flows/v-{user}")).status_code == 404


async def test_health(serving: Serving) -> None:
    async with http_client(serving.url) as http:
        assert (await http.get("/livez")).json() == {"status": "ok", "checks": {}}
        ready = await http.get("/readyz")
        assert ready.json() == {"status": "ok", "checks": {"mongodb": "ok", "redis": "ok"}}


async def test_headers_of_safety_and_tracing(serving: Serving) -> None:
    async with http_client(serving.url) as http:
        answer = await http.get("/livez", headers={"X-Request-Id": "my-id-1"})
        assert answer.headers["x-request-id"] == "my-id-1"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        odd = await http.get("/livez", headers={"X-Request-Id": "a b"})
        assert odd.headers["x-request-id"] != "a b"


async def test_openapi_has_every_route_and_its_answers_fit(serving: Serving, user: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        document = (await http.get("/openapi.json")).json()
        endpoints = all_endpoints({})
        named = {o["operationId"] for path in document["paths"].values() for o in path.values()}
        assert named == {endpoint.name for endpoint in endpoints}

        def schema_of(path: str, method: str, status: str) -> Any:
            operation = document["paths"][path][method]
            (media,) = operation["responses"][status]["content"].values()
            return jsonschema_rs.Draft202012Validator(
                {**media["schema"], "components": document["components"]}
            )

        state_path = "/api/flow/{flowId}/state"
        assert schema_of(state_path, "get", "200").is_valid(None)
        started = await http.post(f"{ONBOARDING}/start", json={"payload": {"a": 1}})
        schema_of("/api/flow/{flowId}/start", "post", "201").validate(started.json())
        for path, target in (
            (state_path, f"{ONBOARDING}/state"),
            ("/api/flow/{flowId}/history", f"{ONBOARDING}/history"),
            ("/api/states", "/api/states"),
            ("/api/flows", "/api/flows"),
            ("/api/flows/{flowId}", "/api/flows/sign-in"),
            ("/api/flows/{flowId}/versions", "/api/flows/sign-in/versions"),
            ("/api/admin/statistics", "/api/admin/statistics"),
            ("/readyz", "/readyz"),
        ):
            schema_of(path, "get", "200").validate((await http.get(target)).json())
        refused = await http.post(f"{ONBOARDING}/transition/fly")
        schema_of("/api/flow/{flowId}/transition/{transition}", "post", "409").validate(refused.json())


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1"])
async def test_limits_of_pages(serving: Serving, user: str, limit: str) -> None:
    async with serving.http(user) as http:
        for target in ("/api/states", "/api/flows", f"{ONBOARDING}/history"):
            answer = await http.get(target, params={"limit": limit})
            assert answer.status_code == 422
            assert answer.json()["details"]["errors"][0]["pointer"] == "/limit"
        answer = await http.get(f"{ONBOARDING}/history", params={"after": "nonsense"})
        assert answer.json()["details"]["errors"][0]["pointer"] == "/after"


async def test_back_undoes_a_reversible_transition(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        route = "/api/flow/purchase-approval"
        request = {"amount": 5, "approvers": ["bob", "cid"]}
        await http.post(f"{route}/start", json={"payload": {"note": "n"}})
        assert (await http.post(f"{route}/back")).json()["code"] == "INVALID_TRANSITION"
        await http.post(f"{route}/transition/submit", json={"payload": request})
        undone = await http.post(f"{route}/back", headers={"Idempotency-Key": "b"})
        assert undone.status_code == 200
        assert (undone.json()["step"], undone.json()["revision"]) == ("draft", 2)
        assert undone.json()["payload"] == {"note": "n", **request}
        again = await http.post(f"{route}/back", headers={"Idempotency-Key": "b"})
        assert again.json() == undone.json()
        history = (await http.get(f"{route}/history")).json()["items"]
    kinds = [r["metadata"]["kind"] for r in history if r["success"]]
    assert kinds == ["started", "transitioned", "undone"]


async def test_an_administrator_holds_and_releases(serving: Serving, user: str) -> None:
    whose = {"userId": user}
    async with serving.http("root", "flow:admin") as admin, serving.http(user) as http:
        assert (await admin.post(f"{ONBOARDING}/pause", json={"reason": "r"}, params=whose)).json()[
            "code"
        ] == "FLOW_NOT_STARTED"
        await http.post(f"{ONBOARDING}/start")
        held = (await admin.post(f"{ONBOARDING}/pause", json={"reason": "audit"}, params=whose)).json()
        assert (held["status"], held["pauseReason"], held["transitions"]) == ("paused", "audit", [])
        again = await admin.post(f"{ONBOARDING}/pause", json={"reason": "other"}, params=whose)
        assert again.json() == held
        for refused in (
            await http.post(f"{ONBOARDING}/transition/start"),
            await http.post(f"{ONBOARDING}/reset"),
            await http.delete(f"{ONBOARDING}/state"),
        ):
            assert (refused.status_code, refused.json()["code"]) == (409, "STATE_PAUSED")
            assert refused.json()["details"]["reason"] == "audit"
        assert (await http.post(f"{ONBOARDING}/resume")).status_code == 403
        free = (await admin.post(f"{ONBOARDING}/resume", params=whose)).json()
        assert (free["status"], free["revision"]) == ("active", 2)
        assert "pauseReason" not in free
        assert (await admin.post(f"{ONBOARDING}/resume", params=whose)).json() == free
        assert (await http.post(f"{ONBOARDING}/transition/start")).status_code == 200
        assert (await admin.post(f"{ONBOARDING}/pause", json={}, params=whose)).status_code == 422


@pytest.mark.expected_logs("origin refused")
async def test_a_page_of_an_allowed_origin_may_send_every_header_that_is_heeded(parts: Backend) -> None:
    application = build_application(
        parts.service,
        TokenVerifier(key="k" * 32, algorithms=["HS256"]),
        checks={},
        cors_origins=["https://app.example"],
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
    )
    heeded = "authorization,content-type,if-match,if-none-match,idempotency-key,last-event-id,x-request-id"
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": heeded}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://here") as http:
        for origin, status in (("https://app.example", 200), ("https://other.example", 400)):
            answer = await http.options("/api/flows/loop", headers={"Origin": origin, **asked})
            assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (
                status,
                status == 200,
            )
        read = await http.get("/livez", headers={"Origin": "https://app.example"})
        exposed = read.headers["access-control-expose-headers"].lower().split(", ")
        assert {"etag", "flow-version", "retry-after", "x-request-id", "location"} <= set(exposed)
