"""Pages: parts of a list, limited by a number of items and by a number of bytes."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from msgspec import Struct

MAX_PAGE_BYTES = 1_000_000
"""Size limit of a page; the first item may exceed it."""

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """Items of a list, in its order.

    ``next`` is the key after which the next page begins, None on the last page. A page may have fewer items
    than requested, also none, and still not be the last one.
    """

    items: list[T]
    next: str | None = None


def take_page(items: Iterable[T], limit: int, size: Callable[[T], int]) -> tuple[list[T], bool]:
    """Return the first items, as many as fit on a page.

    Args:
        items: Read up to one item beyond the page.
        limit: The largest number of items, at least 1.
        size: The bytes of an item.

    Returns:
        The items, and whether the page is full: there may be more.
    """
    page: list[T] = []
    left = MAX_PAGE_BYTES
    for item in items:
        left -= size(item)
        if page and left < 0:
            return page, True
        page.append(item)
        if len(page) == limit:
            return page, True
    return page, False
