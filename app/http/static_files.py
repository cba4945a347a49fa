"""Serving the bundle below ``/static``."""

import mimetypes
import re

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.contracts.errors import WebBuildMissingError
from app.web.bundle import ENTRY, NOTICES, Bundle

mimetypes.add_type("text/plain", ".ts")  # some systems take it for a format of translations
mimetypes.add_type("text/javascript", ".js")
REVALIDATE = "no-cache"
"""May be stored, and is requested again with its ETag."""
IMMUTABLE = "public, max-age=31536000, immutable"
"""The name has a digest of the content."""
_PUBLIC = re.compile(rf"(?:{re.escape(ENTRY)}|flow-client\.d\.ts|{re.escape(NOTICES)}|assets/[^/]+)\Z")


class BundleFiles(StaticFiles):
    """The files of the bundle that have a public address.

    A bundle that is built while the server runs is served from then on.

    Args:
        bundle: The bundle to serve.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(directory=bundle.files, check_dir=False)
        self._bundle = bundle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file, or raise WebBuildMissingError."""
        if not self._bundle.exists:
            raise WebBuildMissingError
        await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file at ``path`` with its rule for caches."""
        if not _PUBLIC.match(path):
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = IMMUTABLE if path.startswith("assets/") else REVALIDATE
        return response
