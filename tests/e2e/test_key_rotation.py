"""Rotation of wrapping keys under load, and starts that lack a key that stored data needs."""

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import SecretStr

from app.contracts.commands import StartCommand
from app.contracts.errors import StoreUnavailableError, WrappingKeyMissingError
from app.crypto.wrapping import local_key_id
from app.main import Backend, open_service, publish_definitions
from app.services.trusted import TrustedFlows
from config.encryption import create_wrapping_key, parse_wrapping_keys
from config.settings import Settings
from tests.support.long_form import form
from tests.support.recording import stored_values
from tests.support.serving import Process, Sender, Serving, external
from tests.support.shell import Shell

FLOW = "user-onboarding"
WAY = ("start", "continue", "save", "complete")
STATES = form("rotation of wrapping keys: states, each of its own user", short=200, long=10_000)
CLIENTS = 6

T = TypeVar("T")


def with_keys(settings: Settings, *keys: str) -> Settings:
    """The settings with these wrapping keys; none: encryption is off."""
    return settings.model_copy(update={"encryption_keys": SecretStr(",".join(keys)) if keys else None})


def key_id(entry: str) -> str:
    """The id of an entry of FLOW_ENCRYPTION_KEYS."""
    (key,) = parse_wrapping_keys(entry)
    return local_key_id(key.key)


class Walkers:
    """Clients that move states of users, each as far as it goes; ``revisions`` are those acknowledged."""

    def __init__(self, users: list[str]) -> None:
        self.revisions = dict.fromkeys(users, 0)

    @asynccontextmanager
    async def walking(self, serving: Serving) -> AsyncIterator[None]:
        """Move the states until the end of the block."""
        ended = asyncio.Event()
        users = itertools.cycle(list(self.revisions))
        senders = [Sender(serving) for _ in range(CLIENTS)]
        before = sum(self.revisions.values())

        async def walk(sender: Sender) -> None:
            while not ended.is_set():
                user = next(users)
                revision = self.revisions[user] + 1
                body = {"payload": {str(revision): user}}
                if revision <= len(WAY):
                    path = f"/api/flow/{FLOW}/transition/{WAY[revision - 1]}"
                    await sender.post(user, path, revision, body)
                    self.revisions[user] = revision
                elif sum(self.revisions.values()) == len(WAY) * len(self.revisions):
                    return

        clients = [asyncio.create_task(walk(sender)) for sender in senders]
        try:
            yield
        finally:
            ended.set()
            await asyncio.gather(*clients)
            for sender in senders:
                await sender.close()
        assert sum(self.revisions.values()) > before, "there was load"


async def rotated(parts: Backend, key: str) -> int:
    """The number of owners whose data keys a key wraps."""
    return (await parts.encryption.store.count_by_wrapping()).get(key, 0)


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while the database is too slow, as a client does; other tests run beside this one."""
    for _ in range(20):
        try:
            return await call()
        except StoreUnavailableError:
            await asyncio.sleep(0.5)
    return await call()


async def start(flows: TrustedFlows, user: str) -> None:
    await flows.start_flow(user, FLOW, StartCommand(payload={"0": user}))


async def start_all(settings: Settings, users: list[str]) -> None:
    parts = Backend(settings)
    async with parts.running() as service:
        await publish_definitions(service, settings)
        flows = service.as_trusted()
        for page in pages(users):
            await asyncio.gather(*(repeated(partial(start, flows, user)) for user in page))


def pages(users: list[str]) -> list[list[str]]:
    return [users[start : start + 100] for start in range(0, len(users), 100)]


async def kill_a_rotation(parts: Backend, env: dict[str, str], cwd: Path, new: str) -> None:
    """Begin a rotation and kill it when it has made some progress."""
    before = await rotated(parts, new)
    rotating = Process("keys", "rotate", env=env, cwd=cwd)
    while await rotated(parts, new) == before:
        assert rotating.popen.poll() is None, rotating.output
        await asyncio.sleep(0.005)
    assert rotating.end(signal.SIGKILL) == -signal.SIGKILL
    assert before < await rotated(parts, new) < STATES, "it was killed half way"


@pytest.mark.expected_logs("redis connection lost", optional=True)  # this process is busy
@pytest.mark.timeout(900)
async def test_a_rotation_under_load_that_is_killed_twice_loses_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    old, new = create_wrapping_key(), create_wrapping_key()
    users = [f"user-{number}" for number in range(STATES)]
    walkers = Walkers(users)
    await start_all(with_keys(settings, old), users)
    first, appended, moved = (with_keys(settings, *keys) for keys in ((old,), (old, new), (new, old)))
    env = external(moved)
    parts = Backend(moved)
    assert await rotated(parts, key_id(old)) >= STATES

    serving = Serving("--workers", "2", env=external(appended), cwd=tmp_path)
    try:
        async with walkers.walking(serving):
            for _ in range(2):
                await kill_a_rotation(parts, env, tmp_path, key_id(new))
    finally:
        serving.end()

    serving = Serving("--workers", "2", env=env, cwd=tmp_path)
    try:
        async with walkers.walking(serving):
            ended = Process("keys", "rotate", "--json", env=env, cwd=tmp_path)
            assert await asyncio.to_thread(ended.popen.wait, 600) == 0
            report = json.loads(ended.wait_for(r"\{.*\}")[0])
        assert (report["key"], report["remaining"]) == (key_id(new), 0)
    finally:
        serving.end()
    counts = await parts.encryption.store.count_by_wrapping()
    assert counts.keys() == {key_id(new)}
    assert counts[key_id(new)] >= STATES
    await close(parts)
    await require_all(with_keys(settings, new), walkers.revisions)
    with pytest.raises(WrappingKeyMissingError, match=key_id(new)):
        async with Backend(first).running():
            pass


async def require_all(settings: Settings, revisions: dict[str, int]) -> None:
    """Require that every state is as it was acknowledged, with its payload, and that histories are whole."""
    parts = Backend(settings)
    async with parts.running() as service:
        flows = service.as_trusted()
        for page in pages(list(revisions)):
            reads = (repeated(partial(flows.get_flow_state, user, FLOW)) for user in page)
            states = await asyncio.gather(*reads)
            for user, state in zip(page, states, strict=True):
                assert state is not None
                assert state.revision == revisions[user]
                assert state.payload == {str(n): user for n in range(revisions[user] + 1)}
        await service.background.relay.drain(30)
        for user in list(revisions)[::10]:
            checked = await repeated(partial(flows.verify_flow_history, user, FLOW))
            assert (checked.whole, checked.records) == (True, revisions[user] + 1), user


async def close(parts: Backend) -> None:
    await parts.bus.stop()
    await parts.database.close()


async def test_a_start_without_a_key_that_stored_data_needs_names_it(
    settings: Settings, tmp_path: Path
) -> None:
    key, other = create_wrapping_key(), create_wrapping_key()
    first = Shell(with_keys(settings, key), tmp_path)
    which = ("--user", "ada", "--flow", FLOW)
    first("state", "set", *which, '{"step": "verification", "payload": {"iban": "DE02"}}')
    for lacking, says in (((), "is not set"), ((other,), "lacks")):
        shell = Shell(with_keys(settings, *lacking), tmp_path)
        message = (
            f"server-flow: Stored data needs wrapping keys that FLOW_ENCRYPTION_KEYS {says}: {key_id(key)}"
        )
        for command in (("state", "show", *which), ("keys", "list"), ("serve", "--port", "0")):
            printed = shell(*command, code=1)
            assert message in printed
            assert "docs/operations/encryption.md" in printed
        with pytest.raises(WrappingKeyMissingError, match=key_id(key)):
            async with open_service(with_keys(settings, *lacking)):
                pass
    assert json.loads(first("state", "show", *which))["payload"] == {"iban": "DE02"}


def test_keys_are_generated_listed_and_rotated(settings: Settings, tmp_path: Path) -> None:
    shell = Shell(with_keys(settings), tmp_path)
    assert "FLOW_ENCRYPTION_KEYS: is not set" in shell("keys", "list", code=2)
    old, new = (Shell(with_keys(settings), tmp_path)("keys", "generate").strip() for _ in range(2))
    shell = Shell(with_keys(settings, old), tmp_path)
    shell("state", "set", "--user", "ada", "--flow", FLOW, '{"step": "verification"}')
    owners = int(shell("keys", "list").split()[1])
    shell = Shell(with_keys(settings, new, old), tmp_path)
    assert f"{key_id(old)}  {owners:>8} data keys  run: server-flow keys rotate" in shell("keys", "list")
    assert shell("keys", "rotate") == f"{owners} data keys wrapped with {key_id(new)}, 0 remain\n"
    assert json.loads(shell("keys", "rotate", "--json")) == {
        "key": key_id(new),
        "rewrapped": 0,
        "remaining": 0,
    }
    listed = {key["id"]: key for key in json.loads(shell("keys", "list", "--json"))}
    used = {"id": key_id(new), "owners": owners, "current": True, "known": True, "unused": False}
    assert listed[key_id(new)] == used
    assert listed[key_id(old)]["unused"]
    shell = Shell(with_keys(settings, new), tmp_path)
    assert shell("keys", "list") == f"{key_id(new)}  {owners:>8} data keys  wraps new data keys\n"


def test_what_was_stored_before_the_encryption_is_encrypted_by_a_command(
    settings: Settings, tmp_path: Path
) -> None:
    shell = Shell(with_keys(settings), tmp_path)
    which = ("--user", "ada", "--flow", FLOW)
    shell("state", "set", *which, '{"step": "verification", "payload": {"iban": "DE02 1203"}}')
    assert "FLOW_ENCRYPTION_KEYS: is not set" in shell("keys", "seal", code=2)
    key = shell("keys", "generate").strip()
    shell = Shell(with_keys(settings, key), tmp_path)
    assert "DE02 1203" in everything(settings)
    sealed = json.loads(shell("keys", "seal", "--json"))
    assert sealed["sealed"] >= 2
    assert "DE02 1203" not in everything(settings)
    assert shell("keys", "seal").endswith(" documents checked, 0 encrypted\n")
    assert json.loads(shell("state", "show", *which))["payload"] == {"iban": "DE02 1203"}
    assert "whole" in shell("state", "verify", *which)
    shell.env["FLOW_ENCRYPTION_REQUIRED"] = "true"
    assert json.loads(shell("state", "show", *which))["payload"] == {"iban": "DE02 1203"}
    assert "FLOW_ENCRYPTION_REQUIRED" in shell("keys", "seal", code=1)


def everything(settings: Settings) -> str:
    """Return all that is stored, as text."""
    assert settings.mongo_url is not None
    found = stored_values(settings.mongo_url.get_secret_value(), settings.mongo_database)
    return "\n".join(value.decode("latin-1") for _, value in found)
