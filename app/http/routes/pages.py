"""The pages ``/``, ``/demo`` and ``/docs``: static text that gets everything else from the API."""

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.contracts.errors import WebBuildMissingError
from app.http.endpoint import is_known_etag
from app.http.static_files import REVALIDATE
from app.web.bundle import Bundle

PAGES = {"/": "index.html", "/demo": "demo.html", "/docs": "docs.html"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' {images}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NO_MARKUP_FROM_TEXT = "; require-trusted-types-for 'script'; trusted-types 'none'"
POLICIES = {
    "/": _POLICY.format(images="blob:") + _NO_MARKUP_FROM_TEXT,  # diagrams, which the page fetched
    "/demo": _POLICY.format(images="") + _NO_MARKUP_FROM_TEXT,
    "/docs": _POLICY.format(images="data:"),  # icons in the style sheet of Swagger UI
}
"""The Content-Security-Policy by page: nothing inline, no other host, no frames."""


def page_routes(bundle: Bundle, version: Callable[[], str]) -> list[Route]:
    """Build the routes of the pages.

    Args:
        bundle: Where the built pages are.
        version: Returns the version that runs, which every page shows.
    """
    return [_page_route(path, bundle.files / "site" / name, version) for path, name in PAGES.items()]


def _page_route(path: str, file: Path, version: Callable[[], str]) -> Route:
    async def respond(request: Request) -> Response:
        try:
            template = await asyncio.to_thread(file.read_text, encoding="utf-8")
        except FileNotFoundError:
            raise WebBuildMissingError from None
        body = template.replace("{{version}}", escape(version())).encode()
        headers = {
            "Cache-Control": REVALIDATE,
            "Content-Security-Policy": POLICIES[path],
            "ETag": f'"{blake2b(body, digest_size=12).hexdigest()}"',
        }
        if is_known_etag(headers["ETag"], request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="text/html")

    return Route(path, respond, methods=["GET"])
