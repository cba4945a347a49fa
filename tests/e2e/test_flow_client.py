"""The client in Python against a real server, also by connections that break."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import jwt
import pytest

from realtime.client import FlowClient, FlowClientError, Reader, StateUpdate
from tests.support.following import at_revision, read, revisions
from tests.support.serving import Serving

FLOW = "user-onboarding"
WALK = ("start", "continue", "save", "complete")


class Proxy:
    """A TCP proxy to the server that breaks connections on command.

    While ``closed`` it ends every connection at once. ``cut_at(word)``: when the server's next message
    with ``word`` in it comes, the connection is cut instead.
    """

    def __init__(self) -> None:
        self.closed = False
        self.connections = 0
        self.cut_off = asyncio.Event()
        self._word: bytes | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, url: str) -> "Proxy":
        self._target = int(url.rsplit(":", 1)[1])
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def cut_at(self, word: bytes) -> None:
        self._word = word

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self.cut_off.set()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        if self.closed:
            writer.transport.abort()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, inner_writer}
        self._writers |= ends
        try:
            await asyncio.gather(self._pump(reader, inner_writer), self._pump(inner_reader, writer, ends))
        except OSError:
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        spoilt: Sequence[Any] | set[Any] = (),
    ) -> None:
        while data := await reader.read(65536):
            if spoilt and self._word is not None and self._word in data:
                self._word = None
                self.cut_off.set()
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@pytest.fixture
async def proxy(serving: Serving) -> AsyncIterator[Proxy]:
    started = await Proxy().start(serving.url)
    yield started
    await started.stop()


def client_of(serving: Serving, user: str, *scopes: str, url: str = "", **options: Any) -> FlowClient:
    return FlowClient(url or serving.url, serving.token(user, *scopes), **options)


async def test_a_flow_walked_and_followed(serving: Serving, user: str) -> None:
    async with client_of(serving, user) as client, client.follow(FLOW) as states:
        assert await anext(states) is None
        assert await client.state(FLOW) is None
        with pytest.raises(FlowClientError, match=r"/remove: .* is not of type"):
            await client.transition(FLOW, "start", remove="/")
        started = await client.start(FLOW, service="web", payload={"a": 1, "old": None})
        assert (started.step, started.service, started.revision) == ("welcome", "web", 0)
        assert revisions(await read(states, at_revision(0))) == [0]
        with pytest.raises(FlowClientError, match='/remove: "/old" is not of type "array"'):
            await client.transition(FLOW, WALK[0], remove="/old")
        for transition in WALK:
            moved = await client.transition(FLOW, transition, {"b": 2}, remove=["/old"])
        assert (moved.status, moved.payload) == ("completed", {"a": 1, "b": 2})
        shown = await read(states, at_revision(4))
        assert revisions(shown) == [1, 2, 3, 4]
        assert [(s.kind, s.transition, s.from_step, s.actor) for s in shown[:2]] == [
            ("transitioned", "start", "welcome", user),
            ("transitioned", "continue", "profile-setup", user),
        ]
        reset = await client.reset(FLOW, "preferences", expected_revision=4)
        assert (reset.step, reset.transitions[0].transition) == ("preferences", "save")
        assert await client.state(FLOW) == reset
        await read(states, at_revision(5))
        assert states.state is not None
        assert states.state.step == "preferences"
        assert states.stats.repaired == 0


async def test_the_first_state_of_a_flow_is_shown_also_when_the_next_one_follows_at_once(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    async with (
        client_of(serving, user, url=proxy.url) as client,
        client_of(serving, user) as other,
        serving.http(user) as http,
    ):
        states = client.follow(FLOW)
        assert await anext(states) is None
        for away in (False, False, True, True):
            if away:
                proxy.closed = True
                proxy.cut()
            await asyncio.gather(other.start(FLOW), other.transition(FLOW, "start"))
            proxy.closed = False
            assert revisions(await read(states, at_revision(1))) == [0, 1]
            await http.delete(f"/api/flow/{FLOW}/state")
            (ended,) = await read(states, lambda state: state.status == "cleared")
            assert ended.revision == 2
        assert (states.stats.gaps, states.stats.resets) == (0, 0)


async def test_two_clients_of_a_user_are_shown_the_same(serving: Serving, user: str) -> None:
    async with client_of(serving, user) as one, client_of(serving, user) as other:
        await one.start(FLOW)
        first, second = one.follow(FLOW), other.follow(FLOW)
        await asyncio.gather(first.ready(), second.ready())
        for n, transition in enumerate(WALK):
            await (one, other)[n % 2].transition(FLOW, transition)
        shown = [await read(states, at_revision(4)) for states in (first, second)]
        assert revisions(shown[0]) == revisions(shown[1]) == [0, 1, 2, 3, 4]


async def devices(client: FlowClient) -> list[str]:
    return sorted(present.device for present in await client.presence(FLOW))


async def test_followings_of_one_state_share_a_subscription(serving: Serving, user: str) -> None:
    async with (
        client_of(serving, user, device="observer") as observer,
        client_of(serving, user, device="own") as client,
        observer.follow(FLOW) as observed,
    ):
        await client.start(FLOW)
        first = client.follow(FLOW)
        assert revisions([await anext(first)]) == [0]
        second = client.follow(FLOW)
        assert revisions([await anext(second)]) == [0], "a second one begins with the present state"
        assert client.stats.syncs == 1
        await first.aclose()
        await client.transition(FLOW, "start")
        assert revisions(await read(second, at_revision(1))) == [1]
        assert [state async for state in first] == []
        await observed.ready()
        assert await devices(observer) == ["observer", "own"]
        await second.aclose()
        await client.state(FLOW)  # the server has processed the earlier event before this one
        assert await devices(observer) == ["observer"]


async def test_leaving_the_loop_unsubscribes(serving: Serving, user: str) -> None:
    async with (
        client_of(serving, user, device="observer") as observer,
        client_of(serving, user, device="own") as client,
        observer.follow(FLOW) as observed,
    ):
        await observed.ready()
        async for state in client.follow(FLOW):
            assert state is None
            assert await devices(observer) == ["observer", "own"]
            break
        await client.state(FLOW)
        assert await devices(observer) == ["observer"]
        with pytest.raises(ZeroDivisionError):
            await _fail_at_the_first(client.follow(FLOW))
        await client.state(FLOW)
        assert await devices(observer) == ["observer"]
        await client.start(FLOW)
        assert revisions([await anext(client.follow(FLOW))]) == [0], "the connection lives"
        assert client.stats.syncs == 3


async def test_lost_events_are_repaired_by_a_sync(serving: Serving, user: str) -> None:
    async with client_of(serving, user) as client, client_of(serving, user) as other:
        await other.start(FLOW)
        event_received, lost = client.event_received, []

        def lossy(event: str, body: Any) -> None:
            if event == "flow-state-updated" and body["revision"] in (1, 2):
                lost.append(body["revision"])
            else:
                event_received(event, body)

        client.event_received = lossy  # type: ignore[method-assign]
        states = client.follow(FLOW)
        await states.ready()
        for transition in WALK:
            await other.transition(FLOW, transition)
        shown = await read(states, at_revision(4))
        assert revisions(shown) == [0, 1, 2, 3, 4]
        assert set(lost) == {1, 2}
        assert (states.stats.gaps, states.stats.resets) == (1, 0)
        assert states.stats.repaired >= 2, "the sync may be answered after a later change"
        assert states.stats.longest_repair > 0
        assert states.level


async def test_a_lost_connection_is_made_again_and_nothing_is_missed(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    async with client_of(serving, user, url=proxy.url) as client, client_of(serving, user) as other:
        await other.start(FLOW)
        states = client.follow(FLOW)
        await states.ready()
        proxy.closed = True
        proxy.cut()
        for transition in WALK:
            await other.transition(FLOW, transition)
        proxy.closed = False
        assert revisions(await read(states, at_revision(4))) == [0, 1, 2, 3, 4]
        assert (states.stats.repaired, states.stats.resets) == (4, 0)
        proxy.cut()
        await other.reset(FLOW)
        assert revisions(await read(states, at_revision(5))) == [5]


async def test_a_state_that_ended_and_began_while_the_connection_was_cut(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    async with (
        client_of(serving, user, url=proxy.url) as client,
        client_of(serving, user) as other,
        serving.http(user) as http,
    ):
        first = await other.start(FLOW)
        states = client.follow(FLOW)
        await states.ready()
        proxy.closed = True
        proxy.cut()
        await http.delete(f"/api/flow/{FLOW}/state")
        second = await other.start(FLOW)
        assert second.epoch > first.epoch
        proxy.closed = False
        shown = await read(states, lambda state: state is not None and state.epoch == second.epoch)
        assert shown[0].epoch == first.epoch
        assert states.stats.resets == 1
        await http.delete(f"/api/flow/{FLOW}/state")
        (ended,) = await read(states, lambda state: state is None or state.status != "active")
        assert ended.status == "cleared"


async def test_a_transition_whose_answer_is_lost_is_executed_once(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    async with client_of(serving, user, url=proxy.url) as client, serving.http(user) as http:
        await client.start(FLOW)
        proxy.cut_at(b'[{"ok":true,"state":')
        async with asyncio.timeout(5):  # sooner than an answer is waited for
            state = await client.transition(FLOW, "start")
        assert proxy.cut_off.is_set()
        assert (state.step, state.revision) == ("profile-setup", 1)
        assert (await http.get(f"/api/flow/{FLOW}/state")).json()["revision"] == 1
        history = (await http.get(f"/api/flow/{FLOW}/history")).json()["items"]
        assert [record["toStep"] for record in history] == ["welcome", "profile-setup"]


async def test_a_refusal_is_reported_at_once_with_its_code_and_details(serving: Serving, user: str) -> None:
    async with client_of(serving, user) as client:
        await client.start(FLOW)
        with pytest.raises(FlowClientError) as refused:
            await client.transition(FLOW, "fly")
        error = refused.value
        assert (error.code, error.retryable) == ("INVALID_TRANSITION", False)
        assert error.details == {"fromStep": "welcome", "transition": "fly", "allowed": ["start"]}
        assert str(error) == "INVALID_TRANSITION: Invalid transition fly from step welcome"
        with pytest.raises(FlowClientError, match="REVISION_CONFLICT"):
            await client.transition(FLOW, "start", expected_revision=7)
        with pytest.raises(FlowClientError, match="FLOW_NOT_FOUND"):
            await anext(client.follow("nowhere"))


async def test_without_a_server_a_request_fails_at_its_deadline(
    user: str, serving: Serving, proxy: Proxy
) -> None:
    proxy.closed = True
    async with client_of(serving, user, url=proxy.url) as client:
        with pytest.raises(FlowClientError) as failed:
            await client.start(FLOW, deadline=0.5)
        assert (failed.value.code, failed.value.retryable) == ("UNREACHABLE", True)
        assert failed.value.details["url"] == proxy.url
        assert proxy.connections > 1
        waiting = asyncio.create_task(client.start(FLOW))
        cancelled = asyncio.create_task(client.start(FLOW))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        proxy.closed = False
        assert (await waiting).revision == 0


async def test_a_cancelled_request_leaves_the_connection_as_it_was(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    async with client_of(serving, user, url=proxy.url) as client:
        await client.start(FLOW)
        calls = [asyncio.create_task(client.state(FLOW)) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert all(isinstance(answer, StateUpdate) for answer in answers[1::2])
        assert proxy.connections == 1


async def test_an_expired_token_is_requested_again(serving: Serving, user: str) -> None:
    requested = 0

    async def token() -> str:
        nonlocal requested
        requested += 1
        if requested > 1:
            return serving.token(user)
        last_moment = {"sub": user, "exp": int(time.time()) - 3}  # 5 seconds are allowed to clocks
        return jwt.encode(last_moment, serving.secret, "HS256")

    async with FlowClient(serving.url, token) as client, client_of(serving, user) as other:
        await other.start(FLOW)
        states = client.follow(FLOW)
        await states.ready()
        async with asyncio.timeout(20):
            while requested < 2:
                await other.reset(FLOW)
        await other.transition(FLOW, "start")
        shown = await read(states, lambda state: state.step == "profile-setup")
        assert revisions(shown) == list(range(shown[-1].revision + 1)), "nothing was missed"
        assert requested == 2


@pytest.mark.parametrize("refused", [2, 3])
async def test_three_refusals_in_a_row_are_final(serving: Serving, user: str, refused: int) -> None:
    requested = 0

    def token() -> str:
        nonlocal requested
        requested += 1
        forged = jwt.encode({"sub": user, "exp": int(time.time()) + 60}, "x" * 40, "HS256")
        return forged if requested <= refused else serving.token(user)

    async with FlowClient(serving.url, token) as client:
        states = client.follow(FLOW)
        if refused < 3:
            assert await anext(states) is None
            return
        for waiting in (anext(states), client.start(FLOW), anext(client.follow(FLOW)), states.ready()):
            with pytest.raises(FlowClientError) as failed:
                await waiting
            assert (failed.value.code, failed.value.retryable) == ("AUTHENTICATION_REQUIRED", False)
        assert requested == 3


async def test_refusals_with_a_connection_between_them_are_not_final(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    tokens = iter(["bad", "bad", serving.token(user), "bad", "bad", serving.token(user)])
    async with FlowClient(proxy.url, lambda: next(tokens)) as client:
        assert await client.state(FLOW) is None
        proxy.cut()
        assert await client.state(FLOW) is None
        assert next(tokens, None) is None


@pytest.mark.expected_logs("the token callback failed: OSError")
async def test_a_token_callback_that_fails_is_called_again(serving: Serving, user: str) -> None:
    requested = 0

    def token() -> str:
        nonlocal requested
        requested += 1
        if requested < 3:
            raise OSError("no way to the issuer")
        return serving.token(user)

    async with FlowClient(serving.url, token) as client:
        with pytest.raises(FlowClientError, match="TOKEN_UNAVAILABLE"):
            await client.state(FLOW, deadline=0.001)
        assert await client.state(FLOW) is None
        assert requested == 3


@pytest.mark.expected_logs("the token callback failed: TypeError")
async def test_a_token_callback_that_returns_no_text_is_its_own_error(serving: Serving) -> None:
    async with FlowClient(serving.url, lambda: None) as client:  # type: ignore[arg-type,return-value]
        with pytest.raises(FlowClientError) as failed:
            await client.state(FLOW, deadline=0.2)
        assert (failed.value.code, failed.value.retryable) == ("TOKEN_UNAVAILABLE", True)
        assert "NoneType" in failed.value.message


async def test_a_service_follows_another_user(serving: Serving, user: str) -> None:
    async with (
        client_of(serving, f"svc-{user}", "flow:service") as service,
        client_of(serving, user) as client,
    ):
        other = service.follow(FLOW, user_id=user)
        own = service.follow(FLOW)
        assert (await anext(other), await anext(own)) == (None, None)
        await client.start(FLOW)
        await read(other, at_revision(0))
        await service.transition(FLOW, "start", user_id=user)
        (shown,) = await read(other, at_revision(1))
        assert (shown.user_id, shown.actor) == (user, f"svc-{user}")
        assert (own.state, own.stats.gaps) == (None, 0)
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await anext(client.follow(FLOW, user_id=f"svc-{user}"))


async def test_an_administrator_watches_a_flow_also_by_a_new_connection(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    async with (
        client_of(serving, "root", "flow:admin", url=proxy.url) as root,
        client_of(serving, user) as client,
    ):
        updates = root.watch(FLOW)
        await updates.ready()
        await client.start(FLOW)
        mine = await read(updates, lambda u: u.user_id == user)
        last = mine[-1]
        assert (last.flow_id, last.kind, last.state.revision) == (FLOW, "started", 0)
        proxy.cut()
        # When it watches again cannot be seen from here: changes go on until one is delivered.
        found = asyncio.create_task(read(updates, lambda u: u.user_id == user and u.kind == "reset"))
        async with asyncio.timeout(20):
            while not found.done():
                await client.reset(FLOW)
        assert (await found)[-1].state.step == "welcome"
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await client.watch(FLOW).ready()


async def test_presence_names_clients_users_and_devices(serving: Serving, user: str) -> None:
    async with (
        client_of(serving, "root", "flow:admin") as root,
        client_of(serving, user, device="laptop") as laptop,
        client_of(serving, user) as phone,
    ):
        watched, first, second = root.watch(FLOW), laptop.follow(FLOW), phone.follow(FLOW)
        await asyncio.gather(watched.ready(), first.ready(), second.ready())
        present = await laptop.presence(FLOW)
        assert {client.device for client in present} == {"laptop", ""}
        assert {client.user_id for client in present} == {user}
        assert len({client.client_id for client in present}) == 2
        assert {client.client_id for client in present} <= {c.client_id for c in await root.presence(FLOW)}
        await second.aclose()
        with pytest.raises(FlowClientError, match="INVALID_REQUEST"):
            await phone.presence(FLOW)


async def test_close_ends_iterators_and_requests_and_leaves_no_task(
    serving: Serving, user: str, proxy: Proxy
) -> None:
    before = asyncio.all_tasks()
    client = client_of(serving, user, url=proxy.url)
    client.open()
    states = client.follow(FLOW)
    await states.ready()
    own = asyncio.all_tasks() - before
    assert own
    collected = asyncio.create_task(_all(states))
    proxy.closed = True
    proxy.cut()
    waiting = asyncio.create_task(client.start(FLOW))
    await asyncio.sleep(0)
    await client.close()
    assert await collected == [None]
    with pytest.raises(FlowClientError, match="CLOSED"):
        await waiting
    with pytest.raises(FlowClientError, match="CLOSED"):
        client.follow(FLOW)
    await client.close()
    proxies = {task for task in asyncio.all_tasks() if "Proxy" in repr(task.get_coro())}
    assert asyncio.all_tasks() - before - proxies == set()


async def test_a_reader_that_is_far_behind_misses_the_oldest_updates(serving: Serving, user: str) -> None:
    async with client_of(serving, user) as client:
        await client.start(FLOW)
        with suppress(FlowClientError):
            await client.transition(FLOW, "fly")
        states = client.follow(FLOW)
        await states.ready()
        (mailbox,) = client._subscriptions[FLOW, None, None]._mailboxes
        newest = await client.state(FLOW)
        for _ in range(1500):
            mailbox.put(newest)
        assert len([await anext(states) for _ in range(1000)]) == 1000
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(states)


async def _fail_at_the_first(states: Reader[Any]) -> None:
    async with states:
        async for _ in states:
            raise ZeroDivisionError


async def _all(states: Reader[Any]) -> list[Any]:
    return [state async for state in states]
