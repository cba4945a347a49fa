"""Origins of pages: their spelling in the settings, and which Socket.IO accepts."""

import logging
from typing import Any

import pytest

from app.kit.origins import own_origins
from config.settings import SettingsError, load_settings
from realtime.gateway.bounded_server import BoundedServer


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("HTTPS://App.Example.ORG", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://app.example.org:80", "http://app.example.org"),
        ("http://app.example.org:443", "http://app.example.org:443"),
        ("http://localhost:05173", "http://localhost:5173"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://[2001:DB8::1]:443", "https://[2001:db8::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("*", "*"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(
    monkeypatch: pytest.MonkeyPatch, given: str, origin: str
) -> None:
    monkeypatch.setenv("FLOW_CORS_ORIGINS", given)
    assert load_settings().cors_origins == [origin]


@pytest.mark.parametrize(
    "given",
    [
        "https://*.example.org",
        "https://*",
        "*.example.org",
        "https://app.example.org:*",
        "https://app.example.org/path",
        "https://app.example.org/",
        "https://app.example.org?x",
        "https://app.example.org#x",
        "https://app.example.org?",
        "https://ada@app.example.org",
        "https://app.example.org:",
        "https://app.example.org:99999",
        "https://app.example.org:x",
        "https://",
        "https://a b",
        "https://[::1",
        "app.example.org",
        "ftp://app.example.org",
        "null",
    ],
)
def test_an_origin_that_cannot_match_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("FLOW_CORS_ORIGINS", given)
    with pytest.raises(SettingsError, match="FLOW_CORS_ORIGINS: must be origins such as"):
        load_settings()


def test_own_origins_are_those_of_the_request_and_of_its_proxy() -> None:
    headers = {
        "host": "flow.internal:443",
        "x-forwarded-host": "Flow.example, x",
        "x-forwarded-proto": "https",
    }
    assert own_origins("ws", headers.get) == {"http://flow.internal:443", "https://flow.example"}
    assert own_origins("wss", {"host": "flow.example:443"}.get) == {"https://flow.example"}
    assert own_origins("http", lambda _: None) == set()


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"forwarded": "for=1.2.3.4;proto=https;host=flow.example"}, "https://flow.example"),
        (
            {"forwarded": 'Host="flow.example:8443"; Proto=HTTPS, for=2.2.2.2;host=x'},
            "https://flow.example:8443",
        ),
        ({"forwarded": "for=1.2.3.4;proto=https"}, "https://inner"),
        ({"x-forwarded-proto": "https", "x-forwarded-port": "8443"}, "https://inner:8443"),
        ({"x-forwarded-proto": "https", "x-forwarded-port": "443, 80"}, "https://inner"),
        ({"x-forwarded-host": "flow.example:81", "x-forwarded-port": "8443"}, "http://flow.example:81"),
    ],
)
def test_proxies_say_the_origin_in_several_ways(headers: dict[str, str], origin: str) -> None:
    assert own_origins("ws", {"host": "inner", **headers}.get) >= {origin}


@pytest.mark.parametrize("value", ["", ";", "host", "host=", "proto=javascript;host=x y", ",", '"'])
def test_a_malformed_forwarded_header_says_nothing(value: str) -> None:
    headers = {"host": "inner", "forwarded": value, "x-forwarded-port": "99999"}
    assert own_origins("ws", headers.get) == {"http://inner"}


async def answer(server: BoundedServer, **environ: str) -> Any:
    """The status with which Engine.IO answers a connection."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/socket.io/",
        "raw_path": b"/socket.io/",
        "query_string": b"EIO=4&transport=polling",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in environ.items()],
    }
    await server.handle_request(scope, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize("listed", [[], ["https://app.example"]])
@pytest.mark.expected_logs("origin refused")
async def test_socket_io_accepts_its_own_origin_and_those_of_the_settings(
    listed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "engineio")  # as in the service
    server = BoundedServer(async_mode="asgi", transports=["polling"], allowed_origins=listed)
    assert (await answer(server, host="flow.example", origin="http://flow.example"))[0] == 200
    behind = {"host": "10.0.0.1:8000", "x_forwarded_host": "flow.example", "x_forwarded_proto": "https"}
    assert (await answer(server, origin="https://flow.example", **behind))[0] == 200
    assert (await answer(server, host="flow.example"))[0] == 200
    allowed = await answer(server, host="flow.example", origin="https://app.example")
    assert (allowed[0] == 200) == bool(listed)
    status, text = await answer(server, host="flow.example", origin="https://other.example")
    assert status == 400
    assert "add it to FLOW_CORS_ORIGINS" in text
    await server.shutdown()
