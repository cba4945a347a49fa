"""Attempts to get around the policy: by methods, paths, parameters, headers, names and connections."""

import asyncio
from typing import Any

import pytest
from msgspec import structs

from app.auth.policy import Permission
from app.contracts.callers import ADMIN, READ, SERVICE, USE, Caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.errors import InsufficientPermissionsError, InvalidTransitionError
from app.contracts.people import Participant
from app.contracts.state import StateId
from app.flow.people.field_access import SPECIAL_ROLES
from app.http.application import all_endpoints
from tests.support.case_flows import OWNER, case_flow, replace_people
from tests.support.case_world import SECRET, TARGETS, make_world
from tests.support.credentials import key_verifier, signed
from tests.support.doors import Doors
from tests.support.rig import Rig

STATE = "/api/flow/case/state"
ADMINISTRATION = "/api/admin/states"
READS = [
    endpoint.path.format(flow_id="case")
    for endpoint in all_endpoints({})
    if endpoint.access.permission is Permission.READ_STATES
    and endpoint.media_type == "application/json"
    and "token" not in endpoint.query.__struct_fields__
]
"""The reads of a user's states that end."""
STRANGER = signed("mallory")
READER = signed("rita", scope=READ)
TARGET = TARGETS["one"]

pytestmark = pytest.mark.usefixtures("no_other_workers")


@pytest.fixture
def no_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers queries of presence, so none is waited for."""
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.0)


@pytest.fixture
async def doors() -> Doors:
    rig = await make_world(TARGETS.values())
    return Doors(rig, key_verifier(rig.service.integrations.keys))


async def get(doors: Doors, token: str | None, path: str, **more: Any) -> Any:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return await doors.request(
        more.pop("method", "GET"), path, headers={**headers, **more.pop("headers", {})}, **more
    )


# Methods


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PURGE", "get", "PATCH", "CONNECT", "POST"])
@pytest.mark.parametrize(
    "path", [f"{STATE}?userId=olga", ADMINISTRATION, "/api/admin/purge", "/api/admin/audit"]
)
async def test_no_method_gets_around_the_policy(doors: Doors, method: str, path: str) -> None:
    before = await doors.rig.states.load(TARGET)
    for token in (None, STRANGER):
        answer = await get(doors, token, path, method=method)
        assert answer.status_code in (401, 403, 405), answer.text
        assert SECRET not in answer.text
    assert await doors.rig.states.load(TARGET) == before


@pytest.mark.parametrize("header", ["x-http-method-override", "x-http-method", "x-method-override"])
async def test_a_header_does_not_override_the_method(doors: Doors, header: str) -> None:
    before = await doors.rig.states.load(TARGET)
    for token in (READER, signed("olga", scope=READ)):
        answer = await get(doors, token, f"{STATE}?userId=olga", headers={header: "DELETE"})
        assert answer.status_code == 200
        assert (await get(doors, token, f"{STATE}?_method=DELETE")).status_code == 422
    assert await doors.rig.states.load(TARGET) == before


@pytest.mark.parametrize("header", ["x-original-url", "x-rewrite-url", "x-forwarded-uri", "x-original-path"])
async def test_a_header_does_not_name_the_route(doors: Doors, header: str) -> None:
    answer = await get(doors, STRANGER, "/livez", headers={header: ADMINISTRATION})
    assert answer.json() == {"status": "ok", "checks": {}}
    answer = await get(doors, STRANGER, ADMINISTRATION, headers={header: "/livez"})
    assert answer.status_code == 403


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/API/admin/states",
        "/api/Admin/states",
        "/api/admin/states/",
        "//api/admin/states",
        "/api//admin/states",
        "/api/./admin/states",
        "/api/flow/../admin/states",
        "/api/flow/%2e%2e/admin/states",
        "/api%2fadmin%2fstates",
        "/%61pi/admin/states",
        "/api/admin/states%00",
        "/api/admin/states;x=1",
        "/api/admin/states%3Fa",
        "/livez/../api/admin/states",
        "/livez%2f..%2fapi%2fadmin%2fstates",
        "/static/../api/admin/states",
        "/static/%2e%2e/%2e%2e/config/settings.py",
        "/static/..%5c..%5cconfig%5csettings.py",
        "/api/flow/case%2Fstate/state?userId=olga",
        "/api/flow/case/state%20?userId=olga",
        "/api/flow/CASE/state?userId=olga",
        "/api/flow/c%61se/state?userId=olga",
        "/api/flow/case/%73tate?userId=olga",
    ],
)
async def test_no_spelling_of_a_path_gets_around_the_policy(doors: Doors, path: str) -> None:
    for token in (None, STRANGER):
        answer = await get(doors, token, path)
        assert answer.status_code in (401, 403, 404, 503), (answer.status_code, answer.text)
        assert SECRET not in answer.text
        assert "FLOW_" not in answer.text


# Parameters


@pytest.mark.parametrize(
    "query",
    [
        "userId=olga&userId=mallory",
        "userId=mallory&userId=olga",
        "userId=mallory&%75serId=olga",
        "userId=olga&userId=olga",
    ],
)
async def test_a_parameter_that_is_given_twice_is_refused(doors: Doors, query: str) -> None:
    """A proxy in front of the service may have looked at the other one."""
    for token in (STRANGER, signed("olga"), signed("root", scope=ADMIN)):
        answer = await get(doors, token, f"{STATE}?{query}")
        assert answer.status_code == 422
        assert answer.json()["details"]["errors"] == [{"pointer": "/userId", "message": "must be given once"}]


@pytest.mark.parametrize("name", ["userid", "UserId", "user_id", "userId[]", "userId%00", "user", "sub"])
async def test_a_misspelt_parameter_is_not_ignored(doors: Doors, name: str) -> None:
    for token in (STRANGER, signed("root", scope=ADMIN)):
        assert (await get(doors, token, f"{STATE}?{name}=olga")).status_code == 422


@pytest.mark.parametrize(
    "user", ["OLGA", "olga ", " olga", "olga%E2%80%8B", "%6Flga%0A", "olga%00", "", "%ff"]
)
async def test_another_spelling_of_a_user_is_another_user(doors: Doors, user: str) -> None:
    for token in (STRANGER, signed("olga")):
        answer = await get(doors, token, f"{STATE}?userId={user}")
        assert answer.status_code in (403, 422), answer.text
        assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("scope", "own", "others"),
    [
        (None, 200, 403),
        (USE, 200, 403),
        (f"{USE} openid", 200, 403),
        (READ, 200, 200),
        (f"{USE} {READ}", 200, 200),
        (SERVICE, 200, 200),
        (ADMIN, 200, 200),
        ("flow:other", 403, 403),
    ],
)
async def test_whose_states_each_scope_reads(doors: Doors, scope: str | None, own: int, others: int) -> None:
    token = signed("olga", scope=scope)
    for query in ("", "?userId=olga"):
        assert (await get(doors, token, f"{STATE}{query}")).status_code == own
        assert (await get(doors, token, f"/api/states{query}")).status_code == own
    token = signed("mallory", scope=scope)
    for path in (STATE, "/api/states", "/api/flow/desk/states"):
        assert (await get(doors, token, f"{path}?userId=olga")).status_code == others
        assert (await get(doors, token, f"{path}?userId=nobody")).status_code == others


async def test_a_reader_who_may_use_changes_no_state_of_others(doors: Doors) -> None:
    """The right to read all states must not open the changes, which begin with reading one."""
    token, before = (
        signed("ron", scope=f"{USE} {READ}", roles=["reviewer"]),
        await doors.rig.states.load(TARGET),
    )
    for method, path, body in (
        ("POST", "start", {}),
        ("POST", "transition/check", {}),
        ("POST", "transition/edit", {}),
        ("POST", "back", {}),
        ("POST", "reset", {}),
        ("POST", "claim", {"role": "reviewer"}),
        ("POST", "release", {}),
        ("POST", "withdraw", {}),
        ("PUT", "participants", {"participants": [{"role": "reviewer", "userId": "ron"}]}),
        ("DELETE", "state", None),
    ):
        answer = await get(doors, token, f"/api/flow/case/{path}?userId=olga", method=method, json=body)
        other = await get(doors, token, f"/api/flow/case/{path}?userId=nobody", method=method, json=body)
        assert (answer.status_code, other.status_code) == (403, 403), (path, answer.text, other.text)
        assert answer.json()["detail"] == other.json()["detail"], path
    assert await doors.rig.states.load(TARGET) == before
    assert (await get(doors, token, f"{STATE}?userId=olga")).json()["transitions"] == []


async def test_an_explanation_shows_support_staff_no_payload() -> None:
    """A guard is explained with the values that it saw."""
    flow = case_flow("case")
    flow["steps"]["open"]["transitions"]["edit"]["guard"] = "payload.secret == 'apple'"
    rig = Rig()
    await rig.service.create_flow(flow)
    start = StartCommand(payload={"secret": SECRET}, participants=(Participant("reviewer", user_id="pia"),))
    await rig.service.start_flow("olga", "case", start, origin=Origin(OWNER))
    doors = Doors(rig, key_verifier())
    for token, sees in ((signed("olga"), True), (signed("olga", scope=READ), True), (READER, False)):
        answer = await get(doors, token, "/api/flow/case/explain?userId=olga")
        assert answer.status_code == 200, answer.text
        assert "apple" in answer.text
        assert (SECRET in answer.text) is sees, answer.text


async def test_a_participant_who_also_reads_all_has_the_role(doors: Doors) -> None:
    token = signed("pia", scope=f"{USE} {READ}")
    shown = (await get(doors, token, f"{STATE}?userId=olga")).json()
    assert [each["transition"] for each in shown["transitions"]] == ["check"]
    moved = await get(doors, token, "/api/flow/case/transition/check?userId=olga", method="POST", json={})
    assert moved.status_code == 200
    alone = signed("pia", scope=READ)
    assert (await get(doors, alone, f"{STATE}?userId=olga")).json()["transitions"] == []
    again = await get(doors, alone, "/api/flow/case/transition/again?userId=olga", method="POST", json={})
    assert again.status_code == 403


# Headers


async def test_a_second_authorization_is_refused(doors: Doors) -> None:
    """A proxy in front of the service may have looked at the other one."""
    root = signed("root", scope=ADMIN)
    for first, second in ((STRANGER, root), (root, STRANGER), (root, root)):
        both = [("authorization", f"Bearer {first}"), ("authorization", f"Bearer {second}")]
        answer = await doors.request("GET", ADMINISTRATION, headers=both)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    "value", ["{0}, {0}", "{0},{0}", "Bearer {0}, Bearer {0}", "Basic {0}", "{0}", "Bearer", ""]
)
async def test_a_header_with_anything_but_one_token_is_refused(doors: Doors, value: str) -> None:
    given = {"authorization": value.format(signed("root", scope=ADMIN))}
    assert (await doors.request("GET", ADMINISTRATION, headers=given)).status_code == 401


# Names


@pytest.mark.parametrize(
    "more", [{}, {"scope": USE}, {"scope": SERVICE}, {"service": "desk"}, {"scope": ADMIN}]
)
async def test_no_person_has_the_id_of_a_service(doors: Doors, more: dict[str, Any]) -> None:
    """A person of that id would have the roles of the service, and act under its name."""
    await replace_people(doors.rig, "case", Participant("reviewer", user_id="service:desk"))
    answer = await get(doors, signed("service:desk", **more), f"{STATE}?userId=olga")
    assert (answer.status_code, answer.json()["details"]) == (401, {"reason": "claim"})


async def test_a_role_is_no_scope_and_a_scope_no_role() -> None:
    rig = Rig()
    await rig.service.create_flow(case_flow("case", roles=[ADMIN, "clerk"], resettable=[ADMIN]))
    await rig.service.start_flow(
        "olga",
        "case",
        StartCommand(payload={"secret": SECRET}),
        origin=Origin(Caller("olga", frozenset({"clerk"}))),
    )
    doors = Doors(rig, key_verifier())
    for roles in ([READ], [ADMIN], [SERVICE], [*SPECIAL_ROLES], [f"{ADMIN} {SERVICE}"]):
        answer = await get(doors, signed("mallory", roles=roles), f"{STATE}?userId=olga")
        assert answer.status_code == 403, roles
        assert (await get(doors, signed("mallory", roles=roles), ADMINISTRATION)).status_code == 403
    assert (await get(doors, signed("mallory", scope="clerk"), STATE)).status_code == 403


@pytest.mark.parametrize("between", ["\n", "\t", "\u00a0", "\u2003", ",", "+", ";", "\0"])
async def test_a_space_alone_separates_scopes(doors: Doors, between: str) -> None:
    """A provider that grants scopes as they are requested knows no other separator."""
    for scope in (f"{USE}{between}{ADMIN}", [f"{USE}{between}{ADMIN}"], f"openid{between}{ADMIN}"):
        assert (await get(doors, signed("mallory", scope=scope), ADMINISTRATION)).status_code == 403


@pytest.mark.parametrize("user", ["service:desk", "service:shop", "olga", "service:", "desk"])
async def test_a_credential_of_a_service_acts_for_no_user(doors: Doors, user: str) -> None:
    token = signed("someone", scope=f"{SERVICE} {ADMIN}", service="desk")
    for method, path in (("POST", "start"), ("POST", "reset"), ("DELETE", "state"), ("POST", "claim")):
        body: Any = None if method == "DELETE" else {}
        answer = await get(doors, token, f"/api/flow/case/{path}?userId={user}", method=method, json=body)
        assert (answer.status_code, "service" in answer.json()["details"]) == (403, True), path
    assert (await get(doors, token, ADMINISTRATION)).status_code == 403
    listed = await get(doors, token, f"/api/states?userId={user}")
    assert (listed.json()["items"] != []) is (user == "olga"), "states of flows with its steps"


async def test_only_those_who_may_know_learn_that_a_user_was_erased() -> None:
    rig = await make_world(TARGETS.values())
    doors = Doors(rig, key_verifier())
    start = StartCommand(payload={"secret": SECRET}, participants=(Participant("reviewer", user_id="pia"),))
    await rig.service.start_flow("erin", "case", start, origin=Origin(Caller("erin")))
    async with rig.service:
        await rig.service.personal_data.erase("erin", Origin(Caller("root", scopes=frozenset({ADMIN}))))
    for token in (STRANGER, signed("pia"), signed("rex", roles=["reviewer"])):
        for path in READS:
            answers = [await get(doors, token, f"{path}?userId={user}") for user in ("erin", "nobody")]
            assert [answer.status_code for answer in answers] == [403, 403], path
            assert answers[0].json() == answers[1].json(), path
    for token in (READER, signed("root", scope=ADMIN), signed("shop", scope=SERVICE)):
        for path in READS:
            answer = await get(doors, token, f"{path}?userId=erin")
            assert answer.status_code in (200, 404, 409, 410), (path, answer.text)
            assert SECRET not in answer.text


# Below the interfaces


async def test_callers_of_python_programs_are_judged_alike() -> None:
    rig = await make_world(TARGETS.values())
    reader = Origin(Caller("olga", scopes=frozenset({READ})))
    nothing = Origin(Caller("olga", scopes=frozenset()))
    for origin in (reader, nothing):
        for work in (
            rig.service.start_flow("olga", "side", StartCommand(), origin=origin),
            rig.service.execute_transition("olga", "case", "edit", origin=origin),
            rig.service.reset_flow("olga", "case", origin=origin),
            rig.service.clear_flow_state("olga", "case", origin=origin),
            rig.service.undo_transition("olga", "case", origin=origin),
        ):
            with pytest.raises(InsufficientPermissionsError) as refused:
                await work
            assert refused.value.details == {"scope": USE}
    with pytest.raises((InsufficientPermissionsError, InvalidTransitionError)):
        await rig.service.execute_transition("olga", "case", "again", origin=Origin(OWNER))


# Connections


async def test_a_reader_follows_a_state_live_without_being_shown_on_it(doors: Doors) -> None:
    sent: list[bytes] = []
    received = asyncio.Event()

    async def emit(event: str, body: Any, **_: Any) -> None:
        if event == "flow-state-updated":
            sent.append(bytes(body))
            received.set()

    doors.sockets.server.emit = emit
    doors.sockets.start()
    try:
        await doors.sockets._connect("sid", {}, {"token": READER})
        followed = await doors.sockets.server.handlers["/"]["flow-subscribe"](
            "sid", {"flowId": "case", "userId": "olga"}
        )
        assert followed["ok"]
        assert followed["state"].transitions == ()
        assert doors.rig.service.presence.known_on(TARGET) == []
        async with doors.rig.service:
            await doors.rig.flows.execute_transition("olga", "case", "edit")
            async with asyncio.timeout(10):
                await received.wait()
        assert [body for body in sent if SECRET.encode() in body] == []
        assert [body for body in sent if b'"transitions":[]' not in body] == []
    finally:
        await doors.sockets._disconnect("sid")
        await doors.sockets.stop()


async def test_a_session_is_judged_by_the_token_that_it_has_now(doors: Doors) -> None:
    """A renewed key may have lost its rights; each event asks the policy again."""
    await doors.sockets._connect("sid", {}, {"token": signed("root", scope=ADMIN)})
    session = doors.sockets._sessions["sid"]
    watch = doors.sockets.server.handlers["/"]["flow-watch"]
    assert (await watch("sid", {"flowId": "case"}))["ok"]
    session.caller = structs.replace(session.caller, scopes=frozenset({USE}))
    for event in ("flow-watch", "flow-state", "flow-subscribe"):
        refused = await doors.sockets.server.handlers["/"][event]("sid", {"flowId": "case", "userId": "olga"})
        assert refused["error"].code == "INSUFFICIENT_PERMISSIONS", event
    await doors.sockets._disconnect("sid")


async def test_a_participant_who_lost_the_role_while_connected_is_refused(doors: Doors) -> None:
    await doors.sockets._connect("sid", {}, {"token": signed("pia")})
    handlers, state = doors.sockets.server.handlers["/"], {"flowId": "case", "userId": "olga"}
    assert (await handlers["flow-subscribe"]("sid", state))["ok"]
    await replace_people(doors.rig, "case")
    for event, body in {
        "flow-state": state,
        "flow-subscribe": state,
        "flow-presence": state,
        "flow-transition": {**state, "transition": "check"},
        "flow-claim": {**state, "role": "reviewer"},
        "flow-participants": {**state, "participants": [{"role": "reviewer", "userId": "pia"}]},
    }.items():
        answer = await handlers[event]("sid", body)
        assert not answer["ok"], event
        assert SECRET not in repr(answer)
    assert StateId("case", "olga") not in doors.sockets._sessions["sid"].followed
    await doors.sockets._disconnect("sid")
