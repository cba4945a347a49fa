"""The programs of the guide to services run, on a service, each with its own way to receive events."""

import asyncio
import os
import re
import shlex
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from secrets import token_bytes

from app.process.server_process import free_port
from config.settings import Settings
from tests.support.commands import run_command
from tests.support.constants import with_constants
from tests.support.documentation import block
from tests.support.javascript import node
from tests.support.serving import Serving, external
from tests.support.shorter_waits import RETRIES, SETTLING

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


class Guide:
    """The commands of the guide, with the addresses of this test in the place of those in the guide."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.env = {
            **external(settings),
            "FLOW_SERVICES_PRIVATE_ADDRESSES": "127.0.0.0/8",
            "FLOW_ENCRYPTION_KEYS": b64encode(token_bytes(32)).decode(),  # as embedded servers have a key
            **with_constants(SETTLING),
        }
        self.folder = folder
        self.serving = Serving(env=self.env, cwd=folder, constants=RETRIES)
        self.ports = {"8081": free_port(), "8082": free_port()}

    def script(self, holds: str) -> str:
        """Return the block with a text in it."""
        script = block(GUIDE, "sh", holds).replace("curl", "curl -sS")
        for documented, port in self.ports.items():
            script = script.replace(documented, str(port))
        return script

    async def run(self, holds: str) -> str:
        """Run the block with a text in it, in a shell; what it printed."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-ec", self.script(holds), cwd=self.folder, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self.env, "PATH": path, "URL": self.serving.url},
        )  # fmt: skip
        printed, _ = await process.communicate()
        assert process.returncode == 0
        return printed.decode()

    async def run_commands(self, holds: str) -> str:
        """Run the commands of the block with a text in it, without a shell, which is quicker."""
        printed = ""
        for line in self.script(holds).splitlines():
            program, *arguments = shlex.split(line)
            assert program == "server-flow"
            ended = await asyncio.to_thread(run_command, arguments, self.env, self.folder)
            assert ended.code == 0, ended.stderr
            printed += ended.stdout
        return printed

    async def register(self) -> dict[str, str]:
        """Register the services; their secrets and keys."""
        (self.folder / "checkout.yaml").write_text(block(GUIDE, "yaml", "flow: checkout"))
        (self.folder / "user.mjs").write_text(block(GUIDE, "js", "createServer"))
        printed = await self.run_commands("make-key")
        aliases = re.findall(r'"alias": "(\w+)"', printed)
        secrets = re.findall(r'"secret": "(\S+)"', printed)
        payment_key, notification_key = re.findall(r"^sfk_\S+", printed, re.MULTILINE)
        assert aliases == ["user", "payment", "notification", "shipping"]
        return {
            **{f"{alias} secret": secret for alias, secret in zip(aliases, secrets, strict=True)},
            "payment key": payment_key,
            "notification key": notification_key,
        }

    def running_user(self, secret: str) -> AbstractAsyncContextManager[asyncio.StreamReader]:
        """Run the webhook of the service ``user``."""
        command = node(str(self.folder / "user.mjs"))
        return running(*command, SECRET=secret, PORT=str(self.ports["8081"]))


async def test_a_developer_sees_the_first_event_and_mends_a_failure(
    settings: Settings, tmp_path: Path
) -> None:
    guide = Guide(settings, tmp_path)
    credentials = await guide.register()
    async with asyncio.timeout(60):
        async with guide.running_user(credentials["user secret"]) as out:
            assert await out.readline() == b"listening\n"
            started = await guide.run("checkout/start")
            event_id, user = (await out.readline()).decode().split()
        assert '"step":"verify"' in started
        assert (event_id[:4], user) == ("evt_", "ada")
        listed = run_command(["services", "list"], guide.env, tmp_path).stdout
        documented = block(GUIDE, "text", "notification\tenabled")
        assert re.sub(r"\d+", "N", listed) == re.sub(r"\d+", "N", documented)
        async with guide.serving.http("bob") as http:
            await http.post("/api/flow/checkout/start")
            failing = ""
            while "bob" not in failing:
                failing = await guide.run_commands("deliveries failing")
            assert re.search(r"^checkout\tbob\t\d failures\t\S+Z\tthere is no connection to the rec", failing)
            async with guide.running_user(credentials["user secret"]) as out:
                assert await out.readline() == b"listening\n"
                printed = await guide.run_commands("services enable user")
                assert printed == ("user is enabled\n0 of 0 dead letters are redelivered by the workers\n")
                assert (await out.readline()).endswith(b" bob\n")
    guide.serving.end()


async def test_four_services_move_every_state_through_the_flow(settings: Settings, tmp_path: Path) -> None:
    guide = Guide(settings, tmp_path)
    serving = guide.serving
    credentials = await guide.register()
    of_stream = {name: guide.env[name] for name in ("FLOW_REDIS_URL", "FLOW_MONGO_DATABASE")}
    of_stream["SECRET"] = credentials["notification secret"]
    python = (sys.executable, "-c")
    async with (
        guide.running_user(credentials["user secret"]) as out,
        running(*python, block(GUIDE, "python", '"pay"'), URL=serving.url, KEY=credentials["payment key"]),
        running(*python, block(GUIDE, "python", '"notify"'), URL=serving.url,
                KEY=credentials["notification key"], **of_stream) as notified,
        running(*python, block(GUIDE, "python", '"ship"'), SECRET=credentials["shipping secret"],
                PORT=str(guide.ports["8082"])),
        running(*python, block(GUIDE, "python", '"audit"'), **of_stream) as audited,
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
