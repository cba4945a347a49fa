"""The routes of state tokens, and the tokens in definitions."""

from typing import Any

import httpx
import pytest

from app.flow.tokens.state_token import MAX_TOKEN
from tests.support.serving import Serving
from tests.support.tokens import content_of, flow_json, flow_of, token_of

Json = dict[str, Any]

FLOW = "token-walk"


def definition(slug: str = FLOW, moved: int = 0) -> Json:
    """Steps a (initial, x and y in tokens) and b (x in tokens); ``moved`` is added to their indexes."""
    found = flow_json(flow_of(slug, (moved, "a", True, {"x": 0, "y": 1}), (moved + 1, "b", False, {"x": 0})))
    go = {"transition": "go", "step": "b", "reversible": True}
    found["steps"]["a"]["transitions"] = {"go": go}
    return {**found, "prefabs": {"a": "an author's", "b": "own"}}


@pytest.fixture(scope="session")
async def flow(serving: Serving) -> str:
    """A flow that is made once in a process, as its service is: xdist comes back to a module after others."""
    async with serving.http("root", "flow:admin") as http:
        created = await http.post("/api/flows", json=definition())
        assert created.status_code == 201, created.text
    return FLOW


async def token(http: httpx.AsyncClient, flow: str = FLOW, **params: str) -> Json:
    answer = await http.get(f"/api/flow/{flow}/token", params=params)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    assert answer.headers["etag"] == f'"{found["epoch"]}.{found["revision"]}"'
    return found


async def compare(http: httpx.AsyncClient, text: str, **params: str) -> Json:
    answer = await http.get("/api/flow/state", params={"token": text, **params})
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    assert set(found) == {"hint", "state", "version", "matches", "differences"}
    return found


def fault(answer: httpx.Response) -> str:
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST"), answer.text
    (found,) = answer.json()["details"]["errors"]
    assert found["pointer"] == "/token"
    message: str = found["message"]
    return message


async def test_the_token_of_a_state_at_each_of_its_steps(serving: Serving, flow: str, user: str) -> None:
    async with serving.http(user) as http:
        route = f"/api/flow/{flow}"
        began = {"service": "web", "entityId": None, "payload": {"x": [1, True], "y": 2.0, "z": "no"}}
        state = (await http.post(f"{route}/start", json=began)).json()
        first = await token(http)
        assert set(first) == {"token", "flow", "step", "version", "epoch", "revision"}
        assert {name: first[name] for name in set(first) - {"token"}} == {
            name: state[name] for name in ("flow", "step", "version", "epoch", "revision")
        }
        assert content_of(first["token"]) == f'{{"f":"{flow}:0","s":"web","o":1,"e":"","p":"1,true,2"}}'
        await http.post(f"{route}/transition/go", json={"ok": False, "message": "żółć"})
        second = await token(http)
        assert (second["step"], second["revision"]) == ("b", 1)
        assert (
            content_of(second["token"])
            == f'{{"f":"{flow}:1:0","s":"web","o":0,"e":"","m":"żółć","p":"1,true"}}'
        )


async def test_without_a_state_there_is_no_token(serving: Serving, flow: str, user: str) -> None:
    async with serving.http(user) as http:
        route = f"/api/flow/{flow}"
        answer = await http.get(f"{route}/token")
        assert (answer.status_code, answer.json()["code"]) == (409, "FLOW_NOT_STARTED")
        await http.post(f"{route}/start")
        await token(http)
        await http.delete(f"{route}/state")
        answer = await http.get(f"{route}/token")
        assert (answer.status_code, answer.json()["code"]) == (409, "FLOW_NOT_STARTED")


async def test_a_token_beside_the_state_that_it_was_made_of(serving: Serving, flow: str, user: str) -> None:
    async with serving.http(user) as http:
        route = f"/api/flow/{flow}"
        await http.post(f"{route}/start", json={"service": "web", "payload": {"x": "a,b", "y": 5, "z": 1}})
        old = (await token(http))["token"]
        state = (await http.get(f"{route}/state")).json()
        assert await compare(http, old) == {
            "hint": {
                "flow": flow,
                "step": "a",
                "service": "web",
                "ok": True,
                "payload": {"x": "a", "y": "b"},
            },
            "state": state,
            "version": 1,
            "matches": True,
            "differences": [],
        }

        await http.post(f"{route}/transition/go", json={"message": "m"})
        later = await compare(http, old)
        assert later["hint"]["step"] == "a"
        assert later["state"]["step"] == "b"
        assert (later["matches"], later["differences"]) == (False, ["step", "previous", "message"])
        new = await compare(http, (await token(http))["token"])
        assert (new["matches"], new["hint"]["previous"]) == (True, "a")


async def test_a_forged_token_changes_nothing(serving: Serving, flow: str, user: str) -> None:
    async with serving.http(user) as http:
        route = f"/api/flow/{flow}"
        await http.post(f"{route}/start", json={"entityId": "org", "payload": {"x": 1}})
        before = await http.get(f"{route}/state")
        forged = token_of({"f": f"{flow}:1:0", "s": "evil", "o": 0, "e": "other", "m": "m", "p": "\ud800"})
        answer = await http.get("/api/flow/state", params={"token": forged})
        assert answer.headers["etag"] == before.headers["etag"]
        found = answer.json()
        assert found["hint"] == {
            "flow": flow,
            "step": "b",
            "previous": "a",
            "service": "evil",
            "ok": False,
            "entityId": "other",
            "message": "m",
            "payload": {"x": "\ufffd"},
        }
        assert found["matches"] is False
        assert sorted(found["differences"]) == sorted(set(found["hint"]) - {"flow"})
        assert found["state"] == before.json()
        assert (await http.get(f"{route}/state")).json() == before.json()
        assert len((await http.get(f"{route}/history")).json()["items"]) == 1


async def test_without_a_state_a_token_is_only_a_hint(serving: Serving, flow: str, user: str) -> None:
    async with serving.http(user) as http:
        found = await compare(http, token_of({"f": f"{flow}:1x", "s": "", "o": 1, "e": ""}))
        assert found["hint"] == {"flow": flow, "step": "b", "service": "", "ok": True, "entityId": None}
        assert (found["state"], found["matches"], found["differences"]) == (None, False, [])
        assert (await http.get(f"/api/flow/{flow}/state")).json() is None


async def test_whose_state_it_is(serving: Serving, flow: str, user: str) -> None:
    async with serving.http(user) as http, serving.http(f"{user}-2") as other:
        await http.post(f"/api/flow/{flow}/start", json={"payload": {"x": "secret"}})
        made = (await token(http))["token"]
        found = await compare(other, made)
        assert (found["state"], found["matches"]) == (None, False)
        for path, params in ((f"/api/flow/{flow}/token", {}), ("/api/flow/state", {"token": made})):
            answer = await other.get(path, params={**params, "userId": user})
            assert (answer.status_code, answer.json()["code"]) == (403, "INSUFFICIENT_PERMISSIONS")
    for scope in ("flow:service", "flow:admin"):
        async with serving.http("back-end", scope) as service:
            assert (await token(service, userId=user))["token"] == made
            found = await compare(service, made, userId=user)
            assert (found["matches"], found["state"]["userId"]) == (True, user)


async def test_a_flow_is_hidden_here_as_it_is_elsewhere(serving: Serving, user: str) -> None:
    slug = f"hidden-{user}"
    async with serving.http("root", "flow:admin") as admin, serving.http(user) as http:
        answer = await admin.post("/api/flows", json={**definition(slug), "roles": ["staff"]})
        assert answer.status_code == 201, answer.text
        expected = await http.get(f"/api/flow/{slug}/state")
        assert expected.is_client_error
        for target in (f"/api/flow/{slug}/token", f"/api/flow/state?token={token_of({'f': f'{slug}:0'})}"):
            answer = await http.get(target)
            assert (answer.status_code, answer.json()["code"]) == (
                expected.status_code,
                expected.json()["code"],
            )


async def test_a_token_is_read_by_the_version_of_the_state(serving: Serving, user: str) -> None:
    slug = f"versions-{user}"
    async with serving.http("root", "flow:admin") as admin, serving.http(user) as http:
        await admin.post("/api/flows", json=definition(slug))
        await http.post(f"/api/flow/{slug}/start")
        made = (await token(http, slug))["token"]
        steps = definition(slug, moved=1)["steps"]
        changed = await admin.patch(f"/api/flows/{slug}", json={"steps": steps})
        assert changed.headers["flow-version"] == "2", changed.text

        assert (await token(http, slug))["token"] == made
        here = await compare(http, made)
        assert (here["hint"]["step"], here["version"], here["matches"]) == ("a", 1, True)
        moved = token_of({"f": f"{slug}:1", "s": "", "o": 1})
        assert (await compare(http, moved))["hint"]["step"] == "b"
        elsewhere = await compare(admin, moved)
        assert (elsewhere["hint"]["step"], elsewhere["version"]) == ("a", 2)
        gone = await admin.get("/api/flow/state", params={"token": made})
        assert "index '0'" in fault(gone)
        assert (await http.get("/api/flow/state", params={"token": made})).status_code == 200


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a state token"),
        (FLOW, "/api/flow/{flowId}/state"),
        ("user-onboarding", "/api/flow/{flowId}/state"),
        (token_of({"f": f"{FLOW}:0"}) + "=", "without padding"),
        (token_of({"s": "", "o": 1}), "no text f"),
        (token_of({"f": FLOW}), "no step"),
        (token_of({"f": f"{FLOW}:7"}), "index '7'"),
        (token_of({"f": f"{FLOW}:\ud800"}), "index '\ufffd'"),
        (token_of({"f": f"{FLOW}:0", "m": {"deep": 1}}), "member m that is not a text"),
        ("A" * (MAX_TOKEN + 1), "length <= 60000"),
    ],
)
async def test_what_is_no_token(serving: Serving, flow: str, user: str, text: str, complaint: str) -> None:
    async with serving.http(user) as http:
        assert complaint in fault(await http.get("/api/flow/state", params={"token": text}))


async def test_a_token_is_required(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        assert fault(await http.get("/api/flow/state")) == "is required"


@pytest.mark.parametrize("slug", ["nowhere", "", "x" * 900, "\0", "\ud800", "a/b"])
async def test_a_token_of_an_unknown_flow(serving: Serving, user: str, slug: str) -> None:
    async with serving.http(user) as http:
        answer = await http.get("/api/flow/state", params={"token": token_of({"f": f"{slug}:0"})})
    assert (answer.status_code, answer.json()["code"]) == (404, "FLOW_NOT_FOUND"), answer.text
    assert len(answer.json()["details"]["flowId"]) <= 65


async def test_the_longest_token_comes_through_and_a_longer_one_is_refused(
    serving: Serving, flow: str, user: str
) -> None:
    async with serving.http(user) as http:
        await http.post(f"/api/flow/{flow}/start", json={"payload": {"x": "x" * 44_900}})
        long = (await token(http))["token"]
        assert MAX_TOKEN - 300 < len(long) <= MAX_TOKEN
        assert (await compare(http, long))["matches"]
        await http.post(f"/api/flow/{flow}/transition/go", json={"payload": {"x": "x" * 46_000}})
        answer = await http.get(f"/api/flow/{flow}/token")
        assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
        found = await compare(http, token_of({"f": f"{flow}:1:0", "s": "", "o": 1, "p": "x"}))
        assert found["differences"] == ["payload"]


async def test_definitions_are_answered_with_prefabs(serving: Serving, flow: str, user: str) -> None:
    prefabs = {"a": token_of(f'{{"f":"{flow}:0","s":"","o":1}}'.encode())}
    async with serving.http(user) as http:
        one = (await http.get(f"/api/flows/{flow}")).json()
        assert one["prefabs"] == prefabs
        assert (await http.get(f"/api/flows/{flow}/versions/1", params={"resolve": True})).json() == one
        pages = (await http.get("/api/flows", params={"limit": 1000})).json()["items"]
        assert next(found for found in pages if found["flow"] == flow) == one
        shipped = (await http.get("/api/flows/sign-in")).json()
        initial = [name for name, step in shipped["steps"].items() if step.get("initial")]
        assert list(shipped["prefabs"]) == initial
        assert len(initial) == 3
        hint = (await compare(http, shipped["prefabs"][initial[1]]))["hint"]
        assert hint == {"flow": "sign-in", "step": initial[1], "service": "", "ok": True}
        assert "prefabs" not in (await http.get("/api/flows/user-onboarding")).json()


async def test_a_created_definition_is_answered_with_prefabs(serving: Serving, user: str) -> None:
    slug = f"made-{user}"
    async with serving.http("root", "flow:admin") as admin:
        made = await admin.post("/api/flows", json=definition(slug))
        assert list(made.json()["prefabs"]) == ["a"]
        steps = definition(slug, moved=5)["steps"]
        changed = (await admin.patch(f"/api/flows/{slug}", json={"steps": steps})).json()
        assert content_of(changed["prefabs"]["a"]) == f'{{"f":"{slug}:5","s":"","o":1}}'


async def test_the_token_is_described(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        document = (await http.get("/openapi.json")).json()
    operation = document["paths"]["/api/flow/state"]["get"]
    (parameter,) = [p for p in operation["parameters"] if p["name"] == "token"]
    assert parameter["required"] is True
    assert parameter["schema"]["maxLength"] == MAX_TOKEN
    hint = document["components"]["schemas"]["StateHint"]
    assert hint["required"] == ["flow", "step", "ok"]
    assert "entityId" in hint["properties"]
