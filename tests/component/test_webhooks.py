"""Webhooks to real servers: well, slow, broken and hostile ones."""

import asyncio
import errno
import gzip
import json
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks import Webhook, WebhookVerificationError

from app.contracts.ports.transports import MAX_EVENT_BYTES, WebhookAnswer
from app.kit.clock import SystemClock
from app.outbound.webhook_client import MAX_ANSWER_BYTES, MAX_CONNECTIONS_PER_HOST
from app.outbound.webhooks import AiohttpWebhooks
from config.networks import parse_private_addresses
from tests.support.certificates import write_certificate
from tests.support.fakes import FakeClock
from tests.support.log_events import LogEvents
from tests.support.receivers import (
    EXPIRED_SECRET,
    OLDER_SECRET,
    SECRET,
    NamedAddresses,
    Receiver,
    answering,
    integration_at,
    raw_answer,
    raw_server,
    read_request,
    receiving,
    rotated_secrets,
)
from tests.support.samples import T0

EVENT = {
    "specversion": "1.0",
    "id": "evt_0190a1b2",
    "source": "/flows/checkout",
    "type": "flow.step.entered",
    "time": "2026-11-27T12:00:00.123Z",
    "datacontenttype": "application/json",
    "data": {"flowId": "checkout", "userId": "zoë", "payload": {"n": 1.5}},
}
BODY = json.dumps(EVENT, ensure_ascii=False, separators=(",", ":")).encode()

NOT_ALLOWED = "the host name leads to an address that is not allowed"
NO_HTTP = "the receiver did not answer in valid HTTP"
ENDED_EARLY = "the answer of the receiver ended early"
CLOSED = "the receiver closed the connection without an answer"


@asynccontextmanager
async def webhooks(private: str = "127.0.0.0/8", **options: Any) -> AsyncIterator[AiohttpWebhooks]:
    transport = AiohttpWebhooks(
        parse_private_addresses(private), options.pop("clock", SystemClock()), **options
    )
    yield transport
    await transport.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def send(url: str, body: bytes = BODY, private: str = "127.0.0.0/8", **options: Any) -> WebhookAnswer:
    """Send an event by a transport of its own."""
    async with webhooks(private, **options) as transport:
        return await transport.send(integration_at(url), EVENT["id"], body)  # type: ignore[arg-type]


def assert_failed(answer: WebhookAnswer, failure: str, error: str) -> None:
    assert (answer.status, answer.failure, answer.error) == (None, failure, error)
    assert "127." not in answer.error
    assert "Errno" not in answer.error


async def test_the_libraries_of_both_specifications_accept_what_is_sent(receiver: Receiver) -> None:
    assert (await send(receiver.url("/hooks?of=us"))).status == 204
    (request,) = receiver.requests
    Webhook(SECRET).verify(request.body, dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(OLDER_SECRET).verify(request.body, dict(request.headers))
    event = from_http_event(HTTPMessage(dict(request.headers), request.body))
    assert event.get_id() == EVENT["id"]
    assert event.get_type() == EVENT["type"]
    assert event.get_source() == EVENT["source"]
    assert event.get_data() == EVENT["data"]
    assert event.get_time() == datetime(2026, 11, 27, 12, 0, 0, 123000, UTC)
    assert request.headers.keys() == {
        *("host", "content-type", "content-length", "user-agent", "accept", "accept-encoding"),
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
    }
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"] == "server-flow"
    assert request.body == BODY


async def test_every_valid_secret_signs_and_the_newest_is_first(receiver: Receiver) -> None:
    clock = FakeClock(T0)
    async with webhooks(clock=clock) as transport:
        await transport.send(integration_at(receiver.url(), secrets=rotated_secrets()), "evt_1", BODY)
        clock.advance(days=1)
        await transport.send(integration_at(receiver.url(), secrets=rotated_secrets()), "evt_1", BODY)
    first, later = receiver.requests
    made = [Webhook(each).sign("evt_1", T0, BODY.decode()) for each in (SECRET, OLDER_SECRET, EXPIRED_SECRET)]
    assert first.headers["webhook-signature"] == " ".join(made[:2])
    assert first.headers["webhook-timestamp"] == str(int(T0.timestamp()))
    assert " " not in later.headers["webhook-signature"]
    assert later.headers["webhook-timestamp"] == str(int(T0.timestamp()) + 86_400)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_not_followed(receiver: Receiver, status: int) -> None:
    async with receiving() as other:
        receiver.answers["/hooks"] = answering(status, headers={"Location": other.url()})
        answer = await send(receiver.url())
        assert (answer.status, answer.failure) == (status, None)
        assert other.requests == []
        assert len(receiver.requests) == 1


async def test_a_private_address_is_refused_before_anything_is_sent(receiver: Receiver) -> None:
    names = NamedAddresses({"hooks.example.com": ["127.0.0.1"], "two.example.com": ["10.0.0.1", "::1"]})
    for host, error in [
        ("127.0.0.1", "url must not be that of an address that is not public, unless the setting "),
        ("localhost", "url must not be that of this machine, unless the setting "),
        ("hooks.example.com", NOT_ALLOWED),
        ("two.example.com", NOT_ALLOWED),
    ]:
        suffix = "FLOW_SERVICES_PRIVATE_ADDRESSES allows it" if error.endswith("setting ") else ""
        answer = await send(f"https://{host}:{receiver.port}/", private="false", resolver=names)
        assert_failed(answer, "refused_address", error + suffix)
    assert receiver.requests == []
    assert names.resolved == ["hooks.example.com", "two.example.com"]


@pytest.mark.parametrize("addresses", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
async def test_of_a_name_with_two_addresses_only_the_allowed_one_is_reached(
    receiver: Receiver, addresses: list[str]
) -> None:
    async with receiving("127.0.0.2", receiver.port) as allowed:
        names = NamedAddresses({"hooks.example.com": addresses})
        url = f"http://hooks.example.com:{receiver.port}/"
        assert (await send(url, private="127.0.0.2", resolver=names)).status == 204
        assert (len(receiver.requests), len(allowed.requests)) == (0, 1)
        assert allowed.requests[0].headers["host"] == f"hooks.example.com:{receiver.port}"
    answer = await send(url, private="127.0.0.2", resolver=names)
    assert_failed(answer, "refused_address", NOT_ALLOWED + " without https")
    assert receiver.requests == []


async def test_a_refused_address_beside_one_that_was_reached_is_not_its_failure() -> None:
    names = NamedAddresses({"hooks.example.com": ["10.0.0.1", "127.0.0.1"]})
    async with raw_server(raw_answer(b"")) as url:
        answer = await send(url.replace("127.0.0.1", "hooks.example.com"), resolver=names)
    assert_failed(answer, "receiver", CLOSED)


async def test_names_are_resolved_by_the_system(receiver: Receiver) -> None:
    url = f"http://localhost:{receiver.port}/"
    assert (await send(url, private="127.0.0.1,::1")).status == 204


async def test_plain_http_reaches_no_public_address() -> None:
    names = NamedAddresses({"hooks.example.com": ["93.184.215.14"]})
    answer = await send("http://hooks.example.com/", private="true", resolver=names)
    assert_failed(answer, "refused_address", NOT_ALLOWED + " without https")


async def test_neither_a_proxy_nor_passwords_of_the_environment_are_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login hidden password hidden\n")
    netrc.chmod(0o600)
    async with receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        monkeypatch.setenv("NETRC", str(netrc))
        assert (await send(receiver.url())).status == 204
        assert proxy.requests == []
    assert "authorization" not in receiver.requests[0].headers


async def test_connections_are_used_again_without_cookies(receiver: Receiver) -> None:
    receiver.answers["/hooks"] = answering(200, b"{}", {"Set-Cookie": "session=1; Path=/"})
    async with webhooks() as transport:
        for alias in ("a", "b"):
            await transport.send(integration_at(receiver.url(), alias), "evt_1", BODY)
    assert len({each.peer for each in receiver.requests}) == 1
    assert all("cookie" not in each.headers for each in receiver.requests)


async def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    requests: list[int] = []
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        here = connections
        while await read_request(reader):
            requests.append(here)
            if len(requests) == 2:
                return
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_server(talk) as url, webhooks() as transport:
        for _ in range(3):
            assert (await transport.send(integration_at(url), "evt_1", BODY)).status == 204
    assert requests == [1, 1, 2, 2]


async def test_a_new_connection_that_is_closed_fails_at_once() -> None:
    requests = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))

    async with raw_server(talk) as url:
        answer = await send(url)
    assert_failed(answer, "receiver", CLOSED)
    assert len(requests) == 1


async def test_a_reset_is_a_failure_of_the_receiver() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.transport.abort()

    async with raw_server(talk) as url:
        answer = await send(url)
    assert_failed(answer, "receiver", CLOSED)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", NO_HTTP),
        (b"HTTP/1.1 abc\r\n\r\n", NO_HTTP),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", NO_HTTP),
        (
            b"HTTP/1.1 200 OK\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
            NO_HTTP,
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n", NO_HTTP),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", ENDED_EARLY),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            ENDED_EARLY,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            NO_HTTP,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-", CLOSED),
        (b"", CLOSED),
    ],
)
async def test_an_answer_that_is_no_http(data: bytes, error: str) -> None:
    async with raw_server(raw_answer(data)) as url:
        assert_failed(await send(url), "receiver", error)


async def test_a_receiver_that_does_not_answer_is_given_up() -> None:
    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()

    async with raw_server(talk) as url:
        answer = await send(url, timeout_seconds=0.2)
    assert_failed(answer, "receiver", "the receiver did not answer within 0.2 seconds")


async def test_a_receiver_that_reads_nothing_is_given_up() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with raw_server(talk) as url:
        answer = await send(url, b"x" * MAX_EVENT_BYTES, timeout_seconds=0.2)
    assert_failed(answer, "receiver", "the receiver did not answer within 0.2 seconds")


@pytest.mark.parametrize(
    ("head", "drop", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", "the receiver did not answer within 0.3 seconds"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x", "the receiver answered 200, but did not end within 0.3 seconds"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"", "the receiver did not answer within 0.3 seconds"),
    ],
)
async def test_an_answer_that_drips_is_given_up(head: bytes, drop: bytes, error: str) -> None:
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head)
        try:
            while not reader.at_eof():
                writer.write(drop)
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await reader.read(1)
        finally:
            ended.set()

    async with raw_server(talk) as url:
        assert_failed(await send(url, timeout_seconds=0.3), "receiver", error)
        await ended.wait()


async def test_of_an_endless_answer_the_beginning_is_read() -> None:
    written = 0
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nRetry-After: 5\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                written += 65_536
                await writer.drain()
        finally:
            ended.set()

    async with raw_server(talk) as url:
        answer = await send(url)
        await ended.wait()
    assert (answer.status, answer.failure, answer.truncated) == (200, None, True)
    assert answer.body == b"x" * MAX_ANSWER_BYTES
    assert answer.retry_after == 5


@pytest.mark.parametrize("size", [0, 1, MAX_ANSWER_BYTES - 1, MAX_ANSWER_BYTES])
async def test_an_answer_within_the_limit_is_whole_and_its_connection_stays(
    receiver: Receiver, size: int
) -> None:
    receiver.answers["/hooks"] = answering(200, b"x" * size)
    async with webhooks() as transport:
        for _ in range(2):
            answer = await transport.send(integration_at(receiver.url()), "evt_1", BODY)
            assert (answer.status, len(answer.body), answer.truncated) == (200, size, False)
    assert len({each.peer for each in receiver.requests}) == 1


async def test_a_packed_answer_is_not_unpacked(receiver: Receiver) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    receiver.answers["/hooks"] = answering(200, bomb, {"Content-Encoding": "gzip"})
    async with webhooks() as transport:
        await transport.send(integration_at(receiver.url("/other")), "evt_1", BODY)  # imports what it needs
        tracemalloc.start()
        answer = await transport.send(integration_at(receiver.url()), "evt_1", BODY)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (answer.status, answer.failure, answer.body, answer.truncated) == (200, None, b"", True)
    assert peak < 2_000_000


async def test_headers_that_are_not_ascii_are_left_out() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: \xff\xfe\r\nWebhook-Delivery: disable\r\n\r\n"
    async with raw_server(raw_answer(data)) as url:
        answer = await send(url)
    assert answer.headers == {"content-length": "0", "webhook-delivery": "disable"}


async def test_a_name_that_is_not_known() -> None:
    answer = await send("https://hooks.example.com/", resolver=NamedAddresses({}))
    assert_failed(answer, "receiver", "the host name of the receiver is not known")


async def test_tls_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    pem, secret = write_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, secret)
    trusting = ssl.create_default_context(cafile=str(pem))
    names = NamedAddresses({"hooks.example.com": ["127.0.0.1"]})
    async with receiving(tls=context) as receiver:
        untrusted = "the TLS certificate of the receiver is not trusted"
        assert_failed(await send(receiver.url()), "receiver", untrusted)
        other_name = f"https://hooks.example.com:{receiver.port}/"
        assert_failed(await send(other_name, resolver=names, tls=trusting), "receiver", untrusted)
        assert receiver.requests == []
        assert (await send(receiver.url(), tls=trusting)).status == 204
    async with receiving() as plain:
        answer = await send(f"https://127.0.0.1:{plain.port}/")
        assert_failed(answer, "receiver", "there is no TLS connection to the receiver")


@pytest.mark.parametrize(
    ("members", "event_id", "body", "failure", "error"),
    [
        ({"url": None}, "evt_1", BODY, "internal", "the service has no url"),
        ({"secrets": ()}, "evt_1", BODY, "internal", "the service has no valid secret"),
        ({}, "evt.1", BODY, "internal", "the id of the event cannot be signed"),
        (
            *({}, "evt_1", bytes(MAX_EVENT_BYTES + 1), "too_large"),
            "the event has 262145 bytes, and 262144 are the limit",
        ),
    ],
)
async def test_failures_of_our_own_are_not_those_of_the_receiver(
    receiver: Receiver, members: dict[str, Any], event_id: str, body: bytes, failure: str, error: str
) -> None:
    integration = integration_at(**{"url": receiver.url()} | members)
    async with webhooks() as transport:
        assert_failed(await transport.send(integration, event_id, body), failure, error)
    assert receiver.requests == []


async def test_a_secret_that_cannot_be_read_is_not_shown(receiver: Receiver) -> None:
    (newest, *_) = rotated_secrets()[::-1]
    broken = type(newest)("s9", "whsec_hidden", T0)
    async with webhooks() as transport:
        integration = integration_at(receiver.url(), secrets=(newest, broken))
        answer = await transport.send(integration, "evt_1", BODY)
    assert_failed(answer, "internal", "a secret of the service cannot be read")


async def test_a_machine_without_resources_is_a_failure_of_our_own() -> None:
    names = NamedAddresses({"hooks.example.com": OSError(errno.EMFILE, "Too many open files")})
    answer = await send("https://hooks.example.com/", resolver=names)
    assert_failed(answer, "internal", "this machine has no resources for another connection")


@pytest.mark.expected_logs("webhook failed unexpectedly")
async def test_a_defect_is_logged_and_does_not_raise(log_events: LogEvents) -> None:
    names = NamedAddresses({"hooks.example.com": RuntimeError("hidden")})
    answer = await send("https://hooks.example.com/", resolver=names)
    assert_failed(answer, "internal", "the request could not be sent")
    (entry,) = log_events.named("webhook failed unexpectedly")
    assert (entry["service"], entry["error"]) == ("payment", "RuntimeError")
    assert "hidden" not in str(entry)


async def test_connections_to_one_host_are_bounded(receiver: Receiver) -> None:
    go_on = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.Response(status=204)

    receiver.answers["/hooks"] = answer
    count = MAX_CONNECTIONS_PER_HOST + 10
    async with webhooks() as transport:
        sending = [
            asyncio.create_task(transport.send(integration_at(receiver.url()), f"evt_{n}", BODY))
            for n in range(count)
        ]
        await receiver.received(MAX_CONNECTIONS_PER_HOST)
        go_on.set()
        answers = await asyncio.gather(*sending)
    assert {each.status for each in answers} == {204}
    assert receiver.peak == MAX_CONNECTIONS_PER_HOST
    assert len({each.peer for each in receiver.requests}) == MAX_CONNECTIONS_PER_HOST


async def test_a_cancelled_request_closes_its_connection(receiver: Receiver) -> None:
    cancelled = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    receiver.answers["/hooks"] = answer
    async with webhooks() as transport:
        task = asyncio.create_task(transport.send(integration_at(receiver.url()), "evt_1", BODY))
        await receiver.received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await cancelled.wait()
        assert (await transport.send(integration_at(receiver.url("/other")), "evt_2", BODY)).status == 204
