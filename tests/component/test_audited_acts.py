"""Every route, event and command that changes something for an administrator has entries in the audit log.

The lists are those of the interfaces themselves: one that is not in the tables here fails the test, and so
does one that changes a store without an entry.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner

from app.cli.command import COMMANDS, main
from app.cli.origin import command_source
from app.contracts.audit import AuditEntry
from app.contracts.commands import Origin
from app.contracts.deliveries import DeadLetter
from app.contracts.integration_commands import ApiKeyCommand, RegistrationCommand
from app.contracts.state import StateId
from app.contracts.wire.times import iso
from app.http.application import all_endpoints
from app.http.endpoint import Endpoint
from app.services import FlowService
from app.services.audit.source import acting_from
from tests.support.case_flows import ROOT, case_flow
from tests.support.case_world import TARGETS, NamedCallers, make_world
from tests.support.doors import Doors, Request
from tests.support.rig import Rig
from tests.support.samples import T0

# The relay does not run here.
pytestmark = pytest.mark.expected_logs("delivery incomplete, records stay in outboxes", optional=True)

OWNER = "olga"
EVENT_ID = "evt_desk-1"
EVENT = {"id": EVENT_ID, "specversion": "1.0", "data": {"n": 1}}
PEOPLE = [{"role": "reviewer", "userId": "mallory"}]
ENDPOINTS = {endpoint.name: endpoint for endpoint in all_endpoints({})}


class Case(NamedTuple):
    """The action of a request of an administrator about a state of another user, its body and its query."""

    action: str
    body: Any = None
    query: dict[str, str] = {}
    after: str | None = None
    """A route that is called before."""


ROUTES = {
    "startFlow": Case("state.start", {}),
    "executeTransition": Case("state.transition", {}),
    "undoTransition": Case("state.undo", {}),
    "pauseFlow": Case("state.pause", {"reason": "checks"}),
    "resumeFlow": Case("state.resume", {}, after="pauseFlow"),
    "recoverFlow": Case("state.recover", {}),
    "resetFlow": Case("state.reset", {}),
    "setFlowState": Case("state.set", {"flow": "case", "step": "checked", "service": "desk", "ok": True}),
    "clearFlowState": Case("state.clear"),
    "setParticipants": Case("state.assign", {"participants": PEOPLE}),
    "claimTask": Case("state.claim", {"role": "reviewer"}),
    "releaseTask": Case("state.release", {"role": "reviewer"}),
    "withdrawVote": Case("state.withdraw", {}),
    "importFlow": Case("definition.create", case_flow("x")),
    "createFlow": Case("definition.create", case_flow("x")),
    "updateFlow": Case("definition.update", {"title": "new"}),
    "deleteFlow": Case("definition.delete", query={"force": "true"}),
    "migrateFlowStates": Case(
        "states.migrate", {"from": 1, "to": 2, "mapping": {}, "dryRun": False}, after="updateFlow"
    ),
    "changeFlowStates": Case(
        "states.batch", {"operations": [{"op": "clear", "userId": OWNER, "flowId": "case"}]}
    ),
    "exportPersonalData": Case("user.export", query={"userId": OWNER}),
    "erasePersonalData": Case("user.erase", query={"userId": OWNER}),
    "purgeExpiredFlows": Case("states.purge"),
    "redeliverDeadLetters": Case("deliveries.redeliver", {"filter": {}}),
    "dropDeadLetters": Case("deliveries.drop", {"filter": {}}),
    "editDeadLetter": Case("delivery.edit", {"event": {**EVENT, "data": {}}}),
    "redeliverDeadLetter": Case("deliveries.redeliver"),
    "dropDeadLetter": Case("deliveries.drop"),
    "replayDeliveries": Case("deliveries.replay", {"since": "2020-01-01T00:00:00Z"}),
    "registerService": Case("service.update", {"rate": 7}),
    "removeService": Case("service.delete"),
    "rotateServiceSecret": Case("service.rotate", {}),
    "enableService": Case("service.enable", {}, after="disableService"),
    "disableService": Case("service.disable", {}),
    "createServiceKey": Case("api-key.create", {}),
    "revokeServiceKey": Case("api-key.revoke"),
}
"""The routes that change something, and the personal data that leaves the service."""

UNAUDITED = {
    "validateFlow": "stores nothing",
    "pingService": "sends a test event, and stores nothing",
    "testService": "sends a test event, and stores nothing",
    "reportServiceHeartbeat": "a report of a service about itself, every few seconds",
}

EVENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow-start": ("state.start", {}),
    "flow-transition": ("state.transition", {"transition": "edit"}),
    "flow-reset": ("state.reset", {}),
    "flow-participants": ("state.assign", {"participants": PEOPLE}),
    "flow-claim": ("state.claim", {"role": "reviewer"}),
    "flow-release": ("state.release", {"role": "reviewer"}),
    "flow-withdraw": ("state.withdraw", {}),
}
READING_EVENTS = {
    *("flow-state", "flow-list", "flow-subscribe", "flow-unsubscribe", "flow-watch", "flow-unwatch"),
    *("flow-presence", "connect", "disconnect", "*"),
}

COMMAND_ACTS: dict[str, tuple[str, list[str]]] = {
    "purge": ("states.purge", []),
    "state set": ("state.set", ["--user", OWNER, "--flow", "case", '{"flow":"case","step":"open"}']),
    "state clear": ("state.clear", ["--user", OWNER, "--flow", "case"]),
    "state recover": ("state.recover", ["--user", OWNER, "--flow", "case"]),
    "user export": ("user.export", ["--user", OWNER]),
    "user erase": ("user.erase", ["--user", OWNER, "--yes"]),
    "flows import": ("definition.create", ["flow.json"]),
    "flows migrate": ("states.migrate", ["case", "--from", "1", "--to", "2"]),
    "services register": ("service.update", ["desk", '{"rate":7}']),
    "services rotate": ("service.rotate", ["desk"]),
    "services disable": ("service.disable", ["desk"]),
    "services enable": ("service.enable", ["desk"]),
    "services make-key": ("api-key.create", ["desk"]),
    "deliveries redeliver": ("deliveries.redeliver", ["--all"]),
    "deliveries drop": ("deliveries.drop", ["--all"]),
    "deliveries replay": ("deliveries.replay", ["desk", "--since", "2020-01-01T00:00:00Z"]),
}
READING_COMMANDS: dict[str, list[str]] = {
    "audit list": [],
    "audit export": [],
    "audit verify": [],
    "stats": [],
    "state show": ["--user", OWNER, "--flow", "case"],
    "user log-name": ["--user", OWNER],
    "flows list": [],
    "flows show": ["case"],
    "services list": [],
    "services show": ["desk"],
    "deliveries list": [],
}
WITHOUT_A_SERVICE = {
    "serve": "runs the service",
    "worker": "runs the service",
    "token": "signs a token offline: there is no log that it could reach",
    "check-config": "reads settings",
    "web build": "writes files of the browser",
    "webhook sign": "sends a request of a test",
    "webhook verify": "computes",
    "flows validate": "reads files",
    "keys generate": "prints a random key",
    "data export": "tests/component/test_data_transfer.py",
    "data import": "tests/component/test_data_transfer.py",
}
OTHER_READING_COMMANDS = {
    *("flows export", "flows diagram", "flows diff", "state history", "state list", "state verify"),
    *(
        "state compare-token",
        "state explain",
        "state token",
        "deliveries failing",
        "deliveries show",
        "services ping",
    ),
    *("services redis-url", "keys list", "state find"),
}
"""Commands that call the service to read, as other tests show."""
ELSEWHERE = {
    "flows hand-back": "definition.update, as every publication",
    "keys rotate": "tests/unit/test_key_rotation.py",
    "keys seal": "tests/unit/test_clear_data_sealing.py",
}
"""Commands that change something, with the test of their entries."""


@pytest.fixture(autouse=True)
def no_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers queries of presence, so none is waited for."""
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.0)
    monkeypatch.setattr("app.services.administration.personal_data.MAX_DRAIN_SECONDS", 0.0)


async def world(*, clear: bool = True) -> Rig:
    """Build a service on which the owner has states, and a service is registered that has a dead letter."""
    rig = await make_world(TARGETS.values())
    rig.clock.advance(hours=1)
    offices = rig.service.integrations
    await offices.administration.register("desk", RegistrationCommand(url=None), ROOT)
    await offices.keys.create("desk", ApiKeyCommand(name="first"), ROOT)
    letter = DeadLetter(
        id=EVENT_ID,
        alias="desk",
        state_id=StateId("case", OWNER),
        epoch="e",
        revision=1,
        type="flow.transition",
        at=T0,
        died_at=T0 + timedelta(seconds=1),
        reason="receiver",
        detail="the receiver answered 500",
        event=EVENT,
    )
    await rig.letters.add([letter])
    if clear:
        rig.audit_store.entries.clear()
    return rig


COUNTERS = {"reads", "loads", "calls"}
"""Members of fakes that count calls."""
STORES = ("states", "history", "definitions", "registrations", "api_keys", "letters", "lanes", "entities")


async def stored(rig: Rig) -> str:
    """Return everything in the stores, without what the service notes of the use of its parts."""
    members = [vars(getattr(rig, name)).items() for name in STORES]
    return repr([(name, value) for each in members for name, value in each if name not in COUNTERS])


def done(rig: Rig) -> set[str]:
    """Return the actions that have both entries."""
    entries = [entry for entry in rig.audit_store.entries if isinstance(entry, AuditEntry)]
    begun = {entry.sequence: entry.act.action for entry in entries if entry.outcome == "started"}
    return {begun[entry.of] for entry in entries if isinstance(entry.of, int)}


async def request_of(rig: Rig, endpoint: Endpoint, case: Case) -> Request:
    keys = await rig.service.integrations.keys.list_keys("desk", ROOT)
    path = endpoint.path.format(
        flow_id="case",
        transition="edit",
        earlier="1",
        later="1",
        version="1",
        alias="desk",
        event_id=EVENT_ID,
        key_id=keys[0].id,
    )
    takes = endpoint.query.__struct_fields__
    query: dict[str, str] = {"userId": OWNER} if "user_id" in takes else {}
    return Request(endpoint.method, path, {**query, **case.query}, case.body, {})


def test_every_route_that_changes_something_is_in_a_table() -> None:
    changing = {name for name, endpoint in ENDPOINTS.items() if endpoint.method != "GET"}
    assert {*changing, "exportPersonalData"} == ROUTES.keys() | UNAUDITED.keys()


@pytest.mark.parametrize("name", sorted(ROUTES))
async def test_a_route_that_changes_something_is_audited(name: str) -> None:
    case = ROUTES[name]
    rig = await world()
    doors = Doors(rig, NamedCallers())
    if case.after is not None:
        first = await request_of(rig, ENDPOINTS[case.after], ROUTES[case.after])
        assert (await doors.send("administrator", first)).is_success
    rig.audit_store.entries.clear()
    answer = await doors.send("administrator", await request_of(rig, ENDPOINTS[name], case))
    assert case.action in done(rig), answer.text
    for entry in rig.audit_store.entries:
        assert isinstance(entry, AuditEntry)
        assert (entry.act.actor, entry.act.client) == ("root", "http")
        assert isinstance(entry.act.request_id, str)
        assert entry.act.address == "127.0.0.1"
        assert OWNER not in repr(entry)
    await require_in_history(rig)


KINDS = {
    "state.assign": "assigned",
    "state.claim": "claimed",
    "state.clear": "cleared",
    "state.pause": "paused",
    "state.recover": "recovered",
    "state.release": "released",
    "state.reset": "reset",
    "state.resume": "resumed",
    "state.set": "set",
    "state.start": "started",
    "state.transition": "transitioned",
    "state.undo": "undone",
    "state.withdraw": "withdrawn",
}


async def require_in_history(rig: Rig) -> None:
    """Require that each change of a state stands in its history: its kind, its actor, and the same hash."""
    records = {record.hash: record for record in await rig.flows.get_flow_history(OWNER, "case")}
    for entry in rig.audit_store.entries:
        assert isinstance(entry, AuditEntry)
        if entry.act.details.get("changed") is True:
            record = records[entry.act.after]
            assert (record.kind, record.actor) == (KINDS[entry.act.action], "root")
            assert (record.previous_hash, record.revision) == (
                entry.act.before,
                entry.act.details["revision"],
            )


@pytest.mark.expected_logs("state recovered")
async def test_a_recovery_stands_in_the_history() -> None:
    rig = await world()
    doors = Doors(rig, NamedCallers())
    state_id = StateId("case", OWNER)
    lost = rig.states.stored.pop(state_id.key)
    assert await rig.service.background.relay.deliver(lost.pending) == []
    request = await request_of(rig, ENDPOINTS["recoverFlow"], ROUTES["recoverFlow"])
    answer = await doors.send("administrator", request)
    newest = (await rig.flows.get_flow_history(OWNER, "case"))[-1]
    assert (newest.kind, newest.actor) == ("recovered", "root"), answer.text


async def test_the_log_is_read_in_pages_and_by_filters() -> None:
    rig = await world()
    doors = Doors(rig, NamedCallers())
    for name in ("pauseFlow", "resumeFlow", "purgeExpiredFlows", "updateFlow"):
        request = await request_of(rig, ENDPOINTS[name], ROUTES[name])
        assert (await doors.send("administrator", request)).is_success
    before = rig.audit_store.entries[0].sequence - 1

    async def read(**query: str) -> dict[str, Any]:
        answer = await doors.send("administrator", Request("GET", "/api/admin/audit", query, None, {}))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def numbers(**query: str) -> list[int]:
        return [entry["sequence"] - before for entry in (await read(**query))["items"]]

    assert await numbers(limit="5") == [1, 2, 3, 4, 5]
    assert await numbers(after=(await read(limit="5"))["next"]) == [6, 7, 8]
    assert await numbers(user=OWNER) == await numbers(target="state:case") == [1, 2, 3, 4]
    assert await numbers(action="state.pause") == [1, 2]
    assert await numbers(action="state.*", actor="root") == [1, 2, 3, 4]
    assert await numbers(actor="nobody") == await numbers(user="nobody") == []
    assert len(await numbers(since=iso(rig.clock.now()))) == 8
    assert await numbers(since=iso(rig.clock.now() + timedelta(seconds=1))) == []
    assert len(rig.audit_store.entries) == 8, "reading is not recorded"
    for query in ({"after": "x"}, {"since": "2026-01-01T00:00:00"}, {"limit": "0"}, {"user": ""}):
        answer = await doors.send("administrator", Request("GET", "/api/admin/audit", query, None, {}))
        assert answer.status_code == 422
    beyond = Request("GET", "/api/admin/audit", {"after": str(2**63)}, None, {})
    answer = await doors.send("administrator", beyond)
    assert answer.status_code == 422, "the database has no such number"
    answer = await doors.send("owner", Request("GET", "/api/admin/audit", {}, None, {}))
    assert answer.status_code == 403


ENDLESS = {"streamFlowState", "streamServiceEvents"}
"""Answers that do not end for an administrator; tests/e2e reads them."""
READING_ROUTES = sorted(
    name
    for name, endpoint in ENDPOINTS.items()
    if endpoint.method == "GET" and name not in ROUTES.keys() | ENDLESS
)


@pytest.mark.parametrize("name", [*READING_ROUTES, *UNAUDITED])
async def test_a_route_that_reads_changes_nothing(name: str) -> None:
    endpoint = ENDPOINTS[name]
    rig = await world()
    before = await stored(rig)
    body = {"status": "up"} if name == "reportServiceHeartbeat" else {} if endpoint.body else None
    await Doors(rig, NamedCallers()).send("administrator", await request_of(rig, endpoint, Case("", body)))
    assert await stored(rig) == before or name == "reportServiceHeartbeat"
    assert rig.audit_store.entries == []


async def test_every_event_is_in_a_table() -> None:
    handlers = Doors(await world(), NamedCallers()).sockets.server.handlers["/"]
    assert handlers.keys() == EVENTS.keys() | READING_EVENTS


@pytest.mark.parametrize("event", sorted(EVENTS))
async def test_an_event_that_changes_something_is_audited(event: str) -> None:
    action, body = EVENTS[event]
    rig = await world()
    await Doors(rig, NamedCallers()).call(
        "administrator", (event, {"flowId": "case", "userId": OWNER, **body})
    )
    assert action in done(rig)
    clients = {entry.act.client for entry in rig.audit_store.entries if isinstance(entry, AuditEntry)}
    assert clients == {"socket"}


@pytest.mark.parametrize(
    ("caller", "name"),
    [("owner", "executeTransition"), ("participant", "claimTask"), ("service", "executeTransition")],
)
async def test_users_and_services_are_not_audited(caller: str, name: str) -> None:
    rig = await world()
    doors = Doors(rig, NamedCallers())
    request = await request_of(rig, ENDPOINTS[name], ROUTES[name])
    assert (await doors.send(caller, request)).is_success
    assert rig.audit_store.entries == []


async def test_a_program_that_acts_for_owners_is_not_audited_unless_it_administers() -> None:
    rig = await world()
    await rig.flows.execute_transition(OWNER, "case", "edit")
    assert rig.audit_store.entries == []
    await rig.flows.purge_expired_flows()
    assert done(rig) == {"states.purge"}


def leaves(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, found in sorted(group.commands.items()):
        if isinstance(found, click.Group):
            yield from leaves(found, f"{path}{name} ")
        else:
            yield f"{path}{name}", found


def test_every_command_is_in_a_table() -> None:
    with click.Context(main) as context:
        for name in COMMANDS:
            main.get_command(context, name)
    known = {*COMMAND_ACTS, *READING_COMMANDS, *WITHOUT_A_SERVICE, *OTHER_READING_COMMANDS, *ELSEWHERE}
    assert {name for name, _ in leaves(main)} == known


def run_command(
    words: list[str],
    rig_of: Callable[[Rig], Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    clear: bool = True,
) -> tuple[Rig, str]:
    """Run a command with the service of a world; return the world, and its stores before the command."""
    made: list[tuple[Rig, str]] = []

    def with_rig(use: Callable[[FlowService], Any]) -> Any:
        async def run() -> Any:
            rig = await world(clear=clear)
            await rig_of(rig)
            if clear:
                rig.audit_store.entries.clear()
            made.append((rig, await stored(rig)))
            return await use(rig.service)

        with acting_from(command_source()):
            return asyncio.run(run())

    with click.Context(main) as context:
        main.get_command(context, words[0])
    for name, module in [*sys.modules.items()]:
        if name.startswith("app.cli.") and hasattr(module, "with_service"):
            monkeypatch.setattr(module, "with_service", with_rig)
    answer = CliRunner().invoke(main, words, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return made[-1]


async def prepare(rig: Rig) -> None:
    await rig.service.update_flow("case", {"title": "second"})


@pytest.mark.parametrize("name", sorted(COMMAND_ACTS))
def test_a_command_that_changes_something_is_audited(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    action, words = COMMAND_ACTS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.json").write_text(json.dumps(case_flow("x")))
    rig, _ = run_command([*name.split(), *words], prepare, monkeypatch)
    assert done(rig) == {action}
    actors = {entry.act.actor for entry in rig.audit_store.entries if isinstance(entry, AuditEntry)}
    assert actors == {f"cli:{command_source().account}"}


@pytest.mark.parametrize("name", sorted(READING_COMMANDS))
def test_a_command_that_reads_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, before = run_command([*name.split(), *READING_COMMANDS[name]], prepare, monkeypatch)
    assert asyncio.run(stored(rig)) == before
    assert rig.audit_store.entries == []


def test_commands_read_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []

    async def act(rig: Rig) -> None:
        await prepare(rig)
        await rig.service.clear_flow_state(OWNER, "case", origin=Origin(ROOT))

    def run(*words: str) -> str:
        run_command(["audit", *words], act, monkeypatch, clear=False)
        return "".join(printed)

    monkeypatch.setattr("app.cli.audit.echo", lambda text: printed.append(f"{text}\n"))
    lines = run("list", "--user", OWNER, "--action", "state.clear").splitlines()
    assert [line.split()[2:6] for line in lines] == [
        [outcome, "state.clear", "state:case", f"cli:{command_source().account}"]
        for outcome in ("started", "done")
    ]
    printed.clear()
    exported = [json.loads(line) for line in run("export").splitlines()]
    assert [entry["sequence"] for entry in exported] == list(range(1, len(exported) + 1))
    printed.clear()
    assert run("verify").splitlines()[0::2] == [f"entries: {len(exported)}", "chain: whole"]
