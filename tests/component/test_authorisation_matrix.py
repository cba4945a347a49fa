"""The authorisation matrix: every route and every socket event, with credentials of every kind.

It is generated from the routes and the event table. What a credential may do follows from the declared access
and the table ``ADMITTED`` here; what a declaration must not admit follows from what the request does:

* whatever is declared as reading changes nothing;
* a stranger changes nothing of others, and reads nothing of theirs, at any route.

``test_access_matrix.py`` compares the refusals with those of a world without the state, and
``test_service_key_matrix.py`` has the limits of a service's credentials.
"""

import asyncio
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx
import pytest
from msgspec import structs
from socketio import exceptions

from app.auth.policy import Access, Permission
from app.contracts.callers import ADMIN, READ, SERVICE, USE, Caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.integration import Integration
from app.contracts.integration_commands import ApiKeyCommand
from app.contracts.state import StateId
from app.http.application import all_endpoints
from app.http.endpoint import Endpoint, UserQuery
from realtime.gateway.access import EVENT_ACCESS
from tests.support.case_world import SECRET, TARGETS, make_world
from tests.support.credentials import key_verifier, signed, unsound_tokens
from tests.support.doors import Doors, Request
from tests.support.rig import Rig
from tests.support.route_samples import sample_event, sample_request

ENDPOINTS = {endpoint.name: endpoint for endpoint in all_endpoints({})}
GUARDED = [name for name, each in ENDPOINTS.items() if each.access.permission is not Permission.PUBLIC]
REQUESTS = [event for event in EVENT_ACCESS if event != "connect"]
"""The events of clients that are connected, as each test of them is."""
ROOT = Caller("root", scopes=frozenset({ADMIN}))
TARGET = TARGETS["one"]

P = Permission
PEOPLE = {"user", "use only", "stranger", "stranger with roles", "erased user"}
READERS = {"reader", "reader and user", "owner who may read alone"}
ACTING = {"service", "administrator"}
OWNER = {"user", "use only"}
ADMITTED: dict[Permission, set[str]] = {
    P.CONNECT: PEOPLE | READERS | ACTING,
    P.READ_FLOWS: PEOPLE | READERS | ACTING,
    P.READ_STATES: OWNER | READERS | ACTING,
    P.USE: OWNER | ACTING,
    P.SUPPORT: READERS | {"administrator"},
    P.SEARCH: READERS | ACTING,
    P.SERVICE: {"administrator"},
    P.SERVICE_SUPPORT: READERS | {"administrator"},
    P.ADMIN: {"administrator"},
}
"""The credentials with which a request is admitted, about a state of olga or the service desk."""
PAGES = {"/", "/demo", "/docs", "/openapi.json", "/static/{name:path}"}
READING = {P.PUBLIC, P.READ_FLOWS, P.READ_STATES, P.SUPPORT, P.SEARCH, P.SERVICE_SUPPORT}
"""The permissions of requests that change nothing."""
SCOPELESS = {"no scope that counts", "unknown scope of this service"}
SERVICE_KEYS = {"key of the service", "token of the service"}
OTHER_KEYS = {"key of another service", "token of another service"}

pytestmark = pytest.mark.usefixtures("no_other_workers")


@pytest.fixture
def no_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers queries of presence, so none is waited for."""
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.0)


class World(Doors):
    """A service with states of olga, and of a user who was erased; and credentials of every kind."""

    sound: dict[str, str]
    unsound: dict[str, str | None]
    token: str

    @classmethod
    async def build(cls, *, targets: bool = True, erased: bool = False) -> "World":
        rig = await make_world(TARGETS.values() if targets else ())
        rig.clock.time = datetime.now(UTC)
        keys = rig.service.integrations.keys
        there = cls(rig, key_verifier(keys))
        now = rig.clock.now()
        for alias in ("desk", "shop") if targets else ("shop",):
            rig.registrations.integrations[alias] = Integration(
                alias=alias, registered_at=now, updated_at=now
            )
        if erased:
            await _start_and_erase(rig, "erin")
        there.token = ""
        if targets:
            there.token = (
                await rig.service.tokens.encode("olga", TARGET.flow_id, caller=Caller("olga"))
            ).token
        there.sound = dict(_sound_tokens())
        there.unsound = unsound_tokens()
        for alias in ("desk", "shop") if targets else ("shop",):
            made = await keys.create(alias, ApiKeyCommand(), ROOT)
            there.sound["key of the service" if alias == "desk" else "key of another service"] = made.text
            revoked = await keys.create(alias, ApiKeyCommand(), ROOT)
            await keys.revoke(alias, revoked.key.id, ROOT)
            there.unsound[f"revoked key of {alias}"] = revoked.text
        return there

    def set_clock(self) -> None:
        """Let the clock go on: keys are verified by it, and connections end by the real one."""
        self.rig.clock.time = datetime.now(UTC)

    def snapshot(self, *, without: str = "") -> str:
        """Everything that is stored; apart from the states of a user."""
        rig = self.rig
        keys = {key.id: (key.hashed, key.revoked_at, key.alias) for key in rig.api_keys.keys.values()}
        stored: list[Any] = [keys, rig.registrations.integrations]
        for store in (rig.states, rig.history, rig.definitions, rig.entities, rig.lanes, rig.letters):
            for name, value in sorted(vars(store).items()):
                if isinstance(value, dict):
                    retained = {
                        key: each for key, each in value.items() if not without or without not in str(key)
                    }
                    stored.append((name, retained))
                elif isinstance(value, list | set):
                    stored.append((name, value))
        return repr(stored)

    async def ask(self, token: str | None, request: Request, *, endless: bool = False) -> httpx.Response:
        """Send a request; for an answer without an end ask for its head."""
        self.set_clock()
        if endless:
            request = request._replace(method="HEAD")
        if request.method == "DELETE" and request.path == "/api/admin/personal-data":
            async with self.rig.service:  # whose relay delivers the records
                return await self.send(token, request)
        async with asyncio.timeout(20):
            return await self.send(token, request)

    async def emit(self, token: str, event: str, body: dict[str, Any]) -> Any:
        """Send an event as a new client; a refused connection is its answer."""
        self.set_clock()
        calls = [(event, body)]
        if event == "flow-presence":
            calls.insert(0, ("flow-subscribe", sample_event("flow-subscribe", user_id=body.get("userId"))))
        return await self.call(token, *calls)


async def _start_and_erase(rig: Rig, user: str) -> None:
    command = StartCommand(payload={"secret": SECRET})
    await rig.service.start_flow(user, "case", command, origin=Origin(Caller(user)))
    async with rig.service:  # whose relay delivers the records
        await rig.service.personal_data.erase(user, Origin(ROOT))


@cache
def _sound_tokens() -> dict[str, str]:
    return {
        "user": signed("olga"),
        "use only": signed("olga", scope=f"openid {USE}"),
        "stranger": signed("mallory"),
        "stranger with roles": signed("mo", roles=["reviewer", "auditor"], groups=["legal"], scope=[USE]),
        "erased user": signed("erin"),
        "reader": signed("rita", scope=READ),
        "reader and user": signed("ron", scope=f"{USE} {READ}", roles=["reviewer"]),
        "owner who may read alone": signed("olga", scope=READ),
        "service": signed("shop", scope=SERVICE),
        "administrator": signed("root", scope=ADMIN),
        "unknown scope of this service": signed("olga", scope="flow:raed", roles=["reviewer"]),
        "no scope that counts": signed("olga", scope="flow: flow:ADMIN FLOW:admin flow:admin*"),
        "token of the service": signed("someone", scope=f"{SERVICE} {ADMIN}", service="desk"),
        "token of another service": signed("someone", scope=f"{SERVICE} {ADMIN} {READ}", service="shop"),
    }


@pytest.fixture(scope="module")
async def shared() -> World:
    """A world that no test may change."""
    return await World.build(erased=True)


@pytest.fixture(scope="module")
async def empty() -> World:
    """A world without the states and the service that the requests name."""
    return await World.build(targets=False)


def is_refused(details: Any) -> bool:
    """True if a refusal is one of the policy: it names a scope or the limits of a service, and no role."""
    return bool(details) and ("scope" in details or "service" in details)


def is_admitted(access: Access, credential: str) -> bool | None:
    """Return whether a credential is admitted, as the declaration says; None: its answer depends on more."""
    if credential in SCOPELESS:
        return False
    if credential in SERVICE_KEYS | OTHER_KEYS:
        if not access.for_services:
            return False
        return True if credential in SERVICE_KEYS or access.permission is P.CONNECT else None
    return credential in ADMITTED[access.permission]


def same(answer: httpx.Response) -> Any:
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, answer.content, headers


def sample(world: World, endpoint: Endpoint, user_id: str | None = "olga", **names: str) -> Request:
    return sample_request(endpoint, user_id=user_id, token=world.token, **names)


def is_endless(endpoint: Endpoint) -> bool:
    return endpoint.media_type == "text/event-stream"


# Routes


def test_a_route_or_an_event_cannot_be_declared_without_its_access() -> None:
    declare: Any = Endpoint
    with pytest.raises(TypeError, match="access"):
        declare(method="GET", path="/", name="x", summary="", handle=ENDPOINTS["livez"].handle, answers={})
    handled = set(Doors(Rig(), key_verifier()).sockets.server.handlers["/"])
    assert handled - {"*", "disconnect"} == {*EVENT_ACCESS}, "the rest is about no event of this service"


def test_routes_without_a_declaration_are_pages_alone() -> None:
    """Routes that are no endpoints are open to everybody: those of browser files and of the documentation."""
    routes = {str(getattr(route, "path", route)) for route in Doors(Rig(), key_verifier()).routes}
    assert routes - {endpoint.path for endpoint in ENDPOINTS.values()} == PAGES


def test_declarations_agree_with_their_routes() -> None:
    for name, endpoint in ENDPOINTS.items():
        permission, path = endpoint.access.permission, endpoint.path
        assert (permission is P.PUBLIC) is (name in {"livez", "readyz"}), name
        of_state = issubclass(endpoint.query, UserQuery) and "/admin/" not in path
        assert (permission in {P.USE, P.READ_STATES}) <= of_state, name
        assert of_state <= (permission in {P.USE, P.READ_STATES, P.ADMIN}), name
        assert permission not in READING or endpoint.method == "GET" or name == "validateFlow", name
        if path.startswith("/api/admin/"):
            assert permission in {P.ADMIN, P.SUPPORT, P.SERVICE, P.SERVICE_SUPPORT}, name
        assert ("{alias}" not in path) or permission in {P.ADMIN, P.SERVICE}, name


@pytest.mark.parametrize("permission", Permission)
def test_a_contradictory_declaration_is_refused(permission: Permission) -> None:
    of_services = permission in {P.SERVICE, P.SERVICE_SUPPORT}
    never = permission in {P.PUBLIC, P.SUPPORT, P.ADMIN}
    for for_services, refused in ((True, never), (False, of_services)):
        if refused:
            with pytest.raises(ValueError, match="for_services"):
                Access(permission, for_services=for_services)
        else:
            assert Access(permission, for_services=for_services).for_services is for_services


@pytest.mark.parametrize("name", GUARDED)
async def test_no_route_is_open_to_an_unsound_credential(shared: World, empty: World, name: str) -> None:
    endpoint, before = ENDPOINTS[name], shared.snapshot()
    for kind, token in shared.unsound.items():
        answer = await shared.ask(token, sample(shared, endpoint))
        assert answer.status_code == 401, (kind, answer.text)
        assert answer.json()["code"] == "AUTHENTICATION_REQUIRED", kind
        assert answer.headers["www-authenticate"].startswith("Bearer"), kind
        assert SECRET not in answer.text
        assert token is None or token not in answer.text
        if kind in {"no token", "wrong signature"}:
            assert same(answer) == same(await empty.ask(token, sample(shared, endpoint))), kind
    assert shared.snapshot() == before


@pytest.mark.parametrize("name", GUARDED)
async def test_a_route_admits_whom_its_declaration_admits(shared: World, name: str) -> None:
    endpoint = ENDPOINTS[name]
    world, before = shared, shared.snapshot()
    for kind in shared.sound:
        expected = is_admitted(endpoint.access, kind)
        changes = expected is not False and endpoint.access.permission not in READING
        world = await World.build() if changes else shared
        request = sample(world, endpoint)
        endless = is_endless(endpoint) and expected is not False
        answer = await world.ask(world.sound[kind], request, endless=endless)
        assert answer.status_code < 500, (kind, answer.text)
        assert answer.status_code != 401, (kind, answer.text)
        refused = answer.status_code == 403 and is_refused(answer.json().get("details"))
        if endless:
            assert answer.status_code == 200, (kind, "at its door")
        elif expected is None:
            _assert_nothing_of_others(answer, kind)
        else:
            assert refused is not expected, (kind, answer.status_code, answer.text)
        if kind == "administrator":
            sound = "give the route a sound sample in tests/support/route_samples.py"
            assert answer.status_code not in (403, 405, 422), (sound, answer.text)
    assert shared.snapshot() == before, (
        "a refused request, or one that is declared as reading, changed something"
    )


def _assert_nothing_of_others(answer: httpx.Response, kind: str) -> None:
    """Another service is refused, or its answer has nothing of the flows of this one."""
    assert SECRET not in answer.text, (kind, answer.text)
    if answer.status_code != 403:
        assert answer.json().get("items", []) == [], (kind, answer.text)


@pytest.mark.parametrize("name", GUARDED)
async def test_nobody_reads_or_changes_anything_of_others(shared: World, name: str) -> None:
    """The reason for each declaration: one that admits too many lets a stranger in here."""
    endpoint = ENDPOINTS[name]
    there = await World.build() if endpoint.access.permission is P.USE else shared
    for kind, user in {"stranger": "mallory", "stranger with roles": "mo"}.items():
        for named in ("olga", None):
            request = sample(there, endpoint, named)
            before = there.snapshot(without=user)
            own = named is None and not is_endless(endpoint)
            refused = endpoint.access.permission not in {P.READ_STATES, P.USE, P.READ_FLOWS}
            if is_endless(endpoint) and not refused and named is None:
                continue  # a stream of its own, which has no end
            answer = await there.ask(there.sound[kind], request)
            assert SECRET not in answer.text, (kind, answer.text)
            assert own or answer.status_code == 403 or endpoint.access.permission is P.READ_FLOWS, kind
            assert there.snapshot(without=user) == before, (kind, request)


@pytest.mark.parametrize("name", GUARDED)
async def test_support_staff_changes_nothing_and_reads_no_payload(shared: World, name: str) -> None:
    endpoint, before = ENDPOINTS[name], shared.snapshot()
    for kind in ("reader", "owner who may read alone"):
        for named in ("olga", "rita", "nobody", None):
            reads = endpoint.access.permission in READING
            answer = await shared.ask(
                shared.sound[kind], sample(shared, endpoint, named), endless=is_endless(endpoint) and reads
            )
            assert SECRET not in answer.text or kind != "reader", (named, answer.text)
            if not reads:
                assert answer.status_code == 403, (kind, named, answer.text)
                assert is_refused(answer.json()["details"])
    assert shared.snapshot() == before


@pytest.mark.parametrize("name", GUARDED)
async def test_a_refusal_does_not_depend_on_what_there_is(shared: World, empty: World, name: str) -> None:
    """The same refusal whether or not there are the state, the service, its key and its event."""
    endpoint = ENDPOINTS[name]
    for kind in shared.sound:
        if is_admitted(endpoint.access, kind) is not False or kind in SERVICE_KEYS:
            continue
        answer = await shared.ask(shared.sound[kind], sample(shared, endpoint))
        other = await empty.ask(empty.sound[kind], sample(shared, endpoint))
        assert same(answer) == same(other), kind


@pytest.mark.parametrize("name", GUARDED)
async def test_an_erased_user_is_admitted_as_any_other(shared: World, name: str) -> None:
    """The user's own requests, and those about the user, find nothing, and do not fail."""
    endpoint = ENDPOINTS[name]
    for kind in ("erased user", "administrator", "reader"):
        expected = is_admitted(endpoint.access, kind)
        own_or_all = kind == "erased user" and endpoint.access.permission in {P.READ_STATES, P.USE}
        is_safe = endpoint.access.permission in READING or not (expected or own_or_all)
        there = shared if is_safe else await World.build(erased=True)
        request = sample(there, endpoint, "erin")
        answer = await there.ask(there.sound[kind], request, endless=is_endless(endpoint))
        assert answer.status_code < 500, answer.text
        of_all = "userId" not in request.query or request.query["userId"] == "olga"
        assert of_all or SECRET not in answer.text, (kind, answer.text)
        if not is_endless(endpoint):
            refused = answer.status_code == 403 and is_refused(answer.json().get("details"))
            assert refused is not (expected or own_or_all), (kind, answer.text)


# Events


@pytest.mark.parametrize("event", REQUESTS)
async def test_an_event_admits_whom_its_declaration_admits(shared: World, event: str) -> None:
    access, before = EVENT_ACCESS[event], shared.snapshot()
    for kind in shared.sound:
        expected = is_admitted(access, kind)
        changes = expected is not False and access.permission is P.USE
        world = await World.build() if changes else shared
        if kind in SCOPELESS:
            with pytest.raises(exceptions.ConnectionRefusedError) as refusal:
                await world.emit(world.sound[kind], event, sample_event(event, user_id="olga"))
            assert refusal.value.error_args["data"].code == "INSUFFICIENT_PERMISSIONS"
            continue
        answer = await world.emit(world.sound[kind], event, sample_event(event, user_id="olga"))
        refused = not answer["ok"] and is_refused(getattr(answer["error"], "details", None))
        if expected is None:
            assert refused or answer.get("items") == [], (kind, answer)
        elif kind in SERVICE_KEYS and event == "flow-transition":
            assert not answer["ok"], "it has none of the roles"
            assert "roles" in answer["error"].details
        else:
            assert refused is not expected, (kind, answer)
        assert expected or SECRET not in repr(answer), (kind, answer)
    assert shared.snapshot() == before


async def test_no_connection_is_open_to_an_unsound_credential(shared: World) -> None:
    for kind, token in shared.unsound.items():
        with pytest.raises(exceptions.ConnectionRefusedError) as refusal:
            await shared.sockets._connect("sid", {}, {"token": token})
        assert refusal.value.error_args["data"].code == "AUTHENTICATION_REQUIRED", kind
        with pytest.raises(exceptions.ConnectionRefusedError):
            await shared.sockets._connect("sid", {"HTTP_AUTHORIZATION": f"Bearer {token}"})
    assert not shared.sockets._sessions, "without one no event is handled"


@pytest.mark.parametrize("event", [*REQUESTS, "*"])
async def test_no_event_is_open_to_a_client_whose_token_has_expired(shared: World, event: str) -> None:
    before = shared.snapshot()
    for kind in ("user", "administrator", "key of the service"):
        shared.set_clock()
        await shared.sockets._connect("sid", {}, {"token": shared.sound[kind]})
        session = shared.sockets._sessions["sid"]
        session.caller = structs.replace(session.caller, expires_at=1.0)
        body = sample_event(event, user_id="olga")
        arguments = (event, "sid", body) if event == "*" else ("sid", body)
        answer = await shared.sockets.server.handlers["/"][event](*arguments)
        await shared.sockets._disconnect("sid")
        assert answer["error"].code == "AUTHENTICATION_REQUIRED", kind
    assert shared.snapshot() == before


@pytest.mark.parametrize("event", REQUESTS)
async def test_support_staff_only_reads_by_an_event(shared: World, event: str) -> None:
    before = shared.snapshot()
    for kind in ("reader", "owner who may read alone"):
        for named in ("olga", "rita", None):
            answer = await shared.emit(shared.sound[kind], event, sample_event(event, user_id=named))
            assert SECRET not in repr(answer) or kind != "reader", named
            if EVENT_ACCESS[event].permission not in {P.READ_STATES, P.CONNECT}:
                assert answer["error"].code == "INSUFFICIENT_PERMISSIONS", (kind, named)
    assert shared.snapshot() == before
    for state_id in (TARGET, StateId("case", "rita")):
        assert shared.rig.service.presence.known_on(state_id) == [], "support staff is not present"
