"""Payloads that are meant to exhaust the service: each is refused with every fault, and changes nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import httpx
import jwt
import pytest

from app.auth.tokens import TokenVerifier
from app.flow.values.storable_json import MAX_NAME_CHARACTERS
from app.http.application import build_application
from app.http.endpoint import BODY_ALLOWANCE_BYTES
from tests.support.rig import Rig, rig

KEY = "k" * 32
MAX_BYTES = 200_000
MAX_FIELDS = 1_000
LONG = "x" * (MAX_NAME_CHARACTERS + 1)


@pytest.fixture
async def limited() -> Rig:
    return await rig(max_payload_bytes=MAX_BYTES, max_payload_fields=MAX_FIELDS, max_payload_depth=5)


@pytest.fixture
async def http(limited: Rig) -> AsyncIterator[httpx.AsyncClient]:
    """Ada, who has a state with a payload."""
    application = build_application(
        limited.service,
        TokenVerifier(key=KEY, algorithms=["HS256"]),
        checks={},
        cors_origins=[],
        max_payload_bytes=MAX_BYTES,
        max_definition_bytes=5_000,
        lifespan=lambda _: nullcontext(),
    )
    token = jwt.encode({"sub": "ada", "exp": 4102444800, "scope": "flow:admin"}, KEY, "HS256")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client:
        started = await client.post("/api/flow/loop/start", json={"payload": {"kept": 1}})
        assert started.status_code == 201
        yield client


def body(payload: str) -> str:
    return f'{{"payload": {payload}}}'


@pytest.mark.parametrize(
    ("text", "status", "pointers"),
    [
        (body("[" * 100_000), 422, [""]),
        (body('{"a":' * 20_000), 422, [""]),
        (body('{"a":' * 20_000 + "1" + "}" * 20_000), 422, [""]),
        (
            body('{"a":{"b":{"c":{"d":[[]]}}},"z":[[[[[]]]]]}'),
            422,
            ["/payload/a/b/c/d/0", "/payload/z/0/0/0/0"],
        ),
        (body(json.dumps({f"f{n}": 0 for n in range(MAX_FIELDS + 1)})), 422, ["/payload"]),
        (body(json.dumps({"wide": [0] * (MAX_FIELDS + 1)})), 422, ["/payload"]),
        (body(json.dumps({LONG: 1, "a": {LONG: 2}})), 422, ["/payload"]),
        (body(json.dumps({"a": {LONG: 1}, "b": [{LONG: 1}]})), 422, ["/payload/a", "/payload/b/0"]),
        (body(f'{{"n": {"9" * 400}}}'), 422, ["/payload/n"]),
        (body('{"n": 1e999, "m": [-1e999]}'), 422, [""]),
        (body(f'{{"n": {2**64 + 1}, "m": [{-(2**80) - 1}]}}'), 422, ["/payload/n", "/payload/m/0"]),
        (body('{"a\\u0000": 1}'), 422, ["/payload"]),
        (body('{"a": "\\ud800"}'), 422, None),
        (body(json.dumps({"text": "x" * MAX_BYTES})), 413, None),
        (body(json.dumps({"text": "x" * (MAX_BYTES + BODY_ALLOWANCE_BYTES)})), 413, None),
    ],
)
async def test_a_hostile_payload_is_refused_with_every_fault(
    http: httpx.AsyncClient, text: str, status: int, pointers: list[str] | None
) -> None:
    before = (await http.get("/api/flow/loop/state")).json()
    answer = await http.post("/api/flow/loop/transition/again", content=text)
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == status, problem
    assert problem["code"] in ("INVALID_PAYLOAD", "INVALID_REQUEST", "PAYLOAD_TOO_LARGE")
    assert len(answer.content) < 40_000, "an answer is no multiple of its request"
    if pointers is not None:
        assert [fault["pointer"] for fault in problem["details"]["errors"]] == pointers
    assert (await http.get("/api/flow/loop/state")).json() == before


async def test_a_payload_at_its_limits_is_stored(http: httpx.AsyncClient) -> None:
    wide = {f"f{n}": 0 for n in range(MAX_FIELDS - 5)}
    payload = {**wide, "x" * MAX_NAME_CHARACTERS: {"a": {"b": {"c": 1}}}}
    answer = await http.post("/api/flow/loop/transition/again", json={"payload": payload})
    assert answer.status_code == 200, answer.text[:300]
    over = await http.post("/api/flow/loop/transition/again", json={"payload": {"one": {"more": 1}}})
    assert over.status_code == 422, "the payload of the state is bounded, not that of one request"
    assert "1000 members" in over.json()["details"]["errors"][0]["message"]


async def test_a_definition_is_bounded_by_its_setting(http: httpx.AsyncClient) -> None:
    definition = {"flow": "big", "steps": {"a": {"title": "x" * 5_000}}}
    answer = await http.post("/api/flows", content=json.dumps(definition))
    assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
