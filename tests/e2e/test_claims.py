"""Tokens of an identity provider that names user, roles and scopes in claims of its own."""

import time
from pathlib import Path
from typing import Any

import jwt

from config.settings import Settings
from realtime.client import FlowClient
from tests.support.following import at_revision, read, revisions
from tests.support.http import http_client
from tests.support.samples import flow_dict
from tests.support.serving import Serving, external

CLAIMS = {
    "FLOW_JWT_USER_CLAIM": "email",
    "FLOW_JWT_ROLES_CLAIM": "realm_access.roles",
    "FLOW_JWT_SCOPE_CLAIM": "scp",
}


async def test_a_user_follows_its_state_and_runs_what_its_role_may(
    settings: Settings, tmp_path: Path
) -> None:
    env = {**external(settings), **CLAIMS}

    def token(email: str, **more: Any) -> str:
        claims = {"sub": "8d1f", "email": email, "exp": int(time.time()) + 600, **more}
        return jwt.encode(claims, env["FLOW_JWT_SECRET"], algorithm="HS256")

    serving = Serving("--workers", "2", env=env, cwd=tmp_path)
    flow = flow_dict()
    flow["steps"]["a"]["transitions"]["go"]["roles"] = ["approver"]
    root = {"Authorization": f"Bearer {token('root@flows.test', scp=['flow:admin'])}"}
    async with http_client(serving.url, headers=root) as http:
        assert (await http.post("/api/flows", json=flow)).status_code == 201
    clerk = token("ada@flows.test", realm_access={"roles": "clerk"})
    approver = token("ada@flows.test", realm_access={"roles": "approver"})
    async with (
        FlowClient(serving.url, clerk) as client,
        client.follow("loop") as states,
        http_client(serving.url, headers={"Authorization": f"Bearer {clerk}"}) as as_clerk,
        http_client(serving.url, headers={"Authorization": f"Bearer {approver}"}) as as_approver,
    ):
        await states.ready()
        assert (await as_clerk.post("/api/flow/loop/start")).json()["userId"] == "ada@flows.test"
        assert (await as_clerk.post("/api/flow/loop/transition/go")).status_code == 403
        assert (await as_clerk.post("/api/flow/loop/transition/again")).status_code == 200
        assert (await as_approver.post("/api/flow/loop/transition/go")).status_code == 200
        shown = revisions(await read(states, at_revision(2)))
        assert shown[0] is None
        assert shown[-2:] == [1, 2]
    serving.end()
