"""The Python client against a scripted Socket.IO server."""

import asyncio
import errno
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import socketio
from aiohttp import web
from msgspec import UNSET

from realtime.client import ClaimView, FlowClient, FlowClientError, Participant, TransitionBy
from realtime.client import errors as failures
from realtime.client.reconnecting import WARN_SECONDS, Outage
from tests.support.following import at_revision, read, revisions

FLOW = "user-onboarding"


class Scripted:
    """A server with scripted answers, which records the events that it receives.

    ``answers`` has lists of answers by event, of which the last one is repeated; None is no answer.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.received: list[tuple[str, Any]] = []
        self.connections: list[Any] = []
        self._grown = asyncio.Condition()
        self._end = asyncio.Event()
        self.server = socketio.AsyncServer(async_mode="aiohttp", transports=["websocket"])
        self.server.on("connect", self._connect)
        self.server.on("*", self._event)

    async def start(self) -> "Scripted":
        app = web.Application()
        self.server.attach(app)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        self._end.set()
        await self._runner.cleanup()
        await self.server.shutdown()

    async def _connect(self, sid: str, _: Any, auth: Any) -> None:
        self.connections.append((sid, auth))

    async def _event(self, event: str, sid: str, body: Any) -> Any:
        async with self._grown:
            self.received.append((event, body))
            self._grown.notify_all()
        answers = self.answers[event]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            await self._end.wait()
        return answer

    def bodies(self, event: str) -> list[Any]:
        return [body for name, body in self.received if name == event]

    async def until(self, event: str, times: int) -> None:
        """Wait until an event was sent so often."""
        async with asyncio.timeout(20), self._grown:
            await self._grown.wait_for(lambda: len(self.bodies(event)) >= times)


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    started = await Scripted().start()
    yield started
    await started.stop()


def state_at(revision: int, **more: Any) -> dict[str, Any]:
    times = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00.000Z")
    where = {"flow": FLOW, "step": f"s{revision}", "service": "", "userId": "ada", "epoch": "e"}
    rest = {"ok": True, "version": 1, "status": "active", "transitions": [], "fromALaterServer": 1}
    return {**times, **where, **rest, "revision": revision, **more}


def read_at(revision: int) -> dict[str, Any]:
    return {"ok": True, "state": state_at(revision), "events": [], "complete": False}


def missed(*revisions: int) -> dict[str, Any]:
    events = [state_at(revision, kind="transitioned") for revision in revisions]
    return {"ok": True, "state": state_at(revisions[-1]), "events": events, "complete": True}


def refusal(code: str, *, retryable: bool, **details: Any) -> dict[str, Any]:
    error = {"code": code, "message": "m", "retryable": retryable, "details": details}
    return {"ok": False, "error": error}


def of_ada(scripted: Scripted, **options: Any) -> FlowClient:
    return FlowClient(scripted.url, jwt.encode({"sub": "ada"}, "x" * 40), device="laptop", **options)


async def test_a_connection_that_the_server_ends_is_made_again(
    scripted: Scripted,
) -> None:
    scripted.answers["flow-subscribe"] = [read_at(4), missed(5, 6)]
    async with of_ada(scripted) as client:
        states = client.follow(FLOW)
        await states.ready()
        ((sid, auth),) = scripted.connections
        assert auth["device"] == "laptop"
        slow = {"error": "too slow", "code": "SLOW_CLIENT", "retryable": True, "details": {}}
        await scripted.server.emit("flow-error", slow, to=sid)
        await scripted.server.disconnect(sid)
        assert revisions(await read(states, at_revision(6))) == [4, 5, 6]
        assert len(scripted.connections) == 2
        assert scripted.bodies("flow-subscribe") == [
            {"flowId": FLOW},
            {"flowId": FLOW, "epoch": "e", "since": 4},
        ]


async def test_an_expired_token_leads_to_a_new_connection_with_a_new_token(
    scripted: Scripted,
) -> None:
    expired = refusal("AUTHENTICATION_REQUIRED", retryable=False)
    scripted.answers["flow-state"] = [expired, {"ok": True, "state": None}]
    tokens = iter(["first", "second", "third"])
    async with FlowClient(scripted.url, lambda: next(tokens)) as client:
        assert await client.state(FLOW) is None
        assert [auth["token"] for _, auth in scripted.connections] == ["first", "second"]
        pushed = {"error": "m", **expired["error"]}
        await scripted.server.emit("flow-error", pushed, to=scripted.connections[-1][0])
        async with asyncio.timeout(5):
            while len(scripted.connections) < 3:
                await client.state(FLOW)
        assert scripted.connections[-1][1] == {"token": "third"}


async def test_a_resync_requests_from_the_position_held_and_buffers_events(scripted: Scripted) -> None:
    scripted.answers["flow-subscribe"] = [read_at(4), None, missed(5)]
    async with of_ada(scripted, ack_seconds=0.3) as client:
        states = client.follow(FLOW)
        await states.ready()
        await scripted.server.emit("flow-resync", {"reason": "r"})
        await scripted.until("flow-subscribe", 2)
        await scripted.server.emit("flow-state-updated", state_at(6))
        assert revisions(await read(states, at_revision(6))) == [4, 5, 6]
        assert scripted.bodies("flow-subscribe")[1:] == [{"flowId": FLOW, "epoch": "e", "since": 4}] * 2
        assert (states.stats.syncs, states.stats.repaired, states.stats.gaps) == (3, 1, 0)
        assert states.stats.longest_repair >= 300


async def test_an_event_that_cannot_be_read_counts_as_missed(scripted: Scripted) -> None:
    scripted.answers["flow-subscribe"] = [read_at(4), missed(5)]
    async with of_ada(scripted) as client:
        states = client.follow(FLOW)
        await states.ready()
        await scripted.server.emit("flow-state-updated", state_at(5, status="of a later server"))
        assert revisions(await read(states, at_revision(5))) == [4, 5]


async def test_a_watched_change_that_cannot_be_read_ends_the_watching(scripted: Scripted) -> None:
    scripted.answers["flow-watch"] = [{"ok": True}]
    async with of_ada(scripted) as client:
        updates = client.watch(FLOW)
        await updates.ready()
        led = {"kind": "cleared", "transition": "", "fromStep": "s", "actor": "a", "at": "t"}
        await scripted.server.emit(
            "flow-updated", {"userId": "u", "flowId": FLOW, "state": state_at(4), **led}
        )
        assert (await anext(updates)).kind == "cleared"
        await scripted.server.emit("flow-updated", {"userId": 7, "flowId": FLOW})
        with pytest.raises(FlowClientError, match="INVALID_ANSWER"):
            await anext(updates)


async def test_a_sync_waits_as_long_as_the_server_requires_and_ends_with_another_error(
    scripted: Scripted,
) -> None:
    limited = refusal("RATE_LIMITED", retryable=True, retryAfterMs=150)
    scripted.answers["flow-subscribe"] = [
        limited,
        limited,
        read_at(4),
        refusal("FLOW_NOT_FOUND", retryable=False),
    ]
    async with of_ada(scripted) as client:
        began = time.monotonic()
        states = client.follow(FLOW)
        assert revisions([await anext(states)]) == [4]
        assert time.monotonic() - began >= 0.3
        await scripted.server.emit("flow-resync", {"reason": "r"})
        with pytest.raises(FlowClientError, match="FLOW_NOT_FOUND"):
            await anext(states)
        assert client.stats.syncs == 4


def one_of_many(entity_id: str, revision: int, **more: Any) -> dict[str, Any]:
    return state_at(revision, instances="many", entityId=entity_id, **more)


def read_one(entity_id: str, revision: int, **more: Any) -> dict[str, Any]:
    return {**read_at(revision), "state": one_of_many(entity_id, revision, **more)}


async def test_events_of_many_states_come_to_the_subscription_with_their_entity(scripted: Scripted) -> None:
    scripted.answers["flow-subscribe"] = [
        read_at(0),
        read_one("e-1", 0),
        read_one("e-2", 0),
        read_one("e-1", 0, userId="bob"),
    ]
    async with of_ada(scripted) as client:
        followed = []
        for address in (
            {},
            {"entity_id": "e-1"},
            {"entity_id": "e-2"},
            {"user_id": "bob", "entity_id": "e-1"},
        ):
            followed.append(client.follow(FLOW, **address))
            await followed[-1].ready()
        plain, first, second, of_bob = followed
        events = [
            one_of_many("e-2", 1, userId="bob"),
            one_of_many("e-1", 1, userId="bob", step="of bob"),
            one_of_many("e-3", 1),
            one_of_many("e-2", 1, step="second"),
            one_of_many("e-1", 1, step="first"),
            state_at(1, entityId="e-1", step="plain"),
        ]
        for event in events:
            await scripted.server.emit("flow-state-updated", event)
        for states, step in ((plain, "plain"), (first, "first"), (second, "second"), (of_bob, "of bob")):
            assert [state.step for state in await read(states, at_revision(1))] == ["s0", step]
        assert (client.stats.syncs, client.stats.gaps, client.stats.dropped) == (4, 0, 0)
        assert scripted.bodies("flow-subscribe") == [
            {"flowId": FLOW},
            {"flowId": FLOW, "entityId": "e-1"},
            {"flowId": FLOW, "entityId": "e-2"},
            {"flowId": FLOW, "userId": "bob", "entityId": "e-1"},
        ]


async def test_the_only_one_of_many_is_found_and_remembered(scripted: Scripted) -> None:
    caught_up = {**read_one("e-1", 1), "events": [one_of_many("e-1", 1)], "complete": True}
    scripted.answers["flow-subscribe"] = [read_one("e-1", 0), caught_up, read_one("e-1", 1)]
    scripted.answers["flow-unsubscribe"] = [{"ok": True}]
    scripted.answers["flow-state"] = [{"ok": True, "state": None}]
    async with of_ada(scripted) as client:
        states = client.follow(FLOW)
        await states.ready()
        await scripted.server.emit("flow-state-updated", one_of_many("e-2", 1))
        await scripted.server.emit("flow-resync", {"reason": "r"})
        assert revisions(await read(states, at_revision(1))) == [0, 1]
        assert scripted.bodies("flow-subscribe")[1:] == [
            {"flowId": FLOW, "entityId": "e-1", "epoch": "e", "since": 0}
        ]
        named, own = client.follow(FLOW, entity_id="e-1"), client.follow(FLOW, user_id="ada", entity_id="e-1")
        await named.ready()
        await own.ready()
        await states.aclose()
        await own.aclose()
        await client.state(FLOW)
        assert scripted.bodies("flow-unsubscribe") == [], "the server knows one subscription to that state"
        await named.aclose()
        await scripted.until("flow-unsubscribe", 1)
        assert scripted.bodies("flow-unsubscribe") == [{"flowId": FLOW, "entityId": "e-1"}]


async def test_a_participant_who_is_removed_is_refused_and_others_of_its_subscriptions_go_on(
    scripted: Scripted,
) -> None:
    scripted.answers["flow-subscribe"] = [
        read_one("e-1", 0, userId="bob"),
        read_one("e-2", 0, userId="bob"),
        refusal("INSUFFICIENT_PERMISSIONS", retryable=False),
        {**read_one("e-2", 0, userId="bob"), "complete": True},
    ]
    async with of_ada(scripted) as client:
        removed = client.follow(FLOW, user_id="bob", entity_id="e-1")
        await removed.ready()
        other = client.follow(FLOW, user_id="bob", entity_id="e-2")
        await other.ready()
        await scripted.server.emit("flow-resync", {"reason": "participants"})
        assert revisions([await anext(removed)]) == [0]
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await anext(removed)
        await scripted.until("flow-subscribe", 4)
        await scripted.server.emit("flow-state-updated", one_of_many("e-2", 1, userId="bob"))
        assert revisions(await read(other, at_revision(1))) == [0, 1]


async def test_a_subscription_without_the_entity_that_it_needs_ends(scripted: Scripted) -> None:
    details = {"flowId": FLOW, "entityIds": ["e-1", "e-2"], "more": False}
    scripted.answers["flow-subscribe"] = [refusal("ENTITY_REQUIRED", retryable=False, **details)]
    async with of_ada(scripted) as client:
        with pytest.raises(FlowClientError, match="ENTITY_REQUIRED") as refused:
            await anext(client.follow(FLOW))
    assert refused.value.details == details


async def test_people_of_a_state_are_read_also_as_a_later_server_sends_them(scripted: Scripted) -> None:
    people = {
        "participants": [{"role": "approver", "userId": "bob"}, {"role": "clerk", "group": "it", "since": 1}],
        "claims": [{"role": "approver", "userId": "bob", "until": "2026-01-01T00:00:00.000Z", "note": ""}],
        "votes": [{"transition": "approve", "userId": "bob", "at": 1}],
        "runs": [{"transition": "submit", "userId": "ada"}],
    }
    scripted.answers["flow-state"] = [{"ok": True, "state": one_of_many("e-1", 1, **people)}]
    async with of_ada(scripted) as client:
        state = await client.state(FLOW)
    assert state is not None
    assert isinstance(state.participants, tuple)
    assert [(each.role, each.user_id, each.group) for each in state.participants] == [
        ("approver", "bob", UNSET),
        ("clerk", UNSET, "it"),
    ]
    assert state.claims == (ClaimView("approver", "bob", "2026-01-01T00:00:00.000Z"),)
    assert state.votes == (TransitionBy("approve", "bob"),)
    assert state.runs == (TransitionBy("submit", "ada"),)


async def test_requests_name_one_of_many_and_lists_have_pages(scripted: Scripted) -> None:
    address: dict[str, Any] = {"user_id": "bob", "entity_id": "e-1"}
    sent = {"flowId": FLOW, "userId": "bob", "entityId": "e-1"}
    people = [Participant("approver", user_id="carol"), Participant("clerk", group="it")]
    as_sent = [{"role": "approver", "userId": "carol"}, {"role": "clerk", "group": "it"}]
    changes = ("start", "transition", "reset", "claim", "release", "withdraw", "participants")
    for name in ("state", *changes):
        scripted.answers[f"flow-{name}"] = [{"ok": True, "state": state_at(1)}]
    scripted.answers["flow-presence"] = [{"ok": True, "clients": []}]
    page = {"ok": True, "items": [one_of_many("e-1", 1)]}
    scripted.answers["flow-list"] = [{**page, "next": "there"}, page]
    async with of_ada(scripted) as client:
        await client.state(FLOW, **address)
        await client.start(FLOW, participants=people, **address)
        await client.transition(FLOW, "go", **address)
        await client.reset(FLOW, **address)
        await client.claim(FLOW, "approver", **address)
        await client.release(FLOW, **address)
        await client.withdraw(FLOW, **address)
        assert (await client.assign(FLOW, people, expected_revision=4, **address)).revision == 1
        await client.presence(FLOW, "bob", entity_id="e-1")
        listed = await client.list_states(FLOW, status="active", limit=1)
        tasks = await client.tasks("approver", after="there")
    assert (listed.next, listed.items[0].identifying_entity, tasks.next) == ("there", "e-1", None)
    more: dict[str, Any] = {
        "start": {"participants": as_sent},
        "transition": {"transition": "go"},
        "claim": {"role": "approver"},
        "participants": {"participants": as_sent, "expectedRevision": 4},
    }
    for name in changes:
        (body,) = scripted.bodies(f"flow-{name}")
        assert body.pop("requestId"), name
        assert body == {**sent, **more.get(name, {})}
    assert scripted.bodies("flow-state") == scripted.bodies("flow-presence") == [sent]
    assert scripted.bodies("flow-list") == [
        {"flowId": FLOW, "status": "active", "limit": 1},
        {"after": "there", "as": "approver"},
    ]


async def test_a_request_is_repeated_as_it_is(scripted: Scripted) -> None:
    done = {"ok": True, "state": state_at(1)}
    scripted.answers["flow-transition"] = [None, refusal("STORE_UNAVAILABLE", retryable=True), done]
    async with of_ada(scripted, ack_seconds=0.2) as client:
        state = await client.transition(FLOW, "go", {"a": 1}, message="m")
        assert state.revision == 1
        first, *others = scripted.bodies("flow-transition")
        assert others == [first, first]
        assert {n: v for n, v in first.items() if n != "requestId"} == {
            "flowId": FLOW,
            "transition": "go",
            "payload": {"a": 1},
            "message": "m",
        }
        await client.transition(FLOW, "go", request_id="mine")
        await client.transition(FLOW, "go")
        ids = [body["requestId"] for body in scripted.bodies("flow-transition")[2:]]
        assert ids[1] == "mine"
        assert len({*ids}) == 3


@pytest.mark.parametrize("code", ["STATE_PAUSED", "REVISION_CONFLICT", "CLAIMED"])
async def test_a_request_whose_repetition_the_caller_decides_is_not_repeated(
    scripted: Scripted, code: str
) -> None:
    scripted.answers["flow-reset"] = [refusal(code, retryable=True)]
    async with of_ada(scripted) as client:
        with pytest.raises(FlowClientError) as refused:
            await client.reset(FLOW)
        assert (refused.value.code, refused.value.retryable) == (code, True)
        assert len(scripted.bodies("flow-reset")) == 1


async def test_at_the_deadline_the_last_error_is_reported(scripted: Scripted) -> None:
    scripted.answers["flow-state"] = [refusal("STORE_UNAVAILABLE", retryable=True)]
    scripted.answers["flow-presence"] = [{"ok": True, "clients": 7}]
    async with of_ada(scripted) as client:
        with pytest.raises(FlowClientError, match="STORE_UNAVAILABLE"):
            await client.state(FLOW, deadline=3)
        assert len(scripted.bodies("flow-state")) > 1
        with pytest.raises(FlowClientError, match="INVALID_ANSWER"):
            await client.presence(FLOW)


async def test_a_message_over_the_limit_that_the_server_announces_is_not_sent(scripted: Scripted) -> None:
    scripted.answers["flow-transition"] = [{"ok": True, "state": state_at(1)}]
    async with of_ada(scripted) as client:
        await client.transition(FLOW, "go", {"a": "x" * (scripted.server.eio.max_http_buffer_size - 300)})
        with pytest.raises(FlowClientError) as refused:
            await client.transition(FLOW, "go", {"a": "x" * scripted.server.eio.max_http_buffer_size})
        assert refused.value.code == "PAYLOAD_TOO_LARGE"
        assert refused.value.details == {"limit": scripted.server.eio.max_http_buffer_size}
        assert len(scripted.bodies("flow-transition")) == 1
        assert len(scripted.connections) == 1, "the connection goes on"


async def unreachable(url: str) -> FlowClientError:
    async with FlowClient(url, "token") as client:
        with pytest.raises(FlowClientError) as failed:
            await client.state(FLOW, deadline=0.5)
    assert (failed.value.code, failed.value.retryable) == ("UNREACHABLE", True)
    return failed.value


async def test_an_address_that_cannot_be_reached_is_named_with_the_innermost_cause(
    scripted: Scripted, unused_tcp_port: int
) -> None:
    error = await unreachable(f"http://me:secret@127.0.0.1:{unused_tcp_port}/flows?key=secret")
    assert error.details == {
        "url": f"http://127.0.0.1:{unused_tcp_port}/flows",
        "cause": f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', {unused_tcp_port})",
    }
    assert error.message == f"{error.details['url']} cannot be reached: {error.details['cause']}"
    assert "WRONG_VERSION_NUMBER" in (await unreachable(scripted.url.replace("http", "https"))).message
    assert "Name or service" in (await unreachable("http://no-such-host.invalid")).message


async def test_a_server_without_socket_io_is_one_that_cannot_be_reached() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    error = await unreachable(f"http://127.0.0.1:{runner.addresses[0][1]}")
    assert error.details["cause"] == "HTTP status 404"
    await runner.cleanup()


async def test_a_refusal_of_another_server_is_reported(scripted: Scripted) -> None:
    async def refuse(*_: object) -> None:
        raise socketio.exceptions.ConnectionRefusedError("closed on Sundays")

    scripted.server.on("connect", refuse)
    assert (await unreachable(scripted.url)).details["cause"] == "refused: closed on Sundays"


@pytest.mark.expected_logs("no connection: UNREACHABLE: u cannot be reached: why")
async def test_a_long_outage_is_logged_once() -> None:
    outage, trouble = Outage(), failures.unreachable("u", OSError("why"))
    for _ in range(2):
        for now in (0.0, WARN_SECONDS - 0.1, WARN_SECONDS, 2 * WARN_SECONDS):
            outage.record_failure(trouble, now)
        outage.end()
        outage.record_failure(trouble, 2 * WARN_SECONDS)
        outage.end()


def test_the_client_needs_nothing_of_the_server() -> None:
    absent = ("beanie", "motor", "pymongo", "redis", "starlette", "uvicorn", "pydantic", "jwt", "structlog")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import realtime.client"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_malformed_address_is_refused() -> None:
    with pytest.raises(ValueError, match="address"):
        FlowClient("localhost:8000", "token")
