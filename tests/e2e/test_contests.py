"""People contend for one claim, and for the votes that decide, while workers are killed."""

import asyncio
import itertools
import random
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest

from tests.support.http import http_client
from tests.support.long_form import form
from tests.support.samples import flow_dict
from tests.support.serving import Serving

FLOW = "petition"
ROUTE = f"/api/flow/{FLOW}"
OWNER = "ada"
CLAIMANTS = [f"clerk-{n}" for n in range(20)]
VOTERS = [f"voter-{n}" for n in range(5)]
NEEDED = 3
CLAIMS = form("contests: claims, each of 20 people", short=6, long=60)
DECISIONS = form("contests: decisions of 5 voters", short=12, long=120)
KILLS = form("contests: kills in each", short=2, long=12)
"""Fewer than the deaths of two workers in a row after which the supervisor gives up."""
SEED = 20_261_127
Json = dict[str, Any]


def petition() -> Json:
    """A flow that three of the approvers decide, after which clerks work on it."""
    flow = flow_dict(
        FLOW,
        instances="many",
        participants={
            "approver": {"assignable": True},
            "clerk": {"group": "clerks", "claim": "PT1H"},
        },
    )
    steps = flow["steps"]
    approve = {"step": "b", "roles": ["approver"], "approvals": {"of": "approver", "count": NEEDED}}
    steps["a"]["transitions"] = {"approve": {"transition": "approve", **approve}}
    steps["b"]["transitions"] = {"done": {"transition": "done", "step": "c", "roles": ["clerk"]}}
    return flow


class Contender:
    """A person whose program repeats each request with its key until it is answered for good."""

    def __init__(self, serving: Serving, user_id: str, groups: Sequence[str] = ()) -> None:
        self.user_id = user_id
        self.repeats = 0
        self._serving = serving
        self._headers = {"Authorization": f"Bearer {serving.token(user_id, groups=groups)}"}
        self._http: httpx.AsyncClient | None = None

    async def post(self, path: str, entity_id: str, body: Json) -> tuple[int, Json]:
        """Return the status and the body of the final answer."""
        headers = {"Idempotency-Key": f"{entity_id}-{path}"}
        params = {"userId": OWNER} if path == "start" else {"userId": OWNER, "entityId": entity_id}
        for attempt in itertools.count():
            assert attempt < 200, f"never answered: {path} of {entity_id} by {self.user_id}"
            if self._http is None:
                self._http = http_client(self._serving.url, headers=self._headers, timeout=10)
            try:
                answer = await self._http.post(f"{ROUTE}/{path}", headers=headers, params=params, json=body)
            except httpx.TransportError:
                await self.close()
                self.repeats += 1
                await asyncio.sleep(0.02)
                continue
            if answer.is_success or answer.json()["code"] == "CLAIMED" or not answer.json()["retryable"]:
                return answer.status_code, answer.json()
            self.repeats += 1
            await asyncio.sleep(0.05)
        raise AssertionError

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            with suppress(Exception):
                await http.aclose()


class Killer:
    """Kills a worker in the middle of some of the contests."""

    def __init__(self, serving: Serving, contests: int) -> None:
        self._serving = serving
        self._chance = random.Random(SEED)
        self._chosen = set(self._chance.sample(range(contests), KILLS))
        self._answers = 0
        self._victim: psutil.Process | None = None
        self.kills = 0

    async def prepare(self, number: int) -> None:
        """Choose a worker if this is one of the contests, when another one is there to continue."""
        self._victim = None
        if number not in self._chosen:
            return
        async with asyncio.timeout(30):
            while len(found := await asyncio.to_thread(self._serving.workers)) < 2:
                await asyncio.sleep(0.05)
        self._victim = self._chance.choice(found)
        self._answers = self._chance.randint(0, 2)

    def on_answer(self) -> None:
        """Kill the worker after some answers, while others are still awaited."""
        if self._victim is not None and self._answers == 0:
            self._victim.send_signal(signal.SIGKILL)
            self._victim = None
            self.kills += 1
        self._answers -= 1


class Contests:
    """Contests of people on states of one owner."""

    def __init__(self, serving: Serving, people: list[Contender], contests: int) -> None:
        self._people = people
        self._owner = Contender(serving, OWNER)
        self._killer = Killer(serving, contests)

    async def start(self, entity_id: str) -> None:
        named = [{"role": "approver", "userId": user_id} for user_id in VOTERS]
        body = {"entityId": entity_id, "participants": named}
        status, state = await self._owner.post("start", entity_id, body)
        assert status == 201, state

    async def run(self, number: int, path: str, entity_id: str, body: Json) -> dict[str, tuple[int, Json]]:
        """Return what each of the people is answered to the same request."""
        await self._killer.prepare(number)

        async def post(person: Contender) -> tuple[str, tuple[int, Json]]:
            answer = await person.post(path, entity_id, body)
            self._killer.on_answer()
            return person.user_id, answer

        return dict(await asyncio.gather(*(post(person) for person in self._people)))

    async def close(self) -> None:
        repeats = sum(each.repeats for each in self._people)
        print(f"kills {self._killer.kills}, requests repeated {repeats}")
        assert self._killer.kills == KILLS
        assert repeats > 0, "the kills were felt"
        for each in (self._owner, *self._people):
            await each.close()


@pytest.fixture
async def serving(two_workers: Serving) -> Serving:
    async with two_workers.http("root", "flow:admin") as admin:
        assert (await admin.post("/api/flows", json=petition())).status_code == 201
    return two_workers


async def history(serving: Serving, entity_id: str) -> list[Json]:
    """Return the committed records of a state, once all have their place; its chain is whole."""
    async with serving.http(OWNER) as http:
        params: Json = {"entityId": entity_id}
        revision = (await http.get(f"{ROUTE}/state", params=params)).json()["revision"]
        async with asyncio.timeout(30):  # the sweep of a living worker delivers what dead ones left
            while True:
                page = await http.get(f"{ROUTE}/history", params={**params, "limit": 1000})
                committed = [record for record in page.json()["items"] if record["success"]]
                if len(committed) > revision:
                    break
                await asyncio.sleep(0.1)
        verified = (await http.get(f"{ROUTE}/history/verify", params=params)).json()
    assert verified["whole"], verified
    assert [record["metadata"]["revision"] for record in committed] == list(range(revision + 1))
    return committed


def acts(records: list[Json]) -> list[tuple[str, str]]:
    return [(record["metadata"]["kind"], record["metadata"]["actor"]) for record in records]


@pytest.mark.timeout(600)
async def test_one_of_twenty_people_gets_each_claim(serving: Serving) -> None:
    clerks = [Contender(serving, user_id, ["clerks"]) for user_id in CLAIMANTS]
    contests = Contests(serving, clerks, CLAIMS)
    voters = [Contender(serving, user_id) for user_id in VOTERS[:NEEDED]]
    for number in range(CLAIMS):
        entity_id = f"claim-{number}"
        await contests.start(entity_id)
        for voter in voters:
            assert (await voter.post("transition/approve", entity_id, {}))[0] == 200
        answers = await contests.run(number, "claim", entity_id, {"role": "clerk"})
        (winner,) = [user_id for user_id, (status, _) in answers.items() if status == 200]
        refusals = [state for status, state in answers.values() if status != 200]
        assert {refusal["code"] for refusal in refusals} == {"CLAIMED"}
        assert {refusal["details"]["userId"] for refusal in refusals} == {winner}
        found = acts(await history(serving, entity_id))
        assert [act for act in found if act[0] == "claimed"] == [("claimed", winner)]
        assert len(found) == 1 + NEEDED + 1
    for each in voters:
        await each.close()
    await contests.close()


@pytest.mark.timeout(600)
async def test_a_state_moves_exactly_at_the_third_of_five_votes(serving: Serving) -> None:
    voters = [Contender(serving, user_id) for user_id in VOTERS]
    contests = Contests(serving, voters, DECISIONS)
    for number in range(DECISIONS):
        entity_id = f"vote-{number}"
        await contests.start(entity_id)
        answers = await contests.run(number, "transition/approve", entity_id, {})
        accepted = {user_id: state for user_id, (status, state) in answers.items() if status == 200}
        late = [state for status, state in answers.values() if status != 200]
        assert len(accepted) == NEEDED, answers
        assert {refusal["code"] for refusal in late} == {"INVALID_TRANSITION"}
        by_revision = {state["revision"]: state for state in accepted.values()}
        assert [by_revision[n]["step"] for n in range(1, NEEDED + 1)] == ["a", "a", "b"]
        committed = acts(await history(serving, entity_id))
        assert [kind for kind, _ in committed] == ["started", "voted", "voted", "transitioned"]
        assert {actor for _, actor in committed[1:]} == set(accepted)
    await contests.close()
