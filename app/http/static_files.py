"""Serving the bundle below ``/static``."""

import asyncio
import gzip
import re
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.contracts.errors import WebBuildMissingError
from app.http.endpoint import is_known_etag
from app.web.bundle import ENTRY, NOTICES, Bundle

REVALIDATE = "no-cache"
"""May be stored, and is requested again with its ETag."""
IMMUTABLE = "public, max-age=31536000, immutable"
"""The name has a digest of the content."""
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
}
_STABLE = {ENTRY, "flow-client.d.ts", NOTICES}
_ASSET = re.compile(r"assets/\w[\w.-]*\.(?:js|css|svg)\Z")


class _File(NamedTuple):
    """A file in memory, plain and compressed."""

    modified_ns: int
    plain: bytes
    compressed: bytes
    digest: str


class BundleFiles:
    """The files of the bundle that have a public address.

    A file is read and compressed when it is first requested, and again when it has changed, so that a bundle
    that is built while the server runs is served from then on.

    Args:
        bundle: The bundle to serve.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._files: dict[str, _File] = {}

    def route(self) -> Route:
        """Build the route."""
        return Route("/static/{name:path}", self._respond, methods=["GET"])

    async def _respond(self, request: Request) -> Response:
        name = request.path_params["name"]
        file = await self._load(name) if name in _STABLE or _ASSET.match(name) else None
        if file is None:
            if not self._bundle.exists:
                raise WebBuildMissingError
            raise HTTPException(404)
        is_compressed = "gzip" in request.headers.get("accept-encoding", "")
        headers = {
            "Cache-Control": IMMUTABLE if name.startswith("assets/") else REVALIDATE,
            "Content-Type": MEDIA_TYPES[Path(name).suffix],
            "Cross-Origin-Resource-Policy": "cross-origin",  # pages of other hosts load the client from here
            "ETag": f'"{file.digest}{"-gzip" if is_compressed else ""}"',
            "Vary": "Accept-Encoding",
        }
        if is_known_etag(headers["ETag"], request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        if is_compressed:
            headers["Content-Encoding"] = "gzip"
        return Response(file.compressed if is_compressed else file.plain, headers=headers)

    async def _load(self, name: str) -> _File | None:
        """Return a file, None if there is none."""
        path = self._bundle.files / name
        try:
            modified_ns = path.stat().st_mtime_ns
            known = self._files.get(name)
            if known is None or known.modified_ns != modified_ns:
                known = self._files[name] = await asyncio.to_thread(_read_file, path, modified_ns)
        except OSError:
            return None
        return known


def _read_file(path: Path, modified_ns: int) -> _File:
    plain = path.read_bytes()
    compressed = gzip.compress(plain, compresslevel=6, mtime=0)
    return _File(modified_ns, plain, compressed, blake2b(plain, digest_size=12).hexdigest())
