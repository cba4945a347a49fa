"""Two clients on two workers edit one state at once, each on the revision that it has read."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.support.long_form import form
from tests.support.samples import flow_dict
from tests.support.serving import Follower, Serving

ROUNDS = form("conflicts: rounds of two editors", short=20, long=300)
Json = dict[str, Any]


class Editors:
    """Two clients of one user, each on a worker of its own."""

    def __init__(self, flow: str, clients: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
        self.route = f"/api/flow/{flow}"
        self.clients = clients

    async def read(self) -> tuple[Json, str]:
        """Return the state and its tag."""
        answer = await self.clients[0].get(f"{self.route}/state")
        return answer.json(), answer.headers["etag"]

    async def edit(self, number: int, tag: str, payload: Json) -> httpx.Response:
        """Run the transition of one of both on the state that it has read."""
        headers = {"If-Match": tag, "Idempotency-Key": f"{tag.strip(chr(34))}-{number}"}
        body = {"payload": payload}
        return await self.clients[number].post(f"{self.route}/transition/again", json=body, headers=headers)

    async def history(self, revision: int) -> list[Json]:
        """Return the committed records of the state, once all are there; its chain is whole."""
        async with asyncio.timeout(30):
            while True:
                page = await self.clients[0].get(f"{self.route}/history", params={"limit": 1000})
                committed: list[Json] = [record for record in page.json()["items"] if record["success"]]
                if len(committed) > revision:
                    break
        verified = await self.clients[1].get(f"{self.route}/history/verify")
        assert verified.json()["whole"], verified.text
        return committed


@pytest.fixture
async def editors(shared_hosts: tuple[Serving, Serving], user: str) -> AsyncIterator[Editors]:
    flow = f"edit-{uuid.uuid4().hex[:8]}"
    definition = flow_dict(flow)
    definition["steps"]["a"]["transitions"]["again"]["conflict"] = {"merge": ["/amount", "/address/street"]}
    definition["steps"]["a"]["transitions"]["go"]["conflict"] = "reject"
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(shared_hosts[0].http("root", "flow:admin"))
        assert (await admin.post("/api/flows", json=definition)).status_code == 201
        one, two = [await stack.enter_async_context(serving.http(user)) for serving in shared_hosts]
        started = await one.post(f"/api/flow/{flow}/start", json={"payload": {"amount": 0}})
        assert started.status_code == 201
        yield Editors(flow, (one, two))


async def test_no_update_of_an_undeclared_field_is_lost(editors: Editors) -> None:
    """The later amount wins, the earlier one is in the history, and both notes stay."""
    merges: list[Json] = []
    for number in range(ROUNDS):
        before, tag = await editors.read()
        sent = [{"amount": f"{number}-{who}", f"note-{who}": number} for who in range(2)]
        answers = await asyncio.gather(*(editors.edit(who, tag, sent[who]) for who in range(2)))
        assert [answer.status_code for answer in answers] == [200, 200], [a.text for a in answers]
        first, second = sorted(range(2), key=lambda who: answers[who].json()["revision"])
        after, _ = await editors.read()
        assert after["revision"] == before["revision"] + 2
        assert after["payload"] == {
            "amount": sent[second]["amount"], "note-0": number, "note-1": number,
        }  # fmt: skip
        merges.append({"pointer": "/amount", "theirs": sent[first]["amount"], "ours": sent[second]["amount"]})
        again = await editors.edit(second, tag, sent[second])
        assert again.json() == answers[second].json(), "a repeated request has the first answer"
    records = await editors.history(2 * ROUNDS)
    assert len(records) == 1 + 2 * ROUNDS
    assert [record["merged"] for record in records if "merged" in record] == [[one] for one in merges]


async def test_of_two_changes_of_an_undeclared_field_one_is_refused_with_its_pointer(
    editors: Editors,
) -> None:
    for number in range(ROUNDS):
        _, tag = await editors.read()
        sent = [{"amount": number, "address": {"zip": f"{number}-{who}"}} for who in range(2)]
        answers = await asyncio.gather(*(editors.edit(who, tag, sent[who]) for who in range(2)))
        winner, loser = sorted(range(2), key=lambda who: answers[who].status_code)
        assert [answers[who].status_code for who in (winner, loser)] == [200, 412]
        refusal = answers[loser].json()
        assert (refusal["code"], refusal["details"]["fields"]) == ("REVISION_CONFLICT", ["/address/zip"])
        assert refusal["details"]["state"] == (await editors.read())[0]
        assert refusal["details"]["state"]["payload"] == sent[winner]
    assert len(await editors.history(ROUNDS)) == 1 + ROUNDS


async def test_a_transition_that_rejects_runs_once(editors: Editors) -> None:
    """Without any named revision: one runs, the other lost the race, or came after the step was left."""
    url = f"{editors.route}/transition/go"
    answers = await asyncio.gather(*(client.post(url) for client in editors.clients))
    assert sorted(answer.status_code for answer in answers)[0] == 200
    codes = {answer.json()["code"] for answer in answers if answer.status_code != 200}
    assert codes <= {"REVISION_CONFLICT", "INVALID_TRANSITION"}
    assert len(codes) == 1
    assert len(await editors.history(1)) == 2


async def test_socketio_clients_receive_the_pointers_too(
    editors: Editors, shared_hosts: tuple[Serving, Serving], user: str
) -> None:
    _, tag = await editors.read()
    assert (await editors.edit(0, tag, {"note": 1})).status_code == 200
    follower = await Follower().connect(shared_hosts[1].url, shared_hosts[1].token(user))
    body = {"flowId": editors.route.rpartition("/")[2], "transition": "again", "expectedRevision": 0}
    refused = await follower.call("flow-transition", {**body, "payload": {"note": 2}})
    assert refused["error"]["details"]["fields"] == ["/note"]
    accepted = await follower.call("flow-transition", {**body, "payload": {"amount": 2}})
    assert accepted["state"]["payload"] == {"amount": 2, "note": 1}
    await follower.close()
