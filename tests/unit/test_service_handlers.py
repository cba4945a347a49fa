"""Handlers of a service: the choice of a handler, repetitions, webhooks, and events without data."""

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.outbound.webhook_signatures import SecretError, decode_secret, signature_headers
from realtime.consumer import StreamEvent
from realtime.service_handlers import (
    Handled,
    PositionFile,
    RecentEvents,
    ServiceHandlers,
    StepEntered,
    Transition,
    service_handlers,
)
from realtime.service_handlers.polling import event_of_waiting
from realtime.service_handlers.webhook import MAX_BODY_BYTES, WebhookReceiver
from tests.support.receivers import OLDER_SECRET, SECRET

PAID = Transition("paid", {"receipt": "R-1"})


def entered(event_id: str = "evt_1", step: str = "pay", **members: Any) -> StreamEvent:
    """Return the event of a state that entered a step."""
    data = {"flowId": "checkout", "userId": "ada", "step": step, "epoch": "e", "revision": 3, **members}
    return StreamEvent(id=event_id, type="flow.step.entered", data=data)


class Paying:
    """Handlers of one step, that record what they receive."""

    def __init__(self, handlers: ServiceHandlers) -> None:
        self.received: list[StepEntered] = []
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()
        handlers.step("checkout", "pay")(self._pay)

    async def _pay(self, event: StepEntered) -> Transition | None:
        self.received.append(event)
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("as the test wants")
        return PAID


async def test_a_step_has_its_handler() -> None:
    handlers = ServiceHandlers()
    paying = Paying(handlers)
    event = entered(entityId="order-1", payload={"sum": 5}, fromStep="cart", transition="order", actor="ada")
    assert await handlers.handle(event) == PAID
    assert paying.received == [
        StepEntered(
            id="evt_1", flow_id="checkout", user_id="ada", entity_id="order-1", step="pay", from_step="cart",
            transition="order", actor="ada", payload={"sum": 5}, epoch="e", revision=3,
        )
    ]  # fmt: skip
    assert await handlers.handle(entered("evt_2", "ship")) is None
    assert len(paying.received) == 1


async def test_a_type_has_its_handler_unless_the_step_has_one() -> None:
    handlers = ServiceHandlers()
    paying = Paying(handlers)
    seen: list[str] = []

    @handlers.event("flow.completed", "flow.step.entered")
    async def note(event: StreamEvent) -> None:
        seen.append(event.id)

    for event in (
        entered("evt_1"),
        entered("evt_2", "ship"),
        StreamEvent(id="evt_3", type="flow.completed", data={"flowId": "checkout", "userId": "ada"}),
        StreamEvent(id="evt_4", type="flow.reset", data={"flowId": "checkout", "userId": "ada"}),
    ):
        await handlers.handle(event)
    assert [each.id for each in paying.received] == ["evt_1"]
    assert seen == ["evt_2", "evt_3"]


def test_a_step_and_a_type_have_one_handler() -> None:
    handlers = ServiceHandlers()
    Paying(handlers)
    with pytest.raises(ValueError, match="pay of checkout"):
        Paying(handlers)

    async def note(_: StreamEvent) -> None: ...

    handlers.event("flow.reset")(note)
    with pytest.raises(ValueError, match=r"flow\.reset"):
        handlers.event("flow.reset")(note)


async def test_a_repeated_event_has_the_answer_of_the_first_one() -> None:
    handlers = ServiceHandlers()
    paying = Paying(handlers)
    paying.failures = 1
    with pytest.raises(RuntimeError):
        await handlers.handle(entered())
    assert [await handlers.handle(entered()) for _ in range(2)] == [PAID, PAID]
    assert len(paying.received) == 2, "once after the failure"


async def test_an_event_that_comes_twice_at_a_time_is_handled_once() -> None:
    handlers = ServiceHandlers()
    paying = Paying(handlers)
    paying.gate.clear()
    first = asyncio.create_task(handlers.handle(entered()))
    second = asyncio.create_task(handlers.handle(entered()))
    other = asyncio.create_task(handlers.handle(entered("evt_2")))
    while len(paying.received) < 2:
        await asyncio.sleep(0)
    first.cancel()
    paying.gate.set()
    assert [await second, await other] == [PAID, PAID]
    assert [each.id for each in paying.received] == ["evt_1", "evt_2"]


async def test_few_events_are_remembered() -> None:
    recent = RecentEvents(limit=2)
    for number in range(3):
        await recent.put(f"evt_{number}", Handled(Transition(str(number))))
    assert await recent.get("evt_0") is None
    assert await recent.get("evt_2") == Handled(Transition("2"))


async def test_the_state_of_an_event_without_data_is_read() -> None:
    states: dict[str, dict[str, Any]] = {"evt_1": {"step": "pay", "payload": {"sum": 7}, "revision": 3}}

    async def read(event: StreamEvent) -> dict[str, Any] | None:
        return states.get(event.id)

    handlers = ServiceHandlers(read_state=read)
    paying = Paying(handlers)
    data = {"flowId": "checkout", "userId": "ada"}
    for event_id in ("evt_1", "evt_2"):
        await handlers.handle(StreamEvent(id=event_id, type="flow.step.entered", data=data))
    assert [each.payload for each in paying.received] == [{"sum": 7}], "the second state has moved on"


def signed(event: StreamEvent, secret: str = SECRET, at: float = 0) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a webhook."""
    body = msgspec.json.encode({"id": event.id, "type": event.type, "data": event.data})
    return signature_headers([decode_secret(secret)], event.id, int(time.time() + at), body), body


async def test_a_webhook_is_answered_with_the_transition() -> None:
    handlers = ServiceHandlers()
    paying = Paying(handlers)
    receiver = WebhookReceiver(handlers, [SECRET, OLDER_SECRET])
    for secret in (SECRET, OLDER_SECRET):
        status, body = await receiver.receive(*signed(entered(), secret))
        assert (status, msgspec.json.decode(body)) == (200, {"transition": "paid", "payload": PAID.payload})
    assert len(paying.received) == 1
    assert await receiver.receive(*signed(entered("evt_2", "ship"))) == (200, b"{}")


@pytest.mark.expected_logs("event handler failed")
async def test_a_webhook_whose_handler_fails_is_sent_again() -> None:
    handlers = ServiceHandlers()
    Paying(handlers).failures = 1
    receiver = WebhookReceiver(handlers, [SECRET])
    assert [(await receiver.receive(*signed(entered())))[0] for _ in range(2)] == [500, 200]


@pytest.mark.expected_logs("webhook refused", "malformed webhook")
async def test_a_webhook_without_a_valid_signature_is_refused() -> None:
    handlers = ServiceHandlers()
    paying = Paying(handlers)
    receiver = WebhookReceiver(handlers, [SECRET])
    headers, body = signed(entered())
    refused = [
        (headers, body + b" "),
        signed(entered(), OLDER_SECRET),
        signed(entered(), at=-400),
        ({}, body),
        ({**headers, "webhook-id": "evt_2"}, body),
    ]
    assert [(await receiver.receive(*each))[0] for each in refused] == [401] * len(refused)
    no_event = b"[]"
    headers = signature_headers([decode_secret(SECRET)], "evt_1", int(time.time()), no_event)
    assert (await receiver.receive(headers, no_event))[0] == 400
    assert paying.received == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"transport": "webhook"}, "secret"),
        ({"transport": "stream", "url": "http://x", "api_key": "k"}, "redis_url"),
        ({"transport": "stream", "redis_url": "redis://x"}, "api_key"),
        ({"url": "http://x"}, "api_key"),
    ],
)
def test_a_program_says_what_it_lacks(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        service_handlers("payment", **options)


def test_a_malformed_secret_is_refused_at_the_start() -> None:
    with pytest.raises(SecretError):
        service_handlers("payment", transport="webhook", secret="password")


async def test_handlers_of_events_need_a_position() -> None:
    async with service_handlers("payment", url="http://127.0.0.1:1", api_key="k") as handlers:

        @handlers.event("flow.completed")
        async def note(_: StreamEvent) -> None: ...

        with pytest.raises(ValueError, match="position"):
            await handlers.run()


async def answered_by(application: Any, *messages: dict[str, Any], method: str = "POST") -> list[Any]:
    """Return what an ASGI application sends for a request."""
    sent: list[Any] = []
    rest = list(messages)
    headers = [(name.encode(), text.encode()) for name, text in signed(entered())[0].items()]

    async def receive() -> dict[str, Any]:
        return rest.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await application({"type": "http", "method": method, "headers": headers}, receive, send)
    return sent


async def test_the_asgi_application_reads_a_whole_body_up_to_its_limit() -> None:
    handlers = service_handlers("payment", transport="webhook", secret=SECRET)
    Paying(handlers)
    body = signed(entered())[1]
    parts = (
        {"type": "http.request", "body": body[:9], "more_body": True},
        {"type": "http.request", "body": body[9:]},
    )
    started, ended = await answered_by(handlers.asgi(), *parts)
    assert (started["status"], msgspec.json.decode(ended["body"])["transition"]) == (200, "paid")
    large = {"type": "http.request", "body": bytes(MAX_BODY_BYTES + 1), "more_body": True}
    assert (await answered_by(handlers.asgi(), large))[0]["status"] == 413
    assert (await answered_by(handlers.asgi(), method="GET"))[0]["status"] == 405
    assert await answered_by(handlers.asgi(), {"type": "http.disconnect"}) == []


async def test_a_position_is_stored_in_a_file(tmp_path: Path) -> None:
    position = PositionFile(tmp_path / "position")
    assert await position.load() == 0
    await position.save(17)
    assert await PositionFile(tmp_path / "position").load() == 17
    assert [each.name for each in tmp_path.iterdir()] == ["position"]


def test_a_waiting_state_has_the_same_id_until_it_changes() -> None:
    state = {"flow": "checkout", "userId": "ada", "step": "pay", "epoch": "e", "revision": 3, "since": "now"}
    event = event_of_waiting(state)
    assert (event.type, event.data["flowId"], event.state) == (
        "flow.step.entered",
        "checkout",
        ("checkout", "ada", None),
    )
    assert event_of_waiting({**state, "since": "later"}).id == event.id
    others = [
        event_of_waiting({**state, **change}).id
        for change in ({"revision": 4}, {"entityId": "a"}, {"userId": "b"})
    ]
    assert len({event.id, *others}) == 4
