"""Pages by key: complete, in order, and read from narrow ranges."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codec import Document
from models.indexed import KeyRanges
from tests.support.long_form import form

KEYS = st.lists(st.text("ab:19", min_size=1, max_size=6), unique=True, min_size=1, max_size=60)


class Cursor:
    """Documents that are read in batches."""

    def __init__(self, documents: list[Document]) -> None:
        self._left = documents

    async def to_list(self, length: int) -> list[Document]:
        batch, self._left = self._left[:length], self._left[length:]
        return batch

    async def close(self) -> None:
        self._left = []


class Collection:
    """Keys that answer conditions on ``_id``, and the number of keys that those met."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = sorted(keys)
        self.met = 0

    def find(self, condition: Document, limit: int) -> Any:
        first, behind, end = condition.get("$gte", ""), condition.get("$gt"), condition.get("$lt")
        met = [key for key in self.keys if key >= first and (behind is None or key > behind)]
        met = [key for key in met if end is None or key < end]
        self.met += len(met)
        return Cursor([{"_id": key} for key in met[:limit]])


async def page_of(ranges: KeyRanges, collection: Collection, after: str, limit: int) -> list[str]:
    page = await ranges.page(after, None, limit, collection.find)
    return [document["_id"] for document in page.documents]


@given(KEYS, st.text("ab:19", max_size=6), st.integers(1, 7))
async def test_pages_have_every_key_once_and_in_order(keys: list[str], after: str, limit: int) -> None:
    collection, ranges = Collection(keys), KeyRanges()
    found: list[str] = []
    start = after
    while page := await page_of(ranges, collection, start, limit):
        found += page
        start = page[-1]
    assert found == [key for key in collection.keys if key > after]


async def test_the_first_page_behind_a_key_does_not_read_all_that_follow() -> None:
    collection = Collection([f"flow:u{n:05}" for n in range(10_000)])
    page = await page_of(KeyRanges(), collection, "flow:u04321", 100)
    assert page == [f"flow:u{n:05}" for n in range(4322, 4422)]
    assert collection.met <= 300


@pytest.mark.parametrize("size", [10, 64, 500])
async def test_a_list_that_is_worked_off_is_read_once_and_then_in_narrow_ranges(size: int) -> None:
    """Its end moves with the time, and its documents leave it once they were read."""
    total = form("lists that are worked off: documents", short=2000, long=10_000)
    collection = Collection([f"pay;1767225600000;pay;;loop:user-{n:05}" for n in range(total)])
    ranges = KeyRanges()
    read: list[str] = []
    for now in range(1767225600001, 1767225600001 + total):
        page = await ranges.page("pay;", f"pay;{now}", size, collection.find, subject="pay")
        if not page.documents:
            break
        done = {document["_id"] for document in page.documents}
        read += sorted(done)
        collection.keys = [key for key in collection.keys if key not in done]
    assert read == [f"pay;1767225600000;pay;;loop:user-{n:05}" for n in range(total)]
    assert collection.met <= total + 20 * total


async def test_an_emptied_list_is_read_by_one_query() -> None:
    collection, ranges = Collection([f"pay;{n:05}" for n in range(100)]), KeyRanges()
    await ranges.page("pay;", "pay;2", 10, collection.find, subject="pay")
    collection.keys = []
    queries = []

    def find(condition: Document, limit: int) -> Any:
        queries.append(condition)
        return collection.find(condition, limit)

    for end in ("pay;3", "pay;4"):
        queries.clear()
        assert (await ranges.page("pay;", end, 10, find, subject="pay")).documents == []
    assert queries == [{"$gt": "pay;", "$lt": "pay;4"}]
