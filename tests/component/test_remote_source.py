"""The remote source against real servers: well, slow, broken and hostile ones."""

import asyncio
import os
import ssl
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app.contracts.errors import DefinitionSourceError
from app.sources import remote
from app.sources.remote import RemoteSource
from tests.support.certificates import write_certificate
from tests.support.remotes import RemoteServer, giving, paging, redirecting
from tests.support.samples import flow_dict

WHERE = "FLOW_DEFINITIONS_AUTH, of a provider its authentication"


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    server = await RemoteServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def other() -> AsyncIterator[RemoteServer]:
    """A server of another origin."""
    server = await RemoteServer().start()
    yield server
    await server.stop()


async def slugs(source: RemoteSource) -> list[Any]:
    return [found.raw["flow"] for found in await source.load()]


async def refusal(source: RemoteSource) -> str:
    with pytest.raises(DefinitionSourceError) as refused:
        await source.load()
    message = str(refused.value)
    assert message.startswith(f"{source.name}: ")
    return message.removeprefix(f"{source.name}: ")


async def test_one_definition_a_list_and_pages(server: RemoteServer) -> None:
    source = RemoteSource(server.url("/flows?of=us"))
    server.gives(flow_dict("one"))
    (found,) = await source.load()
    assert found.raw == flow_dict("one")
    assert found.place == f"{server.url()}#one"
    assert found.source == f"remote:127.0.0.1:{server.port}/flows"
    server.gives([flow_dict("one"), flow_dict("two")])
    assert await slugs(source) == ["one", "two"]
    server.answers["/flows"] = paging([flow_dict(f"f{n}") for n in range(7)], 3)
    assert await slugs(source) == [f"f{n}" for n in range(7)]
    server.gives([])
    assert await slugs(source) == []


async def test_what_did_not_change_is_not_sent_again(server: RemoteServer) -> None:
    served: list[int] = []
    answering = paging([flow_dict(f"f{n}") for n in range(4)], 2)

    async def counting(request: web.Request) -> web.StreamResponse:
        answer = await answering(request)
        served.append(answer.status)
        return answer

    server.answers["/flows"] = counting
    source = RemoteSource(server.url())
    first = await source.load()
    second = await source.load()
    assert served == [200, 200, 304, 304]
    assert [one.digest for one in first] == [one.digest for one in second]
    answering = paging([flow_dict("f0"), flow_dict("f1"), flow_dict("f2"), flow_dict("f3", title="T")], 2)
    third = await source.load()
    assert served[4:] == [304, 200]
    assert [one.digest for one in third][:3] == [one.digest for one in second][:3]
    assert third[3].raw["title"] == "T"


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ("bearer:s3cr3t", "Authorization", "Bearer s3cr3t"),
        ("basic:ann:s3cr3t", "Authorization", "Basic YW5uOnMzY3IzdA=="),
        ("apikey:X-Flows-Key:s3cr3t", "X-Flows-Key", "s3cr3t"),
    ],
)
async def test_credentials_are_sent_and_a_wrong_one_is_said_without_them(
    server: RemoteServer, auth: str, header: str, value: str
) -> None:
    good = giving(flow_dict())

    async def guarded(request: web.Request) -> web.StreamResponse:
        return await good(request) if request.headers.get(header) == value else web.Response(status=401)

    server.answers["/flows"] = guarded
    assert await slugs(RemoteSource(server.url(), auth)) == ["loop"]
    said = await refusal(RemoteSource(server.url(), auth.replace("s3cr3t", "wr0ng")))
    assert said == f"does not accept the credentials (it answers 401): {WHERE}"
    server.gives(b"", status=403)
    assert "needs credentials (it answers 403)" in await refusal(RemoteSource(server.url()))


@pytest.mark.parametrize(
    ("body", "options", "says"),
    [
        (b"", {"status": 500}, "answers 500"),
        (b"", {"status": 404}, "answers 404"),
        (b"", {"status": 304}, "answers 304"),
        (b"<html>", {"kind": "text/html"}, "answers 'text/html', not JSON"),
        (b"{", {}, "line 1, column 2: is not JSON"),
        (b'{"a":1,"a":2}', {}, "the name 'a' occurs twice"),
        (b"[" * 50_000, {}, "nested too deep"),
        (b'"text"', {}, "answers neither a definition nor a list of them"),
        (b'{"items": [], "next": 7}', {}, "next: is not a text"),
        (b'{"items": [], "next": "x"}', {}, "its pages form a circle"),
        (b"\xff", {}, "is not UTF-8"),
    ],
)
async def test_what_is_no_definition_is_said(
    server: RemoteServer, body: bytes, options: dict[str, Any], says: str
) -> None:
    server.gives(body, **options)
    assert says in await refusal(RemoteSource(server.url()))


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.flows+json"])
async def test_json_under_its_names(server: RemoteServer, kind: str) -> None:
    server.gives(flow_dict(), kind=kind)
    assert await slugs(RemoteSource(server.url())) == ["loop"]


async def test_a_server_that_hangs_is_left_after_the_timeout(server: RemoteServer) -> None:
    ended = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"[")
        await ended.wait()
        return response

    server.answers["/flows"] = hang
    began = asyncio.get_running_loop().time()
    assert await refusal(RemoteSource(server.url(), timeout=0.5)) == "does not answer within 0.5 seconds"
    assert asyncio.get_running_loop().time() - began < 3
    ended.set()


async def test_no_server_and_one_that_hangs_up(server: RemoteServer) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.answers["/flows"] = hang_up
    source = RemoteSource(server.url())
    assert await refusal(source) == "the answer ended early"
    await server.stop()
    assert "no connection to 127.0.0.1" in await refusal(source)
    assert (
        await refusal(RemoteSource("http://nowhere.invalid/x")) == "the host nowhere.invalid:80 is not known"
    )


async def test_an_answer_of_100_megabytes_is_cut_off(server: RemoteServer) -> None:
    sent = 0
    piece = b" " * 65_536

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionError):  # the client hangs up
            while sent < 100_000_000:
                await response.write(piece)
                sent += len(piece)
        return response

    server.answers["/flows"] = flood
    tracemalloc.start()
    said = await refusal(RemoteSource(server.url(), max_bytes=2_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == "answers with more bytes than are accepted"
    assert sent < 20_000_000
    assert peak < 20_000_000


async def test_an_answer_that_unpacks_to_100_megabytes_is_cut_off(server: RemoteServer) -> None:
    server.gives(b" " * 100_000_000, zipped=True)
    tracemalloc.start()
    said = await refusal(RemoteSource(server.url(), max_bytes=2_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == "answers with more bytes than are accepted"
    assert peak < 20_000_000


async def test_packed_answers(server: RemoteServer) -> None:
    source = RemoteSource(server.url(), max_bytes=5000)
    server.gives(flow_dict(), zipped=True)
    assert await slugs(source) == ["loop"]

    def packed(body: bytes, coding: str) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            headers = {"Content-Type": "application/json", "Content-Encoding": coding}
            return web.Response(body=body, headers=headers)

        server.answers["/flows"] = answer

    packed(b"no gzip", "gzip")
    assert await refusal(source) == "answers with data that cannot be unpacked"
    packed(b"x", "br")
    assert "the encoding 'br', which was not requested" in await refusal(source)


async def test_the_limit_is_for_all_pages_together(server: RemoteServer) -> None:
    server.answers["/flows"] = paging([flow_dict(f"f{n}") for n in range(20)], 1)
    size = 20 * 800
    assert len(await slugs(RemoteSource(server.url(), max_bytes=size))) == 20
    assert (
        await refusal(RemoteSource(server.url(), max_bytes=size // 4))
        == "answers with more bytes than are accepted"
    )


async def test_pages_without_an_end(server: RemoteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        following = str(int(request.query.get("after", "0")) + 1)
        return web.json_response({"items": [], "next": following})

    server.answers["/flows"] = endless
    monkeypatch.setattr(remote, "MAX_PAGES", 5)
    assert "or 5 pages" in await refusal(RemoteSource(server.url()))
    assert len(server.requests) == 6


async def test_redirects_within_the_origin_carry_the_credentials(server: RemoteServer) -> None:
    server.answers["/flows"] = redirecting("/moved?to=here", 308)
    server.gives(flow_dict(), "/moved")
    assert await slugs(RemoteSource(server.url(), "bearer:t0ken")) == ["loop"]
    assert [request["Authorization"] for request in server.requests] == ["Bearer t0ken"] * 2
    server.answers["/flows"] = redirecting("/flows")
    assert await refusal(RemoteSource(server.url())) == "redirects more than 5 times"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "127.1", "2130706433", "0x7f000001", "0"],
)
async def test_a_redirect_to_a_private_address_is_refused(
    server: RemoteServer, other: RemoteServer, host: str
) -> None:
    other.gives(flow_dict())
    server.answers["/flows"] = redirecting(f"http://{host}:{other.port}/flows")
    said = await refusal(RemoteSource(server.url(), "bearer:t0ken"))
    if host in ("127.1", "2130706433", "0"):  # aiohttp takes no such
        assert said == "redirects to an invalid URL"
    else:
        assert said.startswith("redirects to ")
        assert said.endswith(
            f":{other.port}, which is no public address; if that is meant, set "
            "FLOW_DEFINITIONS_PRIVATE_REDIRECTS=true, or name that address itself"
        )
    assert other.requests == []


async def test_a_redirect_elsewhere_goes_without_credentials_and_does_not_get_them_back(
    server: RemoteServer, other: RemoteServer
) -> None:
    server.answers["/flows"] = redirecting(f"http://user:pass@127.0.0.1:{other.port}/flows")
    other.answers["/flows"] = redirecting(server.url("/back"))
    server.gives(flow_dict(), "/back")
    source = RemoteSource(server.url(), "apikey:X-Key:t0ken", private_redirects=True)
    assert await slugs(source) == ["loop"]
    assert server.requests[0]["X-Key"] == "t0ken"
    assert not {"X-Key", "Authorization"} & {*other.requests[0], *server.requests[1]}


@pytest.mark.parametrize("to", ["ftp://127.0.0.1/x", "http://", "http://[", "file:///etc/passwd", ""])
async def test_a_redirect_to_no_url(server: RemoteServer, to: str) -> None:
    server.answers["/flows"] = redirecting(to)
    said = await refusal(RemoteSource(server.url()))
    assert "redirects" in said


async def test_faulty_definitions_have_places_of_their_own(server: RemoteServer) -> None:
    server.gives([flow_dict("a"), {"flow": "b"}, 7, flow_dict("a", title="again"), {"flow": "x" * 100}])
    places = [found.place.partition("#")[2] for found in await RemoteSource(server.url()).load()]
    assert places == ["a", "b", "2", "3", "4"]


async def test_the_pause_grows_with_failures_and_not_beyond_its_bound(server: RemoteServer) -> None:
    source = RemoteSource(server.url(), interval=0)
    assert 0.8 <= source._pause() <= 1
    server.gives(b"", status=503)
    pauses = []
    for _ in range(12):
        await refusal(source)
        pauses.append(source._pause())
    assert 0.8 <= pauses[0] <= 1
    assert 6.4 <= pauses[3] <= 8
    assert 24 <= pauses[-1] <= 30
    server.gives(flow_dict())
    await source.load()
    assert source._pause() <= 1


@pytest.mark.parametrize(
    ("url", "auth"),
    [
        ("ftp://h", None),
        ("http://u:p@h", None),
        ("https://h", "bearer"),
        ("http://h.example.org", "bearer:t"),
    ],
)
def test_a_wrong_configuration_is_refused_at_once(url: str, auth: str | None) -> None:
    with pytest.raises(ValueError, match=r"must be|is sent over https only"):
        RemoteSource(url, auth)


LOAD = """
import asyncio, sys
from app.contracts.errors import DefinitionSourceError
from app.sources.remote import RemoteSource
try:
    print([found.raw["flow"] for found in asyncio.run(RemoteSource(sys.argv[1]).load())])
except DefinitionSourceError as refusal:
    print(refusal)
"""


async def test_tls_is_checked_and_not_left_again(other: RemoteServer, tmp_path: Path) -> None:
    pem, secret = write_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, secret)
    application = web.Application()
    application.router.add_get("/flows", giving(flow_dict()))
    application.router.add_get("/down", redirecting(other.url()))
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    origin = f"https://127.0.0.1:{runner.addresses[0][1]}"
    assert "no trusted TLS connection" in await refusal(RemoteSource(f"{origin}/flows"))

    async def load(path: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LOAD, origin + path),
            env={**os.environ, "SSL_CERT_FILE": str(pem)},
            stdout=subprocess.PIPE,
        )
        return (await process.communicate())[0].decode()

    assert await load("/flows") == "['loop']\n"
    assert "redirects from https to http" in await load("/down")
    assert other.requests == []
    await runner.cleanup()
