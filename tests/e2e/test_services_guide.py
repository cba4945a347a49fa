"""The programs of the guide to services run, on a service, each with its own way to receive events."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.process.server_process import free_port
from config.settings import Settings
from tests.support.documentation import block
from tests.support.javascript import node
from tests.support.serving import Serving, external

GUIDE = "docs/guides/services.md"
USERS = [f"user-{n}" for n in range(5)]


@asynccontextmanager
async def running(*command: str, **env: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a program until the end of the block; its output."""
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # node may be a program that starts another one
        await process.communicate()  # to the end of its output, so that the pipe is closed


async def register(settings: Settings, serving: Serving, folder: Path, **env: str) -> dict[str, Any]:
    """Run the commands of the guide; the secrets and keys by service."""
    (folder / "checkout.yaml").write_text(block(GUIDE, "yaml", "flow: checkout"))
    script = block(GUIDE, "sh", "make_key").replace("curl", "curl -sS")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    admin = serving.token("root", "flow:admin")
    process = await asyncio.create_subprocess_exec(
        "bash", "-ec", script, cwd=folder, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **external(settings), "PATH": path, "URL": serving.url, "ADMIN": admin, **env},
    )  # fmt: skip
    printed, _ = await process.communicate()
    assert process.returncode == 0
    found = re.split(r"(?<=\})(?=\{)", printed.decode()[printed.decode().index("{") :])
    answers = [json.loads(each) for each in found]
    assert [each["alias"] for each in answers[:4]] == ["user", "payment", "notification", "shipping"]
    return {
        **{f"{each['alias']} secret": each["secret"] for each in answers[:4]},
        "payment key": answers[4]["key"],
        "notification key": answers[5]["key"],
    }


async def test_four_services_move_every_state_through_the_flow(settings: Settings, tmp_path: Path) -> None:
    env = {**external(settings), "FLOW_SERVICES_PRIVATE_ADDRESSES": "true"}
    serving = Serving(env=env, cwd=tmp_path)
    ports = free_port(), free_port()
    urls = {"USER_URL": f"http://127.0.0.1:{ports[0]}/", "SHIPPING_URL": f"http://127.0.0.1:{ports[1]}/"}
    credentials = await register(settings, serving, tmp_path, **urls)
    (tmp_path / "user.mjs").write_text(block(GUIDE, "js", "createServer"))
    of_redis = {name: env[name] for name in ("FLOW_REDIS_URL", "FLOW_MONGO_DATABASE")}
    python = (sys.executable, "-c")
    own_node = node(str(tmp_path / "user.mjs"))
    async with (
        running(*own_node, SECRET=credentials["user secret"], PORT=str(ports[0])) as out,
        running(*python, block(GUIDE, "python", '"pay"'), URL=serving.url, KEY=credentials["payment key"]),
        running(*python, block(GUIDE, "python", '"notify"'), URL=serving.url,
                KEY=credentials["notification key"], **of_redis) as notified,
        running(*python, block(GUIDE, "python", '"ship"'), SECRET=credentials["shipping secret"],
                PORT=str(ports[1])),
        running(*python, block(GUIDE, "python", '"audit"'), **of_redis) as audited,
    ):  # fmt: skip
        assert await out.readline() == b"listening\n"
        for user in USERS:
            async with serving.http(user) as http:
                assert (await http.post("/api/flow/checkout/start")).status_code == 201
        async with asyncio.timeout(60):
            receipts = {(await notified.readline()).decode().strip() for _ in USERS}
            await until_completed(serving)
            seen = [(await audited.readline()).decode().split() for _ in range(4)]
    assert receipts == {f"R-{user}" for user in USERS}
    assert seen[0] == ["flow.started", "verify"], "changes of the whole flow, in a group of their own"
    async with serving.http(USERS[0]) as http:
        state = (await http.get("/api/flow/checkout/state")).json()
        history = (await http.get("/api/flow/checkout/history")).json()["items"]
    assert state["payload"] == {"verified": True, "receipt": "R-user-0", "parcel": "P-user-0"}
    assert [(each["transition"], each["metadata"]["actor"]) for each in history] == [
        ("started", "user-0"),
        ("verified", "service:user"),
        ("paid", "service:payment"),
        ("sent", "service:notification"),
        ("shipped", "service:shipping"),
    ]
    serving.end()


async def until_completed(serving: Serving) -> None:
    for user in USERS:
        async with serving.http(user) as http:
            while (await http.get("/api/flow/checkout/state")).json()["status"] != "completed":
                await asyncio.sleep(0.1)
