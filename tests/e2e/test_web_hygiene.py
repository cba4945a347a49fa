"""Every answer protects the browser that gets it, and tells nobody about others."""

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app.http.application import all_endpoints
from app.http.edge import SECURITY_HEADERS
from app.http.endpoint import StateQuery
from app.http.routes.pages import PAGES
from tests.support.http import http_client
from tests.support.serving import Serving

FLOW = "user-onboarding"
MARKUP = "<script>alert(1)</script>"
ENDPOINTS = all_endpoints({})
SAMPLES = {"flow_id": FLOW, "version": "1", "earlier": "1", "later": "1"}


def address_of(path: str) -> str:
    """Return an address of a route."""
    return re.sub(r"\{(\w+?)(:path)?\}", lambda match: SAMPLES.get(match[1], "some-thing"), path)


def parse_policy(text: str) -> dict[str, list[str]]:
    """Parse a Content-Security-Policy."""
    directives = [part.split() for part in text.split(";") if part.strip()]
    names = [name for name, *_ in directives]
    assert len(set(names)) == len(names), "browsers ignore the second one"
    return {name: values for name, *values in directives}


def require_protected(answer: httpx.Response) -> None:
    """Fail unless an answer has every header once, and no cookie."""
    where = f"{answer.request.method} {answer.request.url} {answer.status_code}"
    for raw, value in SECURITY_HEADERS:
        name = raw.decode()
        found = answer.headers.get_list(name)
        assert len(found) == 1, (where, name, found)
        if name not in ("cache-control", "content-security-policy", "cross-origin-resource-policy"):
            assert found == [value.decode()], where
    policy = parse_policy(answer.headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"], where
    assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == ["'none'"], where
    sources = {source for values in policy.values() for source in values}
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:"} & sources, where
    assert "set-cookie" not in answer.headers, where
    assert "server" not in answer.headers, where
    is_public = answer.request.url.path.startswith("/static/") or answer.request.url.path in PAGES
    assert is_public or answer.headers["cache-control"] == "no-store", where


async def test_every_route_protects_browsers(serving: Serving, user: str) -> None:
    async with serving.http(user) as http, http_client(serving.url) as nobody:
        for endpoint in ENDPOINTS:
            for client in (http, nobody):
                async with client.stream(endpoint.method, address_of(endpoint.path)) as answer:
                    require_protected(answer)
        paths = ["/openapi.json", "/static/flow-client.js", "/static/nothing.js", "/nothing", "/socket.io/"]
        for path in [*paths, "/socket.io/?EIO=4&transport=polling", f"/{MARKUP}", *PAGES]:
            for method in ("GET", "HEAD", "OPTIONS", "PUT"):
                answer = await nobody.request(method, path)
                require_protected(answer)


async def test_pages_load_nothing_inline_and_nothing_from_elsewhere(serving: Serving) -> None:
    async with http_client(serving.url) as http:
        for path in PAGES:
            answer = await http.get(path, headers={"Host": "evil.example"})
            assert answer.headers["content-type"].startswith("text/html")
            policy = parse_policy(answer.headers["content-security-policy"])
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
            text = answer.text
            assert not re.search(r"<script(?![^>]*\bsrc=)", text)
            assert not re.search(r"<style|\sstyle\s*=|\son\w+\s*=|javascript:", text, re.IGNORECASE)
            loaded = re.findall(r"<(?:script|link|img)\b[^>]*?(?:src|href)=\"([^\"]*)\"", text)
            assert loaded
            assert all(address.startswith("/static/") for address in loaded)
            assert "evil.example" not in text


async def test_a_host_of_the_client_is_in_no_answer(serving: Serving, user: str) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    admin = serving.http(user, "flow:admin")
    async with admin as http:
        for path in ("/openapi.json", "/nothing", "/api/flows", f"/api/flow/{FLOW}/state", "//evil.example/"):
            answer = await http.get(path, headers={**headers, "X-Forwarded-Proto": "https"})
            shown = str(answer.headers.get("location", "")) + answer.text.replace(json.dumps(path)[1:-1], "")
            assert "evil.example" not in shown
            assert "strict-transport-security" not in answer.headers, "nobody said that this proxy is trusted"


async def test_markup_in_a_request_comes_back_as_data_alone(serving: Serving) -> None:
    async with http_client(serving.url) as http:
        for path in (
            f"/{MARKUP}",
            f"/static/{MARKUP}",
            f"/api/flow/{MARKUP}/state",
            f"/api/flows?limit={MARKUP}",
        ):
            answer = await http.get(path)
            assert answer.status_code in (401, 404)
            assert answer.headers["content-type"] == "application/problem+json"
        answer = await http.get("/socket.io/", params={"EIO": "4", "transport": MARKUP})
        assert "html" not in answer.headers["content-type"]
        assert MARKUP not in answer.text


async def test_a_stranger_learns_of_no_user_whether_it_exists(serving: Serving, user: str) -> None:
    async with serving.http(user) as owner:
        assert (await owner.post(f"/api/flow/{FLOW}/start", json={"payload": {"n": 1}})).status_code == 201
    differing = []
    async with serving.http(f"stranger-of-{user}") as http:
        for endpoint in ENDPOINTS:
            if not issubclass(endpoint.query, StateQuery) or endpoint.media_type == "text/event-stream":
                continue
            seen = []
            for owner_id in (user, f"nobody-{user}"[: len(user)]):
                answer = await http.request(
                    endpoint.method, address_of(endpoint.path), params={"userId": owner_id}
                )
                text = answer.text.replace(owner_id, "OWNER")
                seen.append((answer.status_code, text))
            if seen[0] != seen[1]:
                differing.append((endpoint.name, seen))
    assert differing == []


async def exchange(url: str, request: bytes) -> bytes:
    """Send bytes, and return everything until the connection ends."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Request-Id: smuggled\r\n\r\n"
POST = b"POST /api/flows HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 0\r\nContent-Length: 70\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 0x0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked\r\n\r\n0;\n\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
        POST + b"X-A: b\r\n Content-Length: 5\r\n\r\n" + SMUGGLED,
        POST + b"X-A: b\rX-B: c\r\n\r\n" + SMUGGLED,
        POST + b"X-A: b\x00c\r\n\r\n" + SMUGGLED,
        b"GET /livez HTTP/1.1\nHost: a\n\n" + SMUGGLED,
    ],
)
async def test_a_request_is_never_two(serving: Serving, request_bytes: bytes) -> None:
    answered = await exchange(serving.url, request_bytes)
    assert b"smuggled" not in answered.replace(b"x-request-id: smuggled-", b""), answered
    assert answered.count(b"HTTP/1.1 ") <= 1
    assert b"x-content-type-options: nosniff" in answered.lower()


async def test_a_header_of_a_request_adds_none_to_the_answer(serving: Serving) -> None:
    async with http_client(serving.url) as http:
        for given in ("a\tSet-Cookie: b", "a%0d%0aSet-Cookie: b", "é", "x" * 200, "a b"):
            answer = await http.get("/livez", headers={b"X-Request-Id": given.encode()})
            require_protected(answer)
            assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
        answer = await http.get("/nothing%0d%0aSet-Cookie:%20a=b")
        require_protected(answer)


@pytest.mark.expected_logs("origin refused", optional=True)
@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        (None, True),
        ("OWN", True),
        ("https://evil.example", False),
        ("null", False),
        ("OWN.evil.example", False),
        ("", True),
    ],
)
async def test_a_socket_is_opened_by_no_page_of_another_site(
    serving: Serving, origin: str | None, accepted: bool
) -> None:
    headers: dict[str, Any] = {"Connection": "Upgrade", "Upgrade": "websocket"}
    headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    if origin is not None:
        headers["Origin"] = origin.replace("OWN", serving.url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    parts = urlsplit(serving.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(
        f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {parts.netloc}\r\n{lines}\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    if not accepted:
        assert b"\r\nx-content-type-options: nosniff\r\n" in head.lower()
        assert b"FLOW_CORS_ORIGINS" in await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert (b" 101 " in head.split(b"\r\n")[0]) == accepted, head
