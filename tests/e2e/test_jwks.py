"""Tokens of an issuer whose address of keys is away for a while: at the doors, and as clients meet it."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import socketio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from config.settings import Settings
from realtime.client import FlowClient
from tests.support.envelopes import PUBLIC_KEY, auth, envelope_token
from tests.support.following import at_revision, read
from tests.support.http import http_client
from tests.support.remotes import RemoteServer
from tests.support.serving import Serving, external

FLOW = "user-onboarding"
PATH = "/keys"
KEYS = {name: Ed25519PrivateKey.generate() for name in ("first", "second")}


def published(*names: str) -> dict[str, Any]:
    keys = [json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(KEYS[name].public_key())) for name in names]
    return {"keys": [{**key, "kid": name, "use": "sig"} for key, name in zip(keys, names, strict=True)]}


def token(user: str, key: str = "first", key_id: str | None = None) -> str:
    claims = {"sub": user, "exp": int(time.time()) + 600}
    return jwt.encode(claims, KEYS[key], "EdDSA", headers={"kid": key_id or key})


@pytest.fixture
async def issuer() -> AsyncIterator[RemoteServer]:
    server = await RemoteServer().start()
    server.gives(published("first"), PATH)
    yield server
    await server.stop()


@pytest.fixture
async def served(servers: Settings, issuer: RemoteServer, tmp_path: Path) -> AsyncIterator[Serving]:
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    env = {**external(own), "FLOW_JWKS_URL": issuer.url(PATH), "FLOW_ED25519_KEYS": PUBLIC_KEY}
    del env["FLOW_JWT_SECRET"]
    serving = await asyncio.to_thread(lambda: Serving(env=env, cwd=tmp_path))
    yield serving
    await asyncio.to_thread(serving.end)


async def state(serving: Serving, bearer: str) -> httpx.Response:
    async with http_client(serving.url, headers={"Authorization": f"Bearer {bearer}"}) as http:
        return await http.get(f"/api/flow/{FLOW}/state")


async def test_an_outage_of_the_address_is_one_for_now_and_known_keys_stay_in_use(
    served: Serving, issuer: RemoteServer
) -> None:
    port = issuer.port
    await issuer.stop()
    refused = await state(served, token("ada"))
    assert (refused.status_code, refused.json()["code"]) == (503, "KEYS_UNAVAILABLE")
    assert (refused.json()["retryable"], refused.headers["retry-after"]) == (True, "2")

    client = socketio.AsyncClient(reconnection=False, json=json)
    refusals: list[Any] = []
    client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(served.url, auth={"token": token("ada")}, transports=["websocket"])
    await client.disconnect()
    assert refusals[0]["data"]["code"] == "KEYS_UNAVAILABLE"
    assert refusals[0]["data"]["retryable"] is True

    async with FlowClient(served.url, lambda: token("ada")) as client_of_ours:
        waiting = asyncio.create_task(client_of_ours.start(FLOW))
        await asyncio.wait([waiting], timeout=1)  # longer than three final refusals took
        assert not waiting.done()
        await issuer.start(port)
        assert (await waiting).revision == 0
    await issuer.stop()
    assert (await state(served, token("ada"))).status_code == 200
    unknown = await state(served, token("ada", "second"))
    assert (unknown.status_code, unknown.json()["code"]) == (503, "KEYS_UNAVAILABLE")

    envelope = f"ED25519-BASIC-TOKEN {envelope_token(auth(userId='bob'))}"
    async with FlowClient(served.url, envelope) as with_envelope, with_envelope.follow(FLOW) as states:
        await states.ready()
        await with_envelope.start(FLOW)
        shown = await read(states, at_revision(0))
        assert shown[-1].user_id == "bob"
    async with http_client(served.url, headers={"Authorization": envelope}) as http:
        assert (await http.get(f"/api/flow/{FLOW}/state")).json()["userId"] == "bob"


async def test_an_unknown_key_is_refused_for_good_and_asks_once(
    served: Serving, issuer: RemoteServer
) -> None:
    assert (await state(served, token("ada"))).status_code == 200
    for n in range(20):
        refused = await state(served, token("ada", key_id=f"unknown-{n}"))
        assert (refused.status_code, refused.json()["code"]) == (401, "AUTHENTICATION_REQUIRED")
    assert len(issuer.requests) == 2


async def test_a_key_that_is_published_later_is_found(served: Serving, issuer: RemoteServer) -> None:
    assert (await state(served, token("ada"))).status_code == 200
    issuer.gives(published("first", "second"), PATH)
    assert (await state(served, token("ada", "second"))).status_code == 200
    forged = token("ada", "second", key_id="first")
    assert (await state(served, forged)).status_code == 401
