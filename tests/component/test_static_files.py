"""The browser files over HTTP, and what is answered when there are none."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount

from app.contracts.errors import FlowError
from app.http.middleware import RequestLog
from app.http.problems import flow_error, http_error
from app.http.static_files import BundleFiles
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
        routes=[Mount("/static", BundleFiles(bundle))],
        middleware=[Middleware(RequestLog)],
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


@pytest.mark.parametrize(
    "path",
    ["", "nothing.js", "sources.sha256", "page.html", "assets", "assets/", "assets/no.js", "../bundle.py",
     "%2e%2e/bundle.py", "assets/..%2fsources.sha256"],
)  # fmt: skip
async def test_nothing_else_is_served(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(f"/static/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_a_missing_bundle_is_a_problem_that_says_what_to_do(
    http: httpx.AsyncClient, bundle: Bundle
) -> None:
    kept = bundle.files.rename(bundle.files.with_name("kept"))
    answer = await http.get("/static/flow-client.js")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["code"] == "WEB_BUILD_MISSING"
    assert "server-flow web build" in answer.json()["detail"]
    shutil.move(kept, bundle.files)
    assert (await http.get("/static/flow-client.js")).status_code == 200, "without a new start"
