"""Programs that are services, against a server that fails, and a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from redis.asyncio import Redis

from app.process.server_process import free_port
from realtime.redis.streams import GROUP, RedisEventStreams, stream_key
from realtime.service_handlers import ServiceProgram, StepEntered, Transition, api, service_handlers
from tests.support.faults import RedisServer


class FlowServer:
    """The routes of the server that a service uses, with deliveries and waiting states of the test."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[tuple[str, str, Any, dict[str, str]]] = []
        """The idempotency key, the path, the payload and the query of each answer."""
        self.statuses: list[int] = []
        """The statuses of the next answers; 200 when there are no more."""
        self.deliveries: list[dict[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []
        self.state: dict[str, Any] | None = None
        self.positions: list[int] = []
        """The positions from which deliveries were read."""
        self.unauthorized = 0
        self._changed = asyncio.Event()

    async def until(self, holds: Callable[["FlowServer"], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds(self):
                self._changed.clear()
                await self._changed.wait()

    async def run_transition(self, request: web.Request) -> web.Response:
        body = await request.json()
        key = request.headers["Idempotency-Key"]
        self.answers.append((key, request.path, body.get("payload"), dict(request.query)))
        self._changed.set()
        status = self.statuses.pop(0) if self.statuses else 200
        return web.json_response({"code": "SOME_CODE", "detail": "a reason"}, status=status)

    async def read_state(self, request: web.Request) -> web.Response:
        if self.state is None:
            return web.json_response({"code": "STATE_NOT_FOUND", "detail": ""}, status=404)
        return web.json_response(self.state)

    async def read_events(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer sfk_1":
            self.unauthorized += 1
            self._changed.set()
            return web.json_response({"code": "TOKEN_INVALID", "detail": "a reason"}, status=401)
        after, limit = int(request.query["after"]), int(request.query["limit"])
        self.positions.append(after)
        self._changed.set()
        items = self.deliveries[after : after + limit]
        return web.json_response({"items": items, "next": after + len(items), "complete": True})

    async def read_pending(self, request: web.Request) -> web.Response:
        start = int(request.query.get("after", 0))
        rest = {"next": str(start + 1)} if start + 1 < len(self.waiting) else {}
        return web.json_response({"items": self.waiting[start : start + 1], "complete": True, **rest})


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FlowServer]:
    monkeypatch.setattr(api, "MIN_RETRY_SECONDS", 0.01)
    server = FlowServer()
    application = web.Application()
    application.router.add_post("/api/flow/{flow}/transition/{transition}", server.run_transition)
    application.router.add_get("/api/flow/{flow}/state", server.read_state)
    application.router.add_get("/api/services/payment/events", server.read_events)
    application.router.add_get("/api/services/payment/pending", server.read_pending)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def event(number: int, user: str = "ada", **data: Any) -> dict[str, Any]:
    """Return the event of a user's state that entered the step of the service."""
    data = {"flowId": "checkout", "userId": user, "step": "pay", "epoch": "e", "revision": number, **data}
    return {"id": f"evt_{number}", "type": "flow.step.entered", "data": data}


def delivery(number: int, user: str = "ada") -> dict[str, Any]:
    return {
        "sequence": number,
        "id": f"evt_{number}",
        "type": "flow.step.entered",
        "event": event(number, user),
    }


class Paying:
    """A running program with a handler of one step; the handler fails as often as ``failing`` says."""

    def __init__(self, program: ServiceProgram, **failing: int) -> None:
        self.program = program
        self.received: list[str] = []
        self.failing = failing
        program.step("checkout", "pay")(self._pay)

    async def _pay(self, entered: StepEntered) -> Transition | None:
        self.received.append(entered.id)
        if self.failing.get(entered.id, 0):
            self.failing[entered.id] -= 1
            raise RuntimeError("as the test wants")
        return Transition("paid", {"receipt": entered.user_id})

    async def __aenter__(self) -> "Paying":
        await self.program.__aenter__()
        self._task = asyncio.create_task(self.program.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.program.__aexit__()


def polling(server: FlowServer, key: str = "sfk_1", **options: Any) -> ServiceProgram:
    return service_handlers("payment", url=server.url, api_key=key, idle_seconds=0.01, **options)


async def test_deliveries_are_answered_and_the_position_is_remembered(
    server: FlowServer, tmp_path: Path
) -> None:
    server.deliveries = [delivery(n, f"user{n % 3}") for n in range(1, 251)]
    position = tmp_path / "position"
    async with Paying(polling(server, position=position)) as paying:
        await server.until(lambda s: 250 in s.positions)
    assert len(server.answers) == len(set(paying.received)) == 250
    assert (
        "evt_7",
        "/api/flow/checkout/transition/paid",
        {"receipt": "user1"},
        {"userId": "user1"},
    ) in server.answers
    assert position.read_text() == "250"
    server.deliveries.append(delivery(251))
    server.positions.clear()
    async with Paying(polling(server, position=position)) as later:
        await server.until(lambda s: 251 in s.positions)
    assert (server.positions[0], later.received) == (250, ["evt_251"])


@pytest.mark.expected_logs("event handler failed")
async def test_a_delivery_whose_handler_fails_holds_its_state_and_the_position(
    server: FlowServer, tmp_path: Path
) -> None:
    server.deliveries = [delivery(1), delivery(2), delivery(3, "bob")]
    async with Paying(polling(server, position=tmp_path / "position"), evt_1=2) as paying:
        await server.until(lambda s: 3 in s.positions)
    assert [each for each in paying.received if each != "evt_3"] == ["evt_1"] * 3 + ["evt_2"]
    assert paying.received.index("evt_3") < paying.received.index("evt_2")
    assert set(server.positions) == {0, 3}


@pytest.mark.expected_logs("delivery without an event")
async def test_a_delivery_whose_event_is_gone_is_passed_over(server: FlowServer, tmp_path: Path) -> None:
    server.deliveries = [{"sequence": 1, "id": "evt_1", "type": "flow.reset", "gone": True}, delivery(2)]
    async with Paying(polling(server, position=tmp_path / "position")) as paying:
        await server.until(lambda s: 2 in s.positions)
    assert paying.received == ["evt_2"]


async def test_waiting_states_are_handled_once_until_they_change(server: FlowServer) -> None:
    state = {"flow": "checkout", "userId": "ada", "step": "pay", "epoch": "e", "revision": 1, "since": "s"}
    server.waiting = [state, {**state, "userId": "bob", "entityId": "order-1"}]
    async with Paying(polling(server)) as paying:
        await server.until(lambda s: len(s.answers) >= 4)
        assert len(paying.received) == 2, "the answers are repeated, the handlers are not"
        server.waiting[0] = {**state, "revision": 5}
        await server.until(lambda s: len({each[0] for each in s.answers}) == 3)
    assert len(paying.received) == 3
    assert {"userId": "bob", "entityId": "order-1"} in [each[3] for each in server.answers]


@pytest.mark.expected_logs("event handler failed")
async def test_a_waiting_state_whose_handler_fails_is_handled_later(server: FlowServer) -> None:
    state = {"flow": "checkout", "userId": "ada", "step": "pay", "epoch": "e", "revision": 1, "since": "s"}
    program = polling(server)
    paying = Paying(program)
    failures = 2

    @program.step("checkout", "ship")
    async def ship(entered: StepEntered) -> Transition:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise RuntimeError("as the test wants")
        return Transition("shipped")

    server.waiting = [{**state, "step": "ship", "userId": "bob"}, state]
    async with paying:
        await server.until(lambda s: any("shipped" in each[1] for each in s.answers))
    assert failures == -1


@pytest.mark.expected_logs("polling failed: TOKEN_INVALID: HTTP status 401: a reason")
async def test_a_refused_key_is_reported_and_polling_goes_on(server: FlowServer, tmp_path: Path) -> None:
    async with Paying(polling(server, key="sfk_0", position=tmp_path / "position")):
        await server.until(lambda s: s.unauthorized >= 3)
    assert server.positions == []


async def test_an_address_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ATTEMPTS", 1)
    address = f"http://127.0.0.1:{free_port()}"
    async with api.ServiceApi(address, "payment", "sfk_1") as calls:
        with pytest.raises(
            api.ServiceApiError, match=f"^UNREACHABLE: {address} cannot be reached: Cannot connect"
        ):
            await calls.pending(None, 1)


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    redis = RedisServer()
    yield redis
    redis.kill()


async def append(redis: RedisServer, *events: dict[str, Any]) -> None:
    streams = RedisEventStreams(redis.url, "server_flow")
    await streams.append("payment", [(each["id"], msgspec.json.encode(each)) for each in events])
    await streams.close()


def streaming(server: FlowServer, redis: RedisServer) -> ServiceProgram:
    return service_handlers(
        "payment", transport="stream", redis_url=redis.url, url=server.url, api_key="sfk_1",
        consumer_options={"min_retry_seconds": 0.02},
    )  # fmt: skip


async def pending(redis: RedisServer) -> int:
    client = Redis(port=redis.port)
    found: Any = await client.xpending(stream_key("server_flow", "payment"), GROUP)
    await client.aclose()
    return int(found["pending"])


@pytest.mark.expected_logs("event handler failed")
async def test_an_answer_that_the_server_cannot_take_is_sent_again_without_the_handler(
    server: FlowServer, redis: RedisServer
) -> None:
    server.statuses = [503] * (api.ATTEMPTS + 1)
    await append(redis, event(1))
    async with Paying(streaming(server, redis)) as paying:
        await server.until(lambda s: len(s.answers) == api.ATTEMPTS + 2)
        while await pending(redis):
            await asyncio.sleep(0.02)  # Redis announces no acknowledgement
    assert paying.received == ["evt_1"]
    assert {each[0] for each in server.answers} == {"evt_1"}, "as one request"


@pytest.mark.expected_logs("answer refused: paid to the event evt_1: SOME_CODE: HTTP status 409: a reason")
async def test_an_answer_that_the_flow_refuses_is_not_repeated(
    server: FlowServer, redis: RedisServer
) -> None:
    server.statuses = [409]
    await append(redis, event(1), event(2))
    async with Paying(streaming(server, redis)):
        await server.until(lambda s: len(s.answers) == 2)
        while await pending(redis):
            await asyncio.sleep(0.02)
    assert [each[0] for each in server.answers] == ["evt_1", "evt_2"]


@pytest.mark.expected_logs(
    "event handler failed", "answer refused: paid to the event evt_1: SOME_CODE: HTTP status 403: a reason"
)
async def test_an_answer_without_permission_is_repeated_while_the_state_waits(
    server: FlowServer, redis: RedisServer
) -> None:
    server.statuses = [403] * 1000
    server.state = {"epoch": "e", "revision": 1}
    await append(redis, event(1))
    async with Paying(streaming(server, redis)):
        await server.until(lambda s: len(s.answers) == 2)
        assert await pending(redis) == 1
        server.state = {"epoch": "e", "revision": 2}
        while await pending(redis):
            await asyncio.sleep(0.02)
    assert {each[0] for each in server.answers} == {"evt_1"}


async def test_the_state_of_an_event_without_data_is_read(server: FlowServer, redis: RedisServer) -> None:
    server.state = {"epoch": "e", "revision": 2, "step": "pay", "payload": {}}
    thin = [{"flowId": "checkout", "userId": "ada", "epoch": "e", "revision": n} for n in (1, 2)]
    await append(redis, {**event(1), "data": thin[0]}, {**event(2), "data": thin[1]})
    async with Paying(streaming(server, redis)) as paying:
        await server.until(lambda s: len(s.answers) == 1)
    assert paying.received == ["evt_2"]
