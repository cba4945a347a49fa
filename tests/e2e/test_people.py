"""Several people on the states of the shipped example, with ordinary tokens, on two workers."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from realtime.client import FlowClient, FlowClientError
from tests.support.following import at_revision, read, revisions
from tests.support.serving import Follower, Serving, close_all

FLOW = "purchase-approval"
ROUTE = f"/api/flow/{FLOW}"
Hosts = tuple[Serving, Serving]
Json = dict[str, Any]


class Person:
    """A person with an ordinary token, and HTTP clients on both workers."""

    def __init__(self, hosts: Hosts, user_id: str, groups: Sequence[str] = ()) -> None:
        self.id = user_id
        self.groups = groups
        self.hosts = hosts
        self.http = tuple(host.http(user_id, groups=groups) for host in hosts)

    def token(self) -> str:
        return self.hosts[0].token(self.id, groups=self.groups)

    def client(self, host: int = 0) -> FlowClient:
        return FlowClient(self.hosts[host].url, self.token())

    async def socket(self, host: int = 0) -> Follower:
        return await Follower().connect(self.hosts[host].url, self.token())

    async def waiting(self, role: str, owner: "Person", host: int = 0) -> list[str]:
        """The entities of the owner's states that wait for this person in a role."""
        found: list[str] = []
        after: Json = {}
        while True:
            answer = await self.http[host].get("/api/states", params={"as": role, **after})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += [each["entityId"] for each in page["items"] if each["userId"] == owner.id]
            if "next" not in page:
                return found
            after = {"after": page["next"]}


class Request:
    """A purchase request, as people name it."""

    def __init__(self, owner: Person, entity_id: str) -> None:
        self.owner = owner
        self.entity_id = entity_id
        self.address = {"userId": owner.id, "entityId": entity_id}
        self.body = {"flowId": FLOW, **self.address}

    async def send(
        self, person: Person, method: str, path: str, body: Json | None = None, host: int = 0
    ) -> httpx.Response:
        """Send a request about this state."""
        return await person.http[host].request(method, f"{ROUTE}/{path}", params=self.address, json=body)

    async def state(self, person: Person, host: int = 0) -> Json:
        return accepted(await self.send(person, "GET", "state", host=host))

    async def change(self, person: Person, path: str, body: Json | None = None, host: int = 0) -> Json:
        """Change the state; it is not refused."""
        return accepted(await self.send(person, "POST", path, body, host))

    async def run(self, person: Person, transition: str, host: int = 0, **payload: Any) -> Json:
        """Run a transition; it is not refused."""
        return await self.change(person, f"transition/{transition}", {"payload": payload}, host)

    async def submit(self, *approvers: Person) -> Json:
        return await self.run(self.owner, "submit", amount=900, approvers=[each.id for each in approvers])

    async def refusal(self, person: Person, path: str, host: int = 0) -> str:
        """Return the code with which a change is refused."""
        answer = await self.send(person, "POST", path, {}, host)
        assert answer.is_client_error, answer.text
        return str(answer.json()["code"])

    async def history(self, person: Person) -> list[Json]:
        """Return the records of changes."""
        answer = await person.http[0].get(f"{ROUTE}/history", params={"limit": 1000, **self.address})
        return [record for record in accepted(answer)["items"] if record["success"]]

    async def broken(self, person: Person) -> Any:
        """Return the first broken link of the history, and None if it is whole."""
        verified = accepted(await self.send(person, "GET", "history/verify"))
        return None if verified["whole"] else verified


class People:
    """The people of one test."""

    def __init__(self, hosts: Hosts, user: str) -> None:
        self.ada = Person(hosts, f"ada-{user}")
        self.bob = Person(hosts, f"bob-{user}")
        self.cid = Person(hosts, f"cid-{user}", ["finance"])
        self.dan = Person(hosts, f"dan-{user}")
        self.fin = Person(hosts, f"fin-{user}", ["finance"])
        self.fin2 = Person(hosts, f"fin2-{user}", ["finance"])
        self.lead = Person(hosts, f"lead-{user}", ["finance", "finance-leads"])
        self.eve = Person(hosts, f"eve-{user}", ["sales"])

    def all(self) -> list[Person]:
        return [self.ada, self.bob, self.cid, self.dan, self.fin, self.fin2, self.lead, self.eve]

    async def request(self, host: int = 0) -> Request:
        """Start a request of ada."""
        return Request(self.ada, accepted(await self.ada.http[host].post(f"{ROUTE}/start"))["entityId"])


@pytest.fixture
async def people(shared_hosts: Hosts, user: str) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        made = People(shared_hosts, user)
        for person in made.all():
            for http in person.http:
                await stack.enter_async_context(http)
        yield made


def accepted(answer: httpx.Response) -> Json:
    assert answer.is_success, answer.text
    found: Json = answer.json()
    return found


def approvers_and_groups(*approvers: Person) -> list[Json]:
    """Return the participants of a request with these approvers."""
    groups = {"finance": "finance", "finance-lead": "finance-leads"}
    users = [{"role": "approver", "userId": each.id} for each in approvers]
    return users + [{"role": role, "group": group} for role, group in groups.items()]


def acts(records: list[Json]) -> list[tuple[str, str]]:
    """Return who did what."""
    return [(record["metadata"]["actor"], record["metadata"]["kind"]) for record in records]


async def test_requests_started_at_once_move_alone(people: People) -> None:
    requests = await asyncio.gather(*(people.request(n % 2) for n in range(3)))
    assert len({request.entity_id for request in requests}) == 3
    ada, (moved, *others) = people.ada, requests
    submitted = await moved.submit(people.bob, people.cid)
    assert (submitted["step"], submitted["revision"], submitted["instances"]) == ("manager-review", 1, "many")
    for request in others:
        state = await request.state(ada, host=1)
        assert (state["step"], state["revision"]) == ("draft", 0)
    listed = accepted(await ada.http[1].get(f"{ROUTE}/states", params={"limit": 2}))
    rest = accepted(await ada.http[0].get(f"{ROUTE}/states", params={"after": listed["next"]}))
    items = listed["items"] + rest["items"]
    assert {state["entityId"] for state in items} == {request.entity_id for request in requests}
    times = [state["createdAt"] for state in items]
    assert times == sorted(times, reverse=True)
    unnamed = await ada.http[0].get(f"{ROUTE}/state")
    assert (unnamed.status_code, unnamed.json()["code"]) == (409, "ENTITY_REQUIRED")
    assert set(unnamed.json()["details"]["entityIds"]) == {request.entity_id for request in requests}


async def test_a_request_is_approved_by_two_and_ordered_by_a_third(people: People) -> None:
    ada, bob, cid, fin, fin2 = people.ada, people.bob, people.cid, people.fin, people.fin2
    request, other = await people.request(), await people.request(1)
    entity = request.entity_id
    await request.submit(bob, cid)
    assert await bob.waiting("approver", ada) == await cid.waiting("approver", ada, host=1) == [entity]
    for person, role in ((ada, "approver"), (fin, "finance"), (people.eve, "approver")):
        assert await person.waiting(role, ada) == []

    voted = await request.run(bob, "approve")
    assert (voted["step"], voted["revision"]) == ("manager-review", 2)
    assert voted["votes"] == [{"transition": "approve", "userId": bob.id}]
    assert (await request.run(bob, "approve", host=1))["revision"] == 2, "one vote for each person"
    assert "votes" not in await request.change(bob, "withdraw", host=1)
    assert (await request.change(bob, "withdraw"))["revision"] == 3, "there is nothing to withdraw"
    assert (await request.run(cid, "approve"))["step"] == "manager-review"
    decided = await request.run(bob, "approve", host=1)
    assert (decided["step"], decided["revision"]) == ("finance-review", 5)
    assert "votes" not in decided

    assert await bob.waiting("approver", ada) == []
    assert await fin.waiting("finance", ada, host=1) == [entity]
    assert await request.refusal(cid, "transition/order") == "SEPARATION_OF_DUTIES"
    claimed = await request.change(fin, "claim", {}, host=0)
    assert [(claim["role"], claim["userId"]) for claim in claimed["claims"]] == [("finance", fin.id)]
    assert await request.refusal(fin2, "claim", host=1) == "CLAIMED"
    assert await request.refusal(fin2, "release", host=1) == "INSUFFICIENT_PERMISSIONS"
    assert await request.refusal(fin2, "transition/order", host=1) == "CLAIMED"
    taken = await request.change(people.lead, "claim", {"role": "finance"}, host=1)
    assert [claim["userId"] for claim in taken["claims"]] == [people.lead.id]
    assert await request.refusal(fin, "transition/order") == "CLAIMED"
    assert "claims" not in await request.change(people.lead, "release", {})
    await request.change(fin2, "claim", {}, host=1)
    ordered = await request.run(fin2, "order")
    assert (ordered["step"], ordered["status"], ordered["revision"]) == ("ordered", "completed", 10)
    assert await fin.waiting("finance", ada) == []

    assert acts(await request.history(ada)) == [
        (ada.id, "started"),
        (ada.id, "transitioned"),
        (bob.id, "voted"),
        (bob.id, "withdrawn"),
        (cid.id, "voted"),
        (bob.id, "transitioned"),
        (fin.id, "claimed"),
        (people.lead.id, "claimed"),
        (people.lead.id, "released"),
        (fin2.id, "claimed"),
        (fin2.id, "transitioned"),
    ]
    assert await request.broken(ada) is None
    assert (await other.state(ada))["revision"] == 0


async def test_an_author_cannot_approve_a_request_of_their_own(people: People) -> None:
    ada, bob = people.ada, people.bob
    request = await people.request()
    await request.submit(ada, bob)
    assert await ada.waiting("approver", ada) == [request.entity_id]
    assert await request.refusal(ada, "transition/approve") == "SEPARATION_OF_DUTIES"
    root = Person(bob.hosts, ada.id)
    async with root.hosts[1].http(ada.id, "flow:admin") as admin:
        answer = await admin.post(f"{ROUTE}/transition/approve", params=request.address)
        assert answer.json()["code"] == "SEPARATION_OF_DUTIES"
    names = [each["transition"] for each in (await request.state(ada))["transitions"]]
    assert names == ["reject", "withdraw"]
    assert [each["transition"] for each in (await request.state(bob))["transitions"]] == ["approve", "reject"]


async def test_one_rejection_is_enough_and_the_author_revises_or_withdraws(people: People) -> None:
    ada, bob, cid = people.ada, people.bob, people.cid
    request = await people.request()
    await request.submit(bob, cid)
    await request.run(bob, "approve")
    rejected = await request.run(cid, "reject", host=1, why="too much")
    assert (rejected["step"], "votes" in rejected) == ("rejected", False)
    for person in (bob, cid):
        assert await request.refusal(person, "transition/revise") == "INSUFFICIENT_PERMISSIONS"
    assert (await request.run(ada, "revise"))["step"] == "draft"
    assert (await request.submit(people.dan, bob))["payload"]["why"] == "too much"
    assert await request.refusal(cid, "transition/approve") == "INSUFFICIENT_PERMISSIONS"
    assert (await request.change(ada, "back"))["step"] == "draft"
    await request.submit(people.dan, bob)
    assert (await request.run(ada, "withdraw"))["status"] == "completed"
    assert await request.broken(ada) is None


async def test_a_stranger_neither_sees_nor_changes_a_request(people: People) -> None:
    eve = people.eve
    request = await people.request()
    await request.submit(people.bob, people.cid)
    missing = Request(people.ada, "nowhere")
    body = {"participants": [{"role": "approver", "userId": eve.id}]}
    for target in (request, missing):
        answers = [await target.send(eve, "GET", path) for path in ("state", "history", "history/verify")]
        answers += [await target.send(eve, "PUT", "participants", body, host=1)]
        for path in ("transition/approve", "transition/withdraw", "claim", "release", "withdraw", "reset"):
            answers.append(await target.send(eve, "POST", path, {}))
        answers.append(await target.send(eve, "DELETE", "state"))
        refused = {(answer.status_code, answer.json()["code"]) for answer in answers}
        assert refused == {(403, "INSUFFICIENT_PERMISSIONS")}, [answer.text for answer in answers]
    listed = await eve.http[0].get(f"{ROUTE}/states", params={"userId": people.ada.id})
    assert listed.status_code == 403
    assert [record["metadata"]["revision"] for record in await request.history(people.ada)] == [0, 1]


async def test_each_person_follows_every_revision_once_and_in_order(people: People) -> None:
    ada, bob, cid, fin = people.ada, people.bob, people.cid, people.fin
    request = await people.request()
    other = await people.request()
    async with AsyncExitStack() as stack:

        async def follow(person: Person, host: int) -> Any:
            client = await stack.enter_async_context(person.client(host))
            states = client.follow(FLOW, user_id=ada.id, entity_id=request.entity_id)
            await states.ready()
            return states

        followed = {ada.id: await follow(ada, 0), fin.id: await follow(fin, 1)}
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await follow(bob, 0)
        await request.submit(bob, cid)
        followed |= {bob.id: await follow(bob, 0), cid.id: await follow(cid, 1)}
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await follow(people.eve, 1)
        await other.submit(bob, cid)
        await request.run(bob, "approve")
        await request.run(cid, "approve", host=1)
        await request.change(fin, "claim", {})
        await request.run(fin, "order", host=1)
        for user_id, states in followed.items():
            shown = await read(states, at_revision(5))
            assert revisions(shown) == list(range(0 if user_id in (ada.id, fin.id) else 1, 6))
            assert {state.entity_id for state in shown} == {request.entity_id}
            assert (states.stats.gaps, states.stats.resets) == (0, 0)


async def test_people_who_lose_their_role_receive_nothing_more(people: People) -> None:
    ada, bob, cid, dan = people.ada, people.bob, people.cid, people.dan
    request = await people.request()
    sockets = [await ada.socket(), await bob.socket(), await dan.socket()]
    of_ada, of_bob, of_dan = sockets
    await request.submit(bob, dan)
    await of_ada.until_revision(1)  # an earlier change, which bob may not see, would end his subscription
    for each in (of_bob, of_dan):
        assert (await each.call("flow-subscribe", request.body))["ok"]
    async with dan.client() as client, cid.client(1) as later:
        removed = client.follow(FLOW, user_id=ada.id, entity_id=request.entity_id)
        await removed.ready()
        named = {"participants": approvers_and_groups(bob, cid)}
        assigned = accepted(await request.send(ada, "PUT", "participants", named, host=1))
        assert assigned["participants"] == named["participants"]
        assert revisions([await anext(removed)]) == [1]
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await asyncio.wait_for(anext(removed), 20)
        states = later.follow(FLOW, user_id=ada.id, entity_id=request.entity_id)
        await states.ready()
        await request.run(cid, "approve")
        assert revisions(await read(states, at_revision(3))) == [2, 3]
    await of_bob.until_revision(3)
    refused = await of_dan.call("flow-subscribe", request.body)  # what was sent to it comes before
    assert refused["error"]["code"] == "INSUFFICIENT_PERMISSIONS"
    assert of_dan.updates() == []
    assert [update["revision"] for update in of_bob.updates()] == [2, 3]
    assert await dan.waiting("approver", ada) == []
    assert await cid.waiting("approver", ada) == [request.entity_id]
    assert await request.refusal(dan, "transition/approve", host=1) == "INSUFFICIENT_PERMISSIONS"
    assert acts(await request.history(ada))[-2:] == [(ada.id, "assigned"), (cid.id, "voted")]
    await close_all(sockets)


async def test_the_erasure_of_a_person_leaves_a_pseudonym_and_a_whole_history(people: People) -> None:
    ada, bob, cid = people.ada, people.bob, people.cid
    running, done = await people.request(), await people.request()
    for request in (running, done):
        await request.submit(bob, cid)
        await request.run(bob, "approve")
    await done.run(cid, "approve")
    await done.run(people.fin, "order")
    async with bob.hosts[1].http("root", "flow:admin") as admin:
        erased = await admin.delete("/api/admin/personal-data", params={"userId": bob.id})
        assert erased.status_code == 200, erased.text
        left = await admin.get("/api/admin/personal-data", params={"userId": ada.id})
    assert '"userId":"' + bob.id not in left.text.replace(" ", "")
    for request in (running, done):
        state, history = await request.state(ada), await request.history(ada)
        assert await request.broken(ada) is None
        (actor,) = [actor for actor, kind in acts(history) if kind == "voted"]
        assert actor.startswith("person:")
        assert bob.id not in {actor for actor, _ in acts(history)}
        named = json.dumps({name: state.get(name) for name in ("participants", "votes", "runs")})
        assert actor in named
        assert bob.id not in named
        assert await request.refusal(bob, "transition/reject") == "INSUFFICIENT_PERMISSIONS"
    assert (await running.run(cid, "approve"))["step"] == "finance-review", "the vote still counts"
    assert await running.broken(ada) is None


async def test_people_act_over_the_socket(people: People) -> None:
    ada, bob, cid, fin, fin2 = people.ada, people.bob, people.cid, people.fin, people.fin2
    request = await people.request()
    sockets = [await person.socket(n % 2) for n, person in enumerate((ada, bob, cid, fin, fin2, people.eve))]
    of_ada, of_bob, of_cid, of_fin, of_fin2, of_eve = sockets

    async def call(socket: Follower, event: str, **members: Any) -> Any:
        answer = await socket.call(event, {**request.body, **members})
        return answer["state"] if answer["ok"] else answer["error"]["code"]

    async def listed(socket: Follower, **body: Any) -> list[str]:
        items = (await socket.call("flow-list", body))["items"]
        return [state["entityId"] for state in items if state["userId"] == ada.id]

    async def run(socket: Follower, transition: str, **payload: Any) -> Any:
        return await call(socket, "flow-transition", transition=transition, payload=payload)

    await run(of_ada, "submit", amount=10, approvers=[bob.id, people.dan.id])
    named = approvers_and_groups(bob, cid)
    assert (await call(of_ada, "flow-participants", participants=named))["participants"] == named
    assert await listed(of_ada, flowId=FLOW) == [request.entity_id]
    assert await listed(of_cid, **{"as": "approver"}) == [request.entity_id]
    assert await listed(of_eve, **{"as": "approver"}) == []
    assert (await run(of_bob, "approve"))["votes"] == [{"transition": "approve", "userId": bob.id}]
    assert "votes" not in await call(of_bob, "flow-withdraw")
    for socket in (of_cid, of_bob):
        state = await run(socket, "approve")
    assert state["step"] == "finance-review"
    assert (await call(of_fin, "flow-claim"))["claims"][0]["userId"] == fin.id
    assert await call(of_fin2, "flow-claim", role="finance") == "CLAIMED"
    assert "claims" not in await call(of_fin, "flow-release")
    assert (await call(of_fin2, "flow-claim"))["claims"][0]["userId"] == fin2.id
    assert await run(of_fin, "order") == "CLAIMED"
    for event in ("flow-state", "flow-subscribe", "flow-claim", "flow-release", "flow-withdraw"):
        assert await call(of_eve, event) == "INSUFFICIENT_PERMISSIONS"
    assert await call(of_eve, "flow-participants", participants=[]) == "INSUFFICIENT_PERMISSIONS"
    assert (await run(of_fin2, "order"))["status"] == "completed"
    kinds = ["started", "transitioned", "assigned", "voted", "withdrawn", "voted", "transitioned"]
    kinds += ["claimed", "released", "claimed", "transitioned"]
    assert [kind for _, kind in acts(await request.history(ada))] == kinds
    await of_ada.until_revision(len(kinds) - 1)
    shown = [update["revision"] for update in of_ada.updates()]
    assert shown[-len(kinds) + 1 :] == list(range(1, len(kinds)))
    assert len(shown) < len(kinds) or shown[0] == 0, "the start may be relayed after the connection"
    assert of_eve.updates() == []
    await close_all(sockets)
