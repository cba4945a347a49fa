"""The contract of WebhookTransport."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime

import pytest

from app.contracts.ports.transports import WebhookAnswer, WebhookTransport
from app.outbound.webhooks import AiohttpWebhooks
from config.networks import parse_private_addresses
from tests.support.fake_transports import NO_ANSWER, FakeWebhooks
from tests.support.fakes import FakeClock
from tests.support.receivers import Receiver, answering, integration_at, receiving
from tests.support.samples import T0

PORTS = (WebhookTransport,)
NOW = T0.replace(microsecond=0)
BODY = b'{"id":"evt_1"}'
REFUSED_URL = "http://127.0.0.2:1/hooks"


class Wired:
    """A transport, and what is at the other end of it."""

    def __init__(self, transport: WebhookTransport, receiver: Receiver | FakeWebhooks) -> None:
        self.transport = transport
        self._receiver = receiver

    def url(self, path: str = "/hooks") -> str:
        return self._receiver.url(path) if isinstance(self._receiver, Receiver) else f"https://h{path}"

    async def answer(self, answer: WebhookAnswer, path: str = "/hooks") -> None:
        """Answer so from now on; one without a status: the receiver does not run."""
        if isinstance(self._receiver, FakeWebhooks):
            self._receiver.script(self.url(path), answer)
        elif answer.status is None:
            await self._receiver.stop()
        else:
            self._receiver.answers[path] = answering(answer.status, answer.body, answer.headers)

    def sent(self) -> list[tuple[str, bytes]]:
        """Return the ids and bodies that have arrived."""
        if isinstance(self._receiver, FakeWebhooks):
            return [(each.event_id, each.body) for each in self._receiver.sent]
        return [(each.headers["webhook-id"], each.body) for each in self._receiver.requests]


@pytest.fixture(params=["fake", "http"])
async def wired(request: pytest.FixtureRequest) -> AsyncIterator[Wired]:
    if request.param == "fake":
        fake = FakeWebhooks()
        fake.refused[REFUSED_URL] = "url must not be that"
        yield Wired(fake, fake)
        return
    transport = AiohttpWebhooks(parse_private_addresses("127.0.0.1"), FakeClock(NOW))
    async with receiving() as receiver:
        yield Wired(transport, receiver)
        await transport.close()


async def test_an_event_is_sent_as_it_is_and_answered(wired: Wired) -> None:
    answered = WebhookAnswer(
        status=200, headers={"webhook-delivery": "abort-message"}, body=b'{"transition":"pay"}'
    )
    await wired.answer(answered)
    found = await wired.transport.send(integration_at(wired.url()), "evt_1", BODY)
    assert (found.status, found.body, found.truncated) == (200, answered.body, False)
    assert found.headers["webhook-delivery"] == "abort-message"
    assert (found.failure, found.error, found.retry_after) == (None, "", None)
    assert wired.sent() == [("evt_1", BODY)]


@pytest.mark.parametrize("status", [200, 204, 301, 307, 400, 401, 404, 410, 429, 500, 502, 503, 504])
async def test_any_status_is_an_answer(wired: Wired, status: int) -> None:
    await wired.answer(WebhookAnswer(status=status, headers={"location": REFUSED_URL}))
    found = await wired.transport.send(integration_at(wired.url()), "evt_1", BODY)
    assert (found.status, found.failure, found.error) == (status, None, "")
    assert len(wired.sent()) == 1, "neither repeated nor redirected"


@pytest.mark.parametrize("text", ["90", format_datetime(NOW + timedelta(seconds=90), usegmt=True)])
async def test_the_seconds_to_wait_for(wired: Wired, text: str) -> None:
    await wired.answer(WebhookAnswer(status=503, headers={"retry-after": text}, retry_after=90.0))
    found = await wired.transport.send(integration_at(wired.url()), "evt_1", BODY)
    assert (found.status, found.retry_after) == (503, 90.0)


async def test_a_receiver_that_does_not_run_has_failed(wired: Wired) -> None:
    await wired.answer(NO_ANSWER)
    found = await wired.transport.send(integration_at(wired.url()), "evt_1", BODY)
    assert (found.status, found.failure) == (None, "receiver")
    assert found.error == NO_ANSWER.error


async def test_a_refused_address_is_refused_when_saved_and_when_sent(wired: Wired) -> None:
    assert wired.transport.address_fault(wired.url()) is None
    fault = wired.transport.address_fault(REFUSED_URL)
    assert fault is not None
    found = await wired.transport.send(integration_at(REFUSED_URL), "evt_1", BODY)
    assert (found.status, found.failure, found.error) == (None, "refused_address", fault)
    assert wired.sent() == []


async def test_requests_run_beside_each_other_each_with_its_answer(wired: Wired) -> None:
    statuses = {f"/{status}": status for status in range(400, 420)}
    for path, status in statuses.items():
        await wired.answer(WebhookAnswer(status=status), path)
    found = await asyncio.gather(
        *(
            wired.transport.send(integration_at(wired.url(path), alias=f"a{status}"), f"evt_{status}", BODY)
            for path, status in statuses.items()
        )
    )
    assert [each.status for each in found] == list(statuses.values())
    assert sorted(wired.sent()) == [(f"evt_{status}", BODY) for status in statuses.values()]


async def test_closing_twice_is_harmless(wired: Wired) -> None:
    await wired.transport.send(integration_at(wired.url()), "evt_1", BODY)
    await wired.transport.close()
    await wired.transport.close()
