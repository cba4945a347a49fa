"""Definitions from another server over HTTP: one, a list, or pages as ``GET /api/flows`` returns them."""

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct, structs
from yarl import URL

from app.contracts.errors import DefinitionSourceError
from app.contracts.ports.sources import FoundDefinition
from app.outbound.fetching import Fetcher, RemoteEndpoint
from app.sources.formats import decode_json
from config.sources import auth_header, check_auth_use, check_remote, shown_url, source_label

MAX_BYTES = 16_777_216
"""Limit for all pages together, unpacked."""
MAX_PAGES = 1000
MAX_FLOWS = 10_000
MAX_NEXT_CHARACTERS = 256
TIMEOUT_SECONDS = 10.0
MIN_INTERVAL_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0


class RemoteSource:
    """The DefinitionSource port on another server.

    The server is polled every ``interval`` seconds, with the ETags of its last answers; after a failure
    sooner at first, then with exponential back-off.
    """

    local = False

    def __init__(
        self,
        url: str,
        auth: str | None = None,
        *,
        interval: float = 300.0,
        timeout: float = TIMEOUT_SECONDS,
        private_redirects: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Check the address; nothing is read yet.

        Args:
            url: Where to read.
            auth: Credentials, as in ``FLOW_DEFINITIONS_AUTH``.
            interval: Seconds between polls.
            timeout: Seconds for one ``load``.
            private_redirects: Follow redirects to private addresses too.
            max_bytes: Limit for all pages together, unpacked.

        Raises:
            ValueError: The URL or the credentials cannot be used.
        """
        check_remote(url)
        if auth is not None:
            check_auth_use([url])
        self.name = shown_url(url)
        self._label = source_label(url)
        self._url = URL(url)
        credentials = auth_header(auth) if auth is not None else None
        self._endpoint = RemoteEndpoint(url, credentials, private_redirects)
        self._interval = max(interval, MIN_INTERVAL_SECONDS)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._cached: dict[URL, _Page] = {}
        self._failures = 0

    async def load(self) -> list[FoundDefinition]:
        """Return every definition of the server.

        Raises:
            DefinitionSourceError: The server is unavailable, or answers with something else.
        """
        try:
            async with asyncio.timeout(self._timeout), self._endpoint.open() as fetcher:
                self._cached = await self._pages(fetcher)
        except TimeoutError:
            self._failures += 1
            raise DefinitionSourceError(
                f"{self.name}: does not answer within {self._timeout:g} seconds"
            ) from None
        except DefinitionSourceError:
            self._failures += 1
            raise
        self._failures = 0
        return self._found([definition for page in self._cached.values() for definition in page.items])

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield when it is time to poll again."""
        while True:
            await asyncio.sleep(self._pause())
            yield

    def produced(self, source: str) -> bool:
        """Return whether a version that names ``source`` came from this server."""
        return source == self._label

    def _pause(self) -> float:
        pause = self._interval
        if self._failures:
            longest = max(self._interval, MAX_BACKOFF_SECONDS)
            pause = min(2.0 ** min(self._failures - 1, 16), longest)
        return pause * random.uniform(0.8, 1)  # noqa: S311 - so that workers do not poll all at once

    async def _pages(self, fetcher: Fetcher) -> dict[URL, "_Page"]:
        pages: dict[URL, _Page] = {}
        url, left, flows = self._url, self._max_bytes, 0
        while True:
            page = await self._page(fetcher, url, left)
            pages[url] = page
            left -= page.size
            flows += len(page.items)
            if flows > MAX_FLOWS or len(pages) > MAX_PAGES:
                raise DefinitionSourceError(
                    f"{self.name}: has more than {MAX_FLOWS} definitions or {MAX_PAGES} pages"
                )
            if page.next is None:
                return pages
            url = self._url.update_query(after=page.next)
            if url in pages:
                raise DefinitionSourceError(f"{self.name}: its pages form a circle")

    async def _page(self, fetcher: Fetcher, url: URL, limit: int) -> "_Page":
        cached = self._cached.get(url)
        fetched = await fetcher.get(url, cached.etag if cached is not None else "", limit)
        if fetched is None:
            if cached is None or cached.size > limit:
                raise DefinitionSourceError(f"{self.name}: answers with more bytes than are accepted")
            return cached
        return await asyncio.to_thread(_decode, fetched.body, fetched.etag, self.name)

    def _found(self, items: list["_Item"]) -> list[FoundDefinition]:
        """Give each definition a unique place: its slug, or else its number."""
        found: dict[str, FoundDefinition] = {}
        for number, item in enumerate(items):
            place = f"{self.name}#{item.slug or number}"
            if place in found:
                place = f"{self.name}#{number}"
            found[place] = FoundDefinition(place, self._label, item.digest, item.raw)
        return list(found.values())


class _Item(Struct, frozen=True):
    raw: Any
    slug: str
    digest: str


class _Page(Struct, frozen=True):
    """A page; ``next`` is the ``after`` of the following one, ``size`` is in bytes."""

    items: list[_Item]
    next: str | None = None
    etag: str = ""
    size: int = 0


def _decode(body: bytes, etag: str, name: str) -> _Page:
    try:
        page = _page_of(decode_json(body, name), name)
    except RecursionError:
        raise DefinitionSourceError(f"{name}: is nested too deep") from None
    return structs.replace(page, etag=etag, size=len(body))


def _page_of(value: Any, name: str) -> _Page:
    if isinstance(value, list):
        return _Page([_item(raw) for raw in value])
    if isinstance(value, dict) and "flow" not in value and isinstance(value.get("items"), list):
        after = value.get("next")
        if after is not None and not (isinstance(after, str) and 0 < len(after) <= MAX_NEXT_CHARACTERS):
            raise DefinitionSourceError(
                f"{name}: next: is not a text of 1 to {MAX_NEXT_CHARACTERS} characters"
            )
        return _Page([_item(raw) for raw in value["items"]], after)
    if isinstance(value, dict):
        return _Page([_item(value)])
    raise DefinitionSourceError(f"{name}: answers neither a definition nor a list of them")


def _item(raw: Any) -> _Item:
    slug = raw.get("flow") if isinstance(raw, dict) else None
    known = isinstance(slug, str) and len(slug) <= 64 and slug.isprintable()
    digest = hashlib.sha256(json.dumps(raw).encode()).hexdigest()
    return _Item(raw, str(slug) if known else "", digest)
