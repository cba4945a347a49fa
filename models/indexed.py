"""Queries that every server answers from an index, the embedded one too.

The planner of that server uses an index only if the conditions of a filter are exactly its fields, or its
first field alone, or a range on one field. It reads a range to its end before it applies a limit. So a
query has a first stage that an index serves as it is and a second one for the rest, and pages are read in
narrow ranges of keys. MongoDB itself merges the two stages and plans them as one filter.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from motor.core import AgnosticBaseCursor
from msgspec import Struct

from app.contracts.pages import MAX_PAGE_BYTES
from models.codec import Document
from models.paging import DocumentPage

MAX_HINTS = 10_000
_AFTER_A_KEY = "\x01"
"""Makes a bound behind a key and before all other ones, as keys have no control characters."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def pipeline(
    served: Document,
    rest: Document | None = None,
    *,
    sort: Sequence[tuple[str, int]] = (),
    limit: int | None = None,
    project: Document | None = None,
) -> list[Document]:
    """Return the stages of an aggregation that finds documents.

    Args:
        served: Conditions that one index serves exactly.
        rest: Further conditions on the documents found.
        sort: Fields and directions.
        limit: The largest number of documents.
        project: Fields to leave out or to return, as in ``find``.
    """
    stages: list[Document] = [{"$match": served}]
    if rest:
        stages.append({"$match": rest})
    if sort:
        stages.append({"$sort": dict(sort)})
    if limit is not None:
        stages.append({"$limit": limit})
    if project:
        stages.append({"$project": project})
    return stages


def key_range(after: str, end: str | None, *, inclusive: bool = False) -> Document:
    """Return a condition for keys after ``after`` and before ``end`` (None: no end)."""
    return {"$gte" if inclusive else "$gt": after, **({} if end is None else {"$lt": end})}


def until(now: datetime) -> Document:
    """Return a condition with a lower bound, because the embedded server otherwise reads missing fields."""
    return {"$gt": _LONG_AGO, "$lte": now}


def not_expired(now: datetime) -> Document:
    """Return a condition without expired states. As in FlowState.is_gone_at, paused states do not expire."""
    return {"$or": [{"expiresAt": {"$exists": False}}, {"expiresAt": {"$gt": now}}, {"status": "paused"}]}


class _Hint(Struct, frozen=True):
    """From the last page: the length of the common prefix of its keys, and the first key of all.

    ``after`` is what the page came after, ``last_key`` its last key: the same page again ends there, unless
    it has become another one.
    """

    prefix_length: int
    first_key: str
    after: str
    last_key: str


class KeyRanges:
    """Reads pages in the order of a field with keys, each from as few and narrow ranges of keys as possible.

    A range is all keys with a common prefix, as long as that of the last page; for the first page of all as
    long as the key that it begins at, or shorter if that gives too few.
    """

    def __init__(self, field: str = "_id") -> None:
        self._field = field
        self._hints: dict[str, _Hint] = {}

    async def page(
        self,
        after: str,
        end: str | None,
        limit: int,
        find: Callable[[Document, int], AgnosticBaseCursor[Any]],
        *,
        max_bytes: float = MAX_PAGE_BYTES,
        subject: str | None = None,
    ) -> DocumentPage:
        """Return the first documents with keys after ``after`` and before ``end``.

        Args:
            after: A key, or the common prefix of the keys.
            end: The first key beyond the page; None if there is no end.
            limit: The size of the page, at least 1.
            find: Returns a cursor over the first documents, in order, for a condition on the field, a limit.
            max_bytes: The size of the page in bytes.
            subject: The name of a list whose documents leave it once they were read, and whose end moves;
                None: the list is known by its end.
        """
        page = DocumentPage(limit, max_bytes)
        name = end or "" if subject is None else subject
        hint = self._hints.get(name)
        length = len(after) if hint is None else hint.prefix_length
        start, inclusive = after, False
        while True:
            bound = end
            if hint is not None and start == hint.after and hint.last_key > start:
                bound = hint.last_key + _AFTER_A_KEY
                bound = bound if end is None else min(bound, end)
            elif length:
                known = start if hint is None or len(start) >= length else hint.first_key
                narrow = behind_prefix(known[:length])
                if narrow is not None and narrow > start and (end is None or narrow < end):
                    bound = narrow
            more = await page.read(find(key_range(start, bound, inclusive=inclusive), page.left))
            if page.full:
                self._remember(name, after, page.documents)
                return page
            if bound is None or bound == end:
                if subject is not None:  # a few are left, anywhere: the next page reads the whole range
                    self._hints.pop(subject, None)
                return page
            if more < limit / 8:
                length -= 1
            start, inclusive = bound, True

    def _remember(self, name: str, after: str, page: Sequence[Document]) -> None:
        # At most one half spans a change of a leading character, which says nothing about the density.
        keys = [document[self._field] for document in page]
        middle = keys[len(keys) // 2]
        length = max(_common_prefix(keys[0], middle), _common_prefix(middle, keys[-1]))
        known = self._hints.get(name)
        first = keys[0] if known is None or len(after) < length else known.first_key
        if len(self._hints) >= MAX_HINTS:
            self._hints.clear()
        self._hints[name] = _Hint(length, first, after, keys[-1])


def behind_prefix(prefix: str) -> str | None:
    """Return the smallest text that is greater than all that begin with ``prefix``; None if there is none."""
    for n in reversed(range(len(prefix))):
        point = ord(prefix[n]) + 1
        if point in _SURROGATES:
            point = _SURROGATES.stop
        if point <= _LAST_CODE_POINT:
            return prefix[:n] + chr(point)
    return None


def _common_prefix(first: str, last: str) -> int:
    """Return the length of the longest common prefix."""
    for n, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return n
    return min(len(first), len(last))
