"""Pages of lists, as answers."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Raw, json

from app.contracts.pages import take_page
from app.http.endpoint import Answer

T = TypeVar("T")

Limit = Annotated[int, Meta(ge=1, le=1000, description="At most this many items.")]


def page_answer(
    found: Sequence[T], view: Callable[[T], Any], key: Callable[[T], str], more: str | None
) -> Answer:
    """Answer with as many items as fit a page.

    Args:
        found: Items, in the order of the list.
        view: Converts an item to its view.
        key: Returns the ``after`` that continues behind an item.
        more: The ``after`` that continues behind all of ``found``; None if they are the last ones.
    """
    encoded = (json.encode(view(item)) for item in found)
    shown, _ = take_page(encoded, max(len(found), 1), len)
    if len(shown) < len(found):
        more = key(found[len(shown) - 1])
    answer: dict[str, Any] = {"items": [Raw(item) for item in shown]}
    return Answer(answer if more is None else {**answer, "next": more})
