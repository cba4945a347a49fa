"""A new version renames one step and removes another; many running states are moved to it while
transitions go on from two workers. Each ends at its right step, and its history has all of it."""

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from app.contracts.record import HistoryRecord
from app.contracts.state import FlowState
from app.main import Backend
from config.settings import Settings
from models.codec import record_from_document, state_from_document
from models.sealed_fields import record_layout, state_layout
from tests.support.long_form import form
from tests.support.serving import Follower, Serving, close_all
from tests.support.versions import renamed, without

FLOW = "journey"
USERS = [f"u-{n:04}" for n in range(form("migration: states", short=400, long=1000))]
FEWER = USERS[:400]
HELD = USERS[::50]
FOLLOWED = USERS[1:5]
SENDERS = 2
"""On each worker."""
PAUSE_SECONDS = 0.03
"""Of a sender after an answer, so that most of a slow machine is left to the migration."""
MAPPING = {"second": "later", "third": "fourth"}
Hosts = tuple[Serving, Serving]


def journey() -> dict[str, Any]:
    """Four steps in a circle, so that a state can go on for as long as is wanted; and an end."""
    names = ["first", "second", "third", "fourth"]
    steps: dict[str, Any] = {
        name: {
            "index": n,
            "step": name,
            "service": "svc",
            "transitions": {
                "next": {"transition": "next", "step": names[(n + 1) % 4]},
                "stop": {"transition": "stop", "step": "end", "explicit": True},
            },
        }
        for n, name in enumerate(names)
    }
    steps["end"] = {"index": 9, "step": "end", "service": "svc", "transitions": {}}
    return {"flow": FLOW, "initialStep": "first", "steps": steps}


VERSIONS = {1: journey(), 2: without(renamed(journey(), "second", "later"), "third", "fourth")}


async def published(admin: httpx.AsyncClient, users: Sequence[str] = USERS) -> None:
    """Version 1, with every user at a step of it, some of them held."""
    assert (await admin.post("/api/flows", json=VERSIONS[1])).status_code == 201
    steps = itertools.cycle(list(VERSIONS[1]["steps"])[:4])
    starts = [
        {"op": "reset", "userId": user, "flowId": FLOW, "body": {"step": step}}
        for user, step in zip(users, steps, strict=False)
    ]
    holds = [
        {"op": "pause", "userId": user, "flowId": FLOW, "body": {"reason": "audit"}}
        for user in users
        if user in HELD
    ]
    for operations in (starts, holds):
        done = await admin.post("/api/admin/states/batch", json={"operations": operations})
        assert done.json()["failed"] == 0, done.text


class Senders:
    """Back-end programs that run transitions of random users through both workers, until they are stopped."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._users = [user for user in USERS if user not in HELD]
        self._requests = itertools.count()
        self._going = True
        self.repeats = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.acknowledged: Counter[tuple[str, int]] = Counter()
        """By user and the revision that was answered."""
        self.versions: Counter[tuple[int, int]] = Counter()
        """By worker and the version that was answered."""

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._send(host, random.Random(n))) for n, host in enumerate([0, 1] * SENDERS)
        ]

    async def sent(self, more: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = self.acknowledged.total() + more
        while self.acknowledged.total() < wanted:
            for task in self._tasks:
                assert not task.done(), task.result()
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    async def _send(self, host: int, chance: random.Random) -> None:
        async with self._hosts[host].http("back-end", "flow:service") as http:
            while self._going:
                state = await self._post(http, chance.choice(self._users))
                self.acknowledged[state["userId"], state["revision"]] += 1
                self.versions[host, state["version"]] += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def _post(self, http: httpx.AsyncClient, user: str) -> Any:
        """The answer to one transition; while the database does not answer, the request is repeated."""
        headers = {"Idempotency-Key": f"r-{next(self._requests)}"}
        while True:
            answer = await http.post(
                f"/api/flow/{FLOW}/transition/next", params={"userId": user}, headers=headers
            )
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code == 503, answer.text
            self.repeats += 1
            await asyncio.sleep(0.2)


async def migrated(http: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    """The answer to a migration; while the database does not answer, the request is repeated."""
    body = {"from": 1, "to": 2, **more}
    while True:
        answer = await http.post(f"/api/flows/{FLOW}/migrate", json=body, timeout=60)
        if answer.status_code == 200:
            report: dict[str, Any] = answer.json()
            return report
        assert answer.status_code == 503, answer.text


@pytest.mark.timeout(600)
async def test_many_states_move_while_transitions_go_on(two_hosts: Hosts, settings: Settings) -> None:
    one, other = (host.http("root", "flow:admin") for host in two_hosts)
    followers = [
        await Follower().connect(two_hosts[n % 2].url, two_hosts[0].token(user))
        for n, user in enumerate(FOLLOWED)
    ]
    async with one, other:
        await published(one)
        assert (await other.patch(f"/api/flows/{FLOW}", json={"steps": VERSIONS[2]["steps"]})).is_success
        diff = (await one.get(f"/api/flows/{FLOW}/versions/1/diff/2")).json()
        assert (diff["verdict"], diff["steps"]["removed"]) == ("breaking", ["second", "third"])

        bare = await migrated(one, dryRun=True)
        fates = [(s["step"], s["fit"]["count"], s["needMapping"]["count"]) for s in bare["steps"]]
        each = len(USERS) // 4
        counts = {"first": (each, 0), "second": (0, each), "third": (0, each), "fourth": (each, 0)}
        assert fates == [(step, *two) for step, two in (counts | {"end": (0, 0)}).items()]
        assert {p["step"]: p["to"] for p in bare["proposals"]} == MAPPING
        rehearsed = await migrated(other, mapping=MAPPING, dryRun=True)
        fitting = sum(step["fit"]["count"] for step in rehearsed["steps"])
        assert fitting == rehearsed["remaining"] == len(USERS)

        senders = Senders(two_hosts)
        senders.start()
        await senders.sent(80)
        calls = 0
        for http in itertools.cycle((one, other)):
            report = await migrated(http, mapping=MAPPING, limit=len(USERS) // 3)
            assert report["failures"] == []
            assert report["moved"] <= len(USERS) // 3
            calls += 1
            if not report["remaining"]:
                break
        assert calls > 1
        await senders.sent(80)
        await senders.stop()
        assert all(senders.versions[host, version] for host in (0, 1) for version in (1, 2))

        again = await migrated(one, mapping=MAPPING)
        assert (again["moved"], again["remaining"]) == (0, 0)
        newcomer = (await other.post(f"/api/flow/{FLOW}/start")).json()
        assert newcomer["version"] == 2

        states, history = await stored(settings)
        check(states, history)
        made = Counter((r.user_id, r.revision) for records in history.values() for r in records
                       if r.kind == "transitioned")  # fmt: skip
        assert made == senders.acknowledged, "no transition lost, none made twice"
        for user, follower in zip(FOLLOWED, followers, strict=True):
            last = states[user].revision
            await follower.until_revision(last)
            reported = follower.updates()
            assert [event["revision"] for event in reported] == list(range(last + 1))
            (reported_once,) = [event for event in reported if event["kind"] == "migrated"]
            assert (reported_once["version"], reported_once["actor"]) == (2, "root")
        verified = [
            await one.get(f"/api/flow/{FLOW}/history/verify", params={"userId": u}) for u in USERS[::20]
        ]
        assert all(answer.json()["whole"] for answer in verified)
    await close_all(followers)
    print(f"\n{senders.acknowledged.total()} transitions meanwhile, {senders.repeats} requests repeated")


@pytest.mark.timeout(600)
async def test_a_worker_that_dies_in_the_middle(two_hosts: Hosts, settings: Settings) -> None:
    """Another worker publishes the moves of the killed one; the next run moves the rest."""
    victim, other = two_hosts
    async with victim.http("root", "flow:admin") as http:
        await published(http, FEWER)
        assert (await http.patch(f"/api/flows/{FLOW}", json={"steps": VERSIONS[2]["steps"]})).is_success
        parts = Backend(settings)
        collection = parts.database.collection("flow_states")
        run = asyncio.create_task(migrated(http, mapping=MAPPING))
        while not await collection.count_documents({"version": 2}):
            await asyncio.sleep(0.01)
        victim.end(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await run
    await parts.database.close()
    await parts.bus.stop()
    async with other.http("root", "flow:admin") as http:
        report = await migrated(http, mapping=MAPPING)
        assert 0 < report["moved"] < len(FEWER)
        while report["remaining"]:  # a slow machine takes longer than one call does
            assert (report["failed"], report["moved"] > 0) == (0, True)
            report = await migrated(http, mapping=MAPPING)
    check(*await stored(settings), FEWER)


async def stored(settings: Settings) -> tuple[dict[str, FlowState], dict[str, list[HistoryRecord]]]:
    """Every state, and its records in their order, once all are delivered."""
    parts = Backend(settings)
    states, history = (parts.database.collection(name) for name in ("flow_states", "flow_history"))
    async with asyncio.timeout(300):  # the sweep of a living worker delivers what a dead one left
        while await states.count_documents({"outbox.0": {"$exists": True}}):
            await asyncio.sleep(0.1)
    by_user: dict[str, list[HistoryRecord]] = {}
    recorded = await history.find({"flowId": FLOW}).sort("revision", 1).to_list(None)
    for record in await parts.codec.of(record_layout).decode_many(record_from_document, recorded):
        by_user.setdefault(record.user_id, []).append(record)
    held = await states.find({"flowId": FLOW}, {"outbox": 0}).to_list(None)
    found = await parts.codec.of(state_layout).decode_many(state_from_document, held)
    await parts.database.close()
    await parts.bus.stop()
    return {state.user_id: state for state in found}, by_user


def check(
    states: dict[str, FlowState], history: dict[str, list[HistoryRecord]], users: Sequence[str] = USERS
) -> None:
    """Each state is where its own history leads, step by step by the rules of the version it was on, with
    one move between the versions."""
    for user in users:
        state, records = states[user], history[user]
        assert [r.revision for r in records] == list(range(state.revision + 1)), user
        assert [r.kind for r in records].count("migrated") == 1, user
        version, step = 1, records[0].to_step
        for record in records[1:]:
            assert (record.success, record.from_step) == (True, step), record
            if record.kind == "transitioned":
                step = VERSIONS[version]["steps"][step]["transitions"][record.transition]["step"]
            elif record.kind == "migrated":
                assert record.payload == {
                    "fromVersion": 1, "toVersion": 2, "fromStep": step, "toStep": MAPPING.get(step, step)
                }  # fmt: skip
                version, step = 2, MAPPING.get(step, step)
            else:
                assert (record.kind, user in HELD) == ("paused", True)
            assert (record.version, record.to_step) == (version, step), record
        assert (state.version, state.step) == (2, step)
        assert state.status == ("paused" if user in HELD else "active")
