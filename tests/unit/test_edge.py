"""Headers that protect browsers, and origins of other pages, on an application in this process."""

from collections.abc import Sequence
from contextlib import nullcontext

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.tokens import TokenVerifier
from app.http.application import build_application
from app.http.edge import SECURITY_HEADERS, Edge
from app.kit.client_address import TrustedProxies
from config.limits import LimitSettings
from tests.support.rig import rig

PAGE = "https://app.example.org"
PROXIES = TrustedProxies(LimitSettings(trusted_proxies="127.0.0.1").trusted_networks)


async def client(
    *, origins: Sequence[str] = (), url: str = "http://here", proxies: TrustedProxies = PROXIES
) -> httpx.AsyncClient:
    """Return a client whose address is 127.0.0.1."""
    r = await rig()
    application: ASGIApp = build_application(
        r.service,
        TokenVerifier(key="k" * 32, algorithms=["HS256"]),
        checks={},
        cors_origins=origins,
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
        proxies=proxies,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=url)


async def test_strict_transport_is_for_clients_with_tls() -> None:
    name = "strict-transport-security"
    async with await client() as http:
        assert name not in (await http.get("/livez")).headers
        assert name in (await http.get("/livez", headers={"X-Forwarded-Proto": "https"})).headers
        assert name not in (await http.get("/livez", headers={"X-Forwarded-Proto": "http"})).headers
    async with await client(proxies=TrustedProxies()) as http:
        assert name not in (await http.get("/livez", headers={"X-Forwarded-Proto": "https"})).headers
    async with await client(url="https://here") as http:
        assert name in (await http.get("/livez")).headers


async def test_an_answer_replaces_a_security_header_and_has_none_twice() -> None:
    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Cache-Control", b"private")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    edge = Edge(own, TrustedProxies())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://here") as http:
        answer = await http.get("/")
    assert answer.headers.get_list("cache-control") == ["private"]
    assert len(answer.headers) == len(SECURITY_HEADERS)


async def preflight(http: httpx.AsyncClient, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    return await http.options("/api/flow/loop/start", headers=headers)


@pytest.mark.expected_logs("origin refused")
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", f"{PAGE}.evil.example", "http://app.example.org"]
)
async def test_other_origins_are_refused(origin: str) -> None:
    for origins in ([], [PAGE]):
        async with await client(origins=origins) as http:
            asked = await preflight(http, origin)
            read = await http.get("/livez", headers={"Origin": origin})
        assert asked.status_code == 400
        for answer in (asked, read):
            assert "access-control-allow-origin" not in answer.headers
            assert "access-control-allow-credentials" not in answer.headers
            assert "Origin" in answer.headers["vary"]


async def test_an_origin_of_the_settings_is_allowed_without_credentials() -> None:
    async with await client(origins=[PAGE]) as http:
        asked = await preflight(http, PAGE)
        read = await http.get("/livez", headers={"Origin": PAGE})
        plain = await http.get("/livez")
    assert (asked.status_code, asked.headers["access-control-max-age"]) == (200, "600")
    assert asked.headers["cache-control"] == "no-store"
    for answer in (asked, read):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]
    assert "Origin" in plain.headers["vary"], "a cache must not give it to a page"
    assert "ratelimit" in read.headers["access-control-expose-headers"].lower()


async def test_all_origins_are_a_star_and_never_an_echo() -> None:
    async with await client(origins=["*"]) as http:
        for origin in (PAGE, "null"):
            answer = await http.get("/livez", headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
