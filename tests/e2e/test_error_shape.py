"""Over all routes: each refusal has its code of the interface, as problem+json, and nothing more."""

import json
from base64 import b64encode
from typing import Any

import httpx
import jwt
import msgspec
import pytest

from app.auth.policy import SERVICE, USE
from app.http.application import all_endpoints
from app.http.endpoint import Endpoint
from tests.support.http import http_client
from tests.support.serving import Serving

ENDPOINTS = all_endpoints({})
GUARDED = [e for e in ENDPOINTS if not e.access.is_public]
SCOPED = [e for e in GUARDED if USE not in e.access.scopes]
WITH_BODY = [e for e in GUARDED if e.body is not None]
OF_A_FLOW = [e for e in GUARDED if "{flow_id}" in e.path]
BODIES: dict[str, dict[str, Any]] = {
    "setFlowState": {"step": "welcome"},
    "pauseFlow": {"reason": "r"},
    "migrateFlowStates": {"from": 1, "to": 2},
    "setParticipants": {"participants": []},
}
"""Sound bodies of the endpoints that require members."""
STATE_TOKEN = b64encode(b'{"f": "user-onboarding:0", "s": "", "o": 1}').decode().rstrip("=")
MEMBERS = {"type", "title", "status", "detail", "instance", "code", "retryable", "details"}


def name(endpoint: Endpoint) -> str:
    return endpoint.name


def path(endpoint: Endpoint, flow: str = "user-onboarding") -> str:
    required = [f.encode_name for f in msgspec.structs.fields(endpoint.query) if f.required]
    query = "&".join(f"{name}=somebody" for name in required)
    named = {"flow_id": flow, "transition": "start", "version": "1", "earlier": "1", "later": "1"}
    named |= {"alias": "nobody", "key_id": "0" * 16, "event_id": "evt_none"}
    return endpoint.path.format(**named) + (query and f"?{query}")


def too_large(endpoint: Endpoint) -> int:
    """More bytes than any body of the endpoint may have."""
    return 9 * 1_048_576 if endpoint.body_of == "batch" else 1_048_576


async def ask(serving: Serving, endpoint: Endpoint, *, token: str | None, **request: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    target = request.pop("target", path(endpoint))
    async with http_client(serving.url, headers=headers) as http:
        return await http.request(endpoint.method, target, **request)


def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == MEMBERS
    assert (body["status"], body["code"]) == (status, code)
    assert body["instance"] == answer.request.url.path
    assert body["detail"]
    assert isinstance(body["retryable"], bool)
    assert answer.headers["x-request-id"]
    for secret in ("Traceback", "pymongo", "mongodb://", 'File "'):
        assert secret not in answer.text
    return body


@pytest.mark.parametrize("endpoint", GUARDED, ids=name)
async def test_no_token(serving: Serving, endpoint: Endpoint) -> None:
    answer = await ask(serving, endpoint, token=None)
    check(answer, 401, "AUTHENTICATION_REQUIRED")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("endpoint", GUARDED, ids=name)
async def test_wrong_token(serving: Serving, endpoint: Endpoint) -> None:
    forged = jwt.encode({"sub": "ada", "exp": 4_000_000_000, "scope": "flow:admin"}, "x" * 40, "HS256")
    body = check(await ask(serving, endpoint, token=forged), 401, "AUTHENTICATION_REQUIRED")
    assert forged not in str(body)


@pytest.mark.parametrize("endpoint", SCOPED, ids=name)
async def test_scope_missing(serving: Serving, endpoint: Endpoint, user: str) -> None:
    scope = next(each for each in (SERVICE, USE) if each not in endpoint.access.scopes)
    answer = await ask(serving, endpoint, token=serving.token(user, scope))
    assert check(answer, 403, "INSUFFICIENT_PERMISSIONS")["details"] == {"scope": endpoint.access.scopes[0]}


@pytest.mark.parametrize("endpoint", GUARDED, ids=name)
async def test_another_users_state(serving: Serving, endpoint: Endpoint, user: str) -> None:
    if endpoint in SCOPED or not any(f == "user_id" for f in endpoint.query.__struct_fields__):
        answer = await ask(serving, endpoint, token=serving.token(user, "flow:admin"), params={"userid": "b"})
        assert check(answer, 422, "INVALID_REQUEST")["details"]["errors"][0]["pointer"] == "/userid"
        return
    more = {"token": STATE_TOKEN} if endpoint.name == "compareStateToken" else {}
    target = str(httpx.URL(path(endpoint)).copy_merge_params({"userId": "somebody", **more}))
    sound = {"json": BODIES[endpoint.name]} if endpoint.name in BODIES else {}
    answer = await ask(serving, endpoint, token=serving.token(user), target=target, **sound)
    check(answer, 403, "INSUFFICIENT_PERMISSIONS")


@pytest.mark.parametrize("endpoint", OF_A_FLOW, ids=name)
async def test_unknown_flow(serving: Serving, endpoint: Endpoint, user: str) -> None:
    sound = BODIES.get(endpoint.name, {})
    for flow in ("nowhere", "user-onboarding:x", "%00", "x" * 500):
        answer = await ask(
            serving,
            endpoint,
            token=serving.token(user, "flow:admin"),
            target=path(endpoint, flow),
            **({"json": sound} if endpoint.body is not None else {}),
        )
        body = check(answer, 404, "FLOW_NOT_FOUND")
        assert "flowId" in body["details"]


@pytest.mark.parametrize("endpoint", GUARDED, ids=name)
@pytest.mark.parametrize("raw", [b"{", b"nonsense", b'{"a":NaN}', b"\xff\xfe", b"[" * 5000, b'{"a":1}x'])
async def test_bad_json(serving: Serving, endpoint: Endpoint, user: str, raw: bytes) -> None:
    answer = await ask(serving, endpoint, token=serving.token(user, "flow:admin"), content=raw)
    body = check(answer, 422, "INVALID_REQUEST")
    assert body["details"]["errors"][0]["pointer"] == ""


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name)
@pytest.mark.parametrize("value", [[], 1, "x", None, {"nonsense": 1}, {"payload": 1, "step": 2, "title": 3}])
async def test_wrong_types_and_unknown_fields(
    serving: Serving, endpoint: Endpoint, user: str, value: Any
) -> None:
    answer = await ask(serving, endpoint, token=serving.token(user, "flow:admin"), content=json.dumps(value))
    if endpoint.name == "validateFlow":
        assert answer.status_code == 200
        assert answer.json()["valid"] is False
        return
    code = "INVALID_DEFINITION" if endpoint.body_of == "definition" else "INVALID_REQUEST"
    body = check(answer, 422, code)
    assert all(set(fault) == {"pointer", "message"} for fault in body["details"]["errors"])
    assert body["details"]["errors"]


@pytest.mark.parametrize(
    "moment",
    ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+00:01", "0.5", "1", "-1", "1e3", "2026-01-01", "now"],
)
@pytest.mark.parametrize("name", ["since", "until"])
async def test_moments_are_such_as_can_be_compared(
    serving: Serving, user: str, name: str, moment: str
) -> None:
    async with serving.http(user) as http:
        answer = await http.get("/api/flow/user-onboarding/history", params={name: moment})
        body = check(answer, 422, "INVALID_REQUEST")
        assert [fault["pointer"] for fault in body["details"]["errors"]] == [f"/{name}"]
        for taken in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "2026-01-01T00:00:00+23:59"):
            answer = await http.get("/api/flow/user-onboarding/history", params={name: taken})
            assert answer.status_code == 200


async def test_a_missing_body_is_reported_by_what_it_must_have(serving: Serving, user: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        await http.post("/api/flow/user-onboarding/start")
        for content in (b"", b" "):
            answer = await http.post("/api/flow/user-onboarding/pause", content=content)
            assert "reason" in check(answer, 422, "INVALID_REQUEST")["detail"]


ANSWER_BYTES = 100_000


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name)
@pytest.mark.parametrize(
    "value",
    [
        {"x" * 20_000: {f"k{n}": n for n in range(200)}},
        {"payload": {"x" * 20_000: {f"k{n}": 2**64 + 1 for n in range(200)}}},
        {"steps": {"x" * 20_000: {f"k{n}": n for n in range(200)}}, "step": "x" * 20_000},
        {f"{n}{'x' * 300}": n for n in range(150)},
    ],
    ids=["unknown", "payload", "steps", "many"],
)
async def test_an_answer_does_not_multiply_its_request(
    serving: Serving, endpoint: Endpoint, user: str, value: Any
) -> None:
    answer = await ask(serving, endpoint, token=serving.token(user, "flow:admin"), json=value)
    assert answer.status_code in (200, 409, 413, 422), answer.text[:1000]
    assert len(answer.content) < ANSWER_BYTES


@pytest.mark.parametrize("path", ["x" * 60_000, "%01" * 20_000], ids=["long", "controls"])
async def test_an_answer_and_its_line_do_not_repeat_a_long_path(
    serving: Serving, user: str, path: str
) -> None:
    async with serving.http(user, "flow:admin") as http:
        for target in ("/", "/livez/", "/api/flows/", "/api/flow/", "/static/"):
            answer = await http.get(target + path)
            assert answer.status_code == 404
            assert len(answer.content) < 10_000
    assert max(map(len, serving.output.splitlines())) < 20_000


@pytest.mark.parametrize("query", ["&".join(["a"] * 15_000), "a" * 30_000, "userId=" + "%22" * 5000],
                         ids=["many", "long", "quotes"])  # fmt: skip
async def test_an_answer_does_not_multiply_its_query(serving: Serving, user: str, query: str) -> None:
    token = serving.token(user, "flow:admin")
    for endpoint in (ENDPOINTS[0], ENDPOINTS[-1], OF_A_FLOW[0], WITH_BODY[0]):
        answer = await ask(serving, endpoint, token=token, target=f"{endpoint.path}?{query}")
        assert answer.status_code in (400, 403, 404, 422), answer.text[:1000]
        assert len(answer.content) < ANSWER_BYTES


@pytest.mark.parametrize("endpoint", GUARDED, ids=name)
async def test_a_megabyte(serving: Serving, endpoint: Endpoint, user: str) -> None:
    big = {"payload": {"a": "x" * too_large(endpoint)}}
    answer = await ask(serving, endpoint, token=serving.token(user, "flow:admin"), json=big)
    check(answer, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("endpoint", GUARDED, ids=name)
async def test_a_megabyte_in_pieces(serving: Serving, endpoint: Endpoint, user: str) -> None:
    async def pieces() -> Any:
        for _ in range(too_large(endpoint) // 16_384):
            yield b" " * 16_384

    answer = await ask(serving, endpoint, token=serving.token(user, "flow:admin"), content=pieces())
    check(answer, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name)
async def test_unknown_query_parameter(serving: Serving, endpoint: Endpoint, user: str) -> None:
    token = serving.token(user, "flow:admin")
    answer = await ask(serving, endpoint, token=token, params={"nonsense": 1, "more": 2})
    body = check(answer, 422, "INVALID_REQUEST")
    assert [f["pointer"] for f in body["details"]["errors"]][:2] == ["/nonsense", "/more"]


@pytest.mark.parametrize(
    "target", ["/index.html", "/demo/", "/api", "/api/flow/x", "/api/flow//state", "/nowhere"]
)
async def test_unknown_route(serving: Serving, target: str) -> None:
    check(await ask(serving, ENDPOINTS[0], token=None, target=target), 404, "NOT_FOUND")


async def test_unknown_method(serving: Serving) -> None:
    async with http_client(serving.url) as http:
        answer = await http.delete("/api/flows")
    check(answer, 405, "METHOD_NOT_ALLOWED")
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


async def test_unknown_transition_and_flow_not_started(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        route = "/api/flow/user-onboarding"
        check(await http.post(f"{route}/transition/start"), 409, "FLOW_NOT_STARTED")
        await http.post(f"{route}/start")
        body = check(await http.post(f"{route}/transition/fly"), 409, "INVALID_TRANSITION")
        assert body["details"] == {"fromStep": "welcome", "transition": "fly", "allowed": ["start"]}
        body = check(await http.post(f"{route}/reset", json={"step": "x"}), 422, "INVALID_REQUEST")
        assert body["details"]["errors"][0]["pointer"] == "/step"
        assert (await http.get(f"{route}/state")).json()["revision"] == 0


@pytest.mark.parametrize(
    ("header", "value"),
    [("If-Match", "0"), ("If-Match", '"x.y.z"'), ("If-Match", '"1" 2'), ("Idempotency-Key", "x" * 129)],
)
async def test_bad_headers(serving: Serving, user: str, header: str, value: str) -> None:
    async with serving.http(user) as http:
        answer = await http.post("/api/flow/user-onboarding/start", headers={header: value})
    assert check(answer, 422, "INVALID_REQUEST")["details"]["errors"][0]["pointer"] == f"/{header}"


@pytest.mark.parametrize("endpoint", [e for e in GUARDED if e.request_headers], ids=name)
async def test_every_declared_header_is_read(serving: Serving, endpoint: Endpoint, user: str) -> None:
    sound = BODIES.get(endpoint.name, {})
    for header in endpoint.request_headers:
        answer = await ask(
            serving,
            endpoint,
            token=serving.token(user, "flow:admin"),
            headers={header: "1 2"},
            **({"json": sound} if endpoint.body is not None else {}),
        )
        body = check(answer, 422, "INVALID_REQUEST")
        assert [fault["pointer"] for fault in body["details"]["errors"]] == [f"/{header}"]
