"""Pages: parts of a list, which end at a number of items and at a number of bytes."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from msgspec import Struct

MAX_PAGE_BYTES = 1_000_000
"""A page ends before it has more, but never without an item."""

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """Items of a list, in its order. ``next`` is the key to go on after, None on the last page. A page may
    have fewer items than requested, also none, and still not be the last one."""

    items: list[T]
    next: str | None = None


def take_page(items: Iterable[T], limit: int, size: Callable[[T], int]) -> tuple[list[T], bool]:
    """Take the first items, as many as a page may have.

    Args:
        items: Read no further than the page goes, and one item beyond.
        limit: The largest number of items, at least 1.
        size: The bytes of an item.

    Returns:
        The items, and whether the page is full: there may be more.
    """
    taken: list[T] = []
    left = MAX_PAGE_BYTES
    for item in items:
        left -= size(item)
        if taken and left < 0:
            return taken, True
        taken.append(item)
        if len(taken) == limit:
            return taken, True
    return taken, False
