"""Many users walk the onboarding flow on two workers; every client sees every change in order."""

import asyncio
import itertools

import httpx
import psutil

from tests.support.serving import Follower, Serving, close_all

USERS = 20
WAYS = itertools.cycle([["start", "continue", "save", "complete"], ["start", "skip", "complete"]])
FLOW = "user-onboarding"


async def _join(serving: Serving, user: str, followers: list[Follower]) -> None:
    followers.append(await Follower().connect(serving.url, serving.token(user)))


def _all_workers_have_clients(serving: Serving) -> bool:
    port = int(serving.url.rsplit(":", 1)[1])
    workers = serving.workers()
    held = [
        sum(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in w.net_connections("tcp"))
        for w in workers
    ]
    return len(held) == 2 and min(held) > 0


async def _walk_by_http(serving: Serving, user: str, way: list[str]) -> None:
    async with serving.http(user) as http:
        answers = [await http.post(f"/api/flow/{FLOW}/start")]
        for transition in way:
            body = {"payload": {transition: True}}
            answers.append(await http.post(f"/api/flow/{FLOW}/transition/{transition}", json=body))
    assert [a.status_code for a in answers] == [201] + [200] * len(way)
    assert [a.json()["revision"] for a in answers] == list(range(len(way) + 1))


async def _walk_by_socket(follower: Follower, way: list[str]) -> None:
    answers = [await follower.call("flow-start", {"flowId": FLOW})]
    for transition in way:
        body = {"flowId": FLOW, "transition": transition, "payload": {transition: True}}
        answers.append(await follower.call("flow-transition", body))
    assert all(a["ok"] for a in answers)
    assert [a["state"]["revision"] for a in answers] == list(range(len(way) + 1))


async def test_twenty_users_on_two_workers(two_workers: Serving) -> None:
    users = [f"user-{n}" for n in range(USERS)]
    ways = dict(zip(users, WAYS, strict=False))
    followers: dict[str, list[Follower]] = {user: [] for user in users}
    while not _all_workers_have_clients(two_workers):
        # Which worker takes a connection is the kernel's choice.
        assert len(followers[users[0]]) < 12, "one worker takes all"
        await asyncio.gather(*(_join(two_workers, user, followers[user]) for user in users for _ in "ab"))

    await asyncio.gather(
        *(
            _walk_by_http(two_workers, user, ways[user])
            if n % 2
            else _walk_by_socket(followers[user][0], ways[user])
            for n, user in enumerate(users)
        )
    )

    for user in users:
        last = len(ways[user])
        for follower in followers[user]:
            await follower.until_updates(last + 1)
            seen = follower.updates()
            assert [e["revision"] for e in seen] == list(range(last + 1))
            assert len({e["epoch"] for e in seen}) == 1
            assert [e["transition"] for e in seen] == ["started", *ways[user]]
            assert seen[-1]["status"] == "completed"
            assert seen[-1]["payload"] == dict.fromkeys(ways[user], True)
            assert {e["userId"] for e in seen} == {user}

    for user in users:
        async with two_workers.http(user) as http:
            history = (await http.get(f"/api/flow/{FLOW}/history")).json()["items"]
        assert [r["metadata"]["revision"] for r in history] == list(range(len(ways[user]) + 1))
        assert [r["transition"] for r in history] == ["started", *ways[user]]
        assert all(r["success"] for r in history)
    await close_all([f for each in followers.values() for f in each])


async def test_each_worker_reports_the_clients_of_the_other(
    shared_hosts: tuple[Serving, Serving], user: str
) -> None:
    first, second = shared_hosts
    on_first = await Follower().connect(first.url, first.token(user))
    on_second = await Follower().connect(second.url, second.token(user))
    stranger = await Follower().connect(second.url, second.token(f"{user}-2"))
    # Alternate between the workers: what one commits on top of the other's comes after it.
    async with first.http(user) as a, second.http(user) as b:
        doors = itertools.cycle([a, b])
        await next(doors).post(f"/api/flow/{FLOW}/start")
        for transition in ("start", "continue", "save", "complete"):
            answer = await next(doors).post(f"/api/flow/{FLOW}/transition/{transition}")
            assert answer.status_code == 200
    for follower in (on_first, on_second):
        await follower.until(lambda f: len(f.updates()) >= 5)
        assert [e["revision"] for e in follower.updates()] == [0, 1, 2, 3, 4]
    assert stranger.events == []
    await close_all([on_first, on_second, stranger])


async def test_fifty_transitions_race_on_one_state(shared_hosts: tuple[Serving, Serving], user: str) -> None:
    """Every revision is committed once; losers hear why; nothing is a 500."""
    first, second = shared_hosts
    follower = await Follower().connect(first.url, first.token(user))
    async with first.http(user) as a, second.http(user) as b:
        started = await a.post("/api/flow/purchase-approval/start")
        tag = started.headers["etag"]

        def attempt(n: int) -> "asyncio.Future[httpx.Response]":
            door = (a, b)[n % 2]
            headers = {"If-Match": tag} if n % 4 < 2 else {}
            route = "/api/flow/purchase-approval/transition/submit"
            payload = {"amount": n + 1, "approvers": ["bob", "cid"]}
            return asyncio.ensure_future(door.post(route, json={"payload": payload}, headers=headers))

        answers = await asyncio.gather(*(attempt(n) for n in range(50)))
        won = [n for n, answer in enumerate(answers) if answer.status_code == 200]
        assert len(won) == 1
        codes = {answer.json()["code"] for answer in answers if answer.status_code != 200}
        assert codes <= {"INVALID_TRANSITION", "REVISION_CONFLICT"}
        state = (await b.get("/api/flow/purchase-approval/state")).json()
        assert (state["revision"], state["payload"]["amount"]) == (1, won[0] + 1)
        history = (await b.get("/api/flow/purchase-approval/history?limit=1000")).json()["items"]
    commits = [r for r in history if r["success"]]
    assert [r["metadata"]["revision"] for r in commits] == [0, 1]
    await follower.until(lambda f: len(f.updates()) >= 2)
    await follower.close()


async def test_two_hundred_possible_transitions_race_and_all_are_made(
    shared_hosts: tuple[Serving, Serving], user: str
) -> None:
    """A lost race is decided again: where a transition stays possible, none is refused."""
    first, second = shared_hosts
    loop = {
        "flow": "counter",
        "initialStep": "a",
        "steps": {
            "a": {
                "index": 0,
                "step": "a",
                "service": "s",
                "transitions": {"again": {"transition": "again", "step": "a"}},
            }
        },
    }
    follower = await Follower().connect(second.url, second.token(user))
    async with first.http(user, "flow:admin") as a, second.http(user) as b:
        assert (await a.post("/api/flows", json=loop)).status_code == 201
        await a.post("/api/flow/counter/start")
        route = "/api/flow/counter/transition/again"
        bodies = [{"payload": {f"k{n}": n}} for n in range(200)]
        answers = await asyncio.gather(
            *((a, b)[n % 2].post(route, json=body) for n, body in enumerate(bodies))
        )
        assert {answer.status_code for answer in answers} == {200}
        assert sorted(answer.json()["revision"] for answer in answers) == list(range(1, 201))
        state = (await a.get("/api/flow/counter/state")).json()
        assert state["payload"] == {f"k{n}": n for n in range(200)}
    await follower.until(lambda f: len(f.updates()) >= 201)
    assert [e["revision"] for e in follower.updates()] == list(range(201))
    await follower.close()


async def test_a_request_repeated_on_both_workers_is_made_once(
    shared_hosts: tuple[Serving, Serving], user: str
) -> None:
    first, second = shared_hosts
    follower = await Follower().connect(second.url, second.token(user))
    async with first.http(user) as a, second.http(user) as b:
        key = {"Idempotency-Key": "start-1"}
        started = [await door.post(f"/api/flow/{FLOW}/start", headers=key) for door in (a, b, a)]
        assert [s.status_code for s in started] == [201, 201, 201]
        assert len({s.text for s in started}) == 1
        key = {"Idempotency-Key": "move-1"}
        route, body = f"/api/flow/{FLOW}/transition/start", {"payload": {"n": 1}}
        at_once = [(a, b)[n % 2].post(route, json=body, headers=key) for n in range(20)]
        moved = await asyncio.gather(*at_once)
        assert {m.status_code for m in moved} == {200}
        assert len({m.text for m in moved}) == 1
        other = await b.post(route, json={"payload": {"n": 2}}, headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "INVALID_REQUEST")
        by_socket = await follower.call(
            "flow-transition",
            {"flowId": FLOW, "transition": "start", "payload": {"n": 1}, "requestId": "move-1"},
        )
        assert by_socket["state"] == moved[0].json(), "the doors share the ids"
        history = (await a.get(f"/api/flow/{FLOW}/history")).json()["items"]
    assert [r["metadata"]["revision"] for r in history if r["success"]] == [0, 1]
    await follower.until(lambda f: len(f.updates()) >= 2)
    assert [e["revision"] for e in follower.updates()] == [0, 1]
    await follower.close()
