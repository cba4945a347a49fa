"""The browser files over HTTP, and what is answered when there are none."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from app.contracts.errors import FlowError
from app.http.edge import Edge
from app.http.middleware import RequestLog
from app.http.problems import flow_error, http_error
from app.http.static_files import BundleFiles
from app.kit.client_address import TrustedProxies
from app.web.bundle import Bundle
from tests.support.bundles import copy_sources


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a bundle with two files below ``assets``."""
    bundle = copy_sources(tmp_path / "web")
    (bundle.files / "assets").mkdir()
    (bundle.files / "assets" / "page-abc123.js").write_text("1;")
    (bundle.files / "flow-client.d.ts").write_text("export {};")
    (bundle.files / "third-party-notices.md").write_text("# Licenses")
    (bundle.files / "page.html").write_text("<!doctype html>")
    return bundle


@pytest.fixture
async def http(bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of an application that serves the bundle."""
    application = Starlette(
        routes=[BundleFiles(bundle).route()],
        middleware=[Middleware(Edge, proxies=TrustedProxies()), Middleware(RequestLog)],
        exception_handlers={FlowError: flow_error, HTTPException: http_error},
    )
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("name", "media_type", "cached"),
    [
        ("flow-client.js", "text/javascript", "no-cache"),
        ("flow-client.d.ts", "text/plain", "no-cache"),
        ("third-party-notices.md", "text/markdown", "no-cache"),
        ("assets/page-abc123.js", "text/javascript", "public, max-age=31536000, immutable"),
    ],
)
async def test_public_files_and_their_rules_for_caches(
    http: httpx.AsyncClient, name: str, media_type: str, cached: str
) -> None:
    answer = await http.get(f"/static/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["cache-control"] == cached
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = await http.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, cached)


async def test_who_accepts_gzip_gets_it(http: httpx.AsyncClient, bundle: Bundle) -> None:
    plain = await http.get("/static/flow-client.js", headers={"Accept-Encoding": "identity"})
    packed = await http.get("/static/flow-client.js", headers={"Accept-Encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content == (bundle.files / "flow-client.js").read_bytes()
    assert packed.headers["etag"] != plain.headers["etag"]
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    head = await http.head("/static/flow-client.js", headers={"Accept-Encoding": "identity"})
    assert (head.content, head.headers["content-length"]) == (b"", plain.headers["content-length"])


async def test_a_changed_file_is_served(http: httpx.AsyncClient, bundle: Bundle) -> None:
    before = await http.get("/static/flow-client.js")
    file = bundle.files / "flow-client.js"
    file.write_text("export const changed = true;")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    after = await http.get("/static/flow-client.js", headers={"If-None-Match": before.headers["etag"]})
    assert (after.status_code, after.text) == (200, "export const changed = true;")


@pytest.mark.parametrize(
    "path",
    ["", "nothing.js", "sources.sha256", "page.html", "assets", "assets/", "assets/no.js", "../bundle.py",
     "%2e%2e/bundle.py", "assets/..%2fsources.sha256", "assets/.hidden.js"],
)  # fmt: skip
async def test_nothing_else_is_served(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(f"/static/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_a_missing_bundle_is_a_problem_that_says_what_to_do(
    http: httpx.AsyncClient, bundle: Bundle
) -> None:
    moved = bundle.files.rename(bundle.files.with_name("moved"))
    answer = await http.get("/static/flow-client.js")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["code"] == "WEB_BUILD_MISSING"
    assert "server-flow web build" in answer.json()["detail"]
    shutil.move(moved, bundle.files)
    assert (await http.get("/static/flow-client.js")).status_code == 200, "without a new start"
