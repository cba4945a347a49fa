"""The conditional headers of RFC 9110 (section 13.1): ``If-Match`` and ``If-None-Match``."""

import re
from collections.abc import Sequence

from msgspec import Struct

from app.contracts.errors import Fault, InvalidRequestError

_MEMBER = re.compile(r'[ \t]*(?:(?P<weak>W/)?"(?P<tag>[\x21\x23-\x7e\x80-\xff]*)")?[ \t]*(?:,|\Z)')
"""A member of the list, which may be empty."""


class EntityTags(Struct, frozen=True):
    """The tags of a header, without their quotes, or ``*`` (``any``)."""

    any: bool = False
    strong: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()


def entity_tags(name: str, lines: Sequence[str]) -> EntityTags | None:
    """Parse a header of the request, which may have several lines; None without the header.

    Raises:
        InvalidRequestError: It is not a list of entity tags.
    """
    if not lines:
        return None
    text = ", ".join(lines).strip(" \t")
    if text == "*":
        return EntityTags(any=True)
    found: list[tuple[bool, str]] = []
    position = 0
    while position < len(text):
        member = _MEMBER.match(text, position)
        if member is None:
            found.clear()
            break
        if member["tag"] is not None:
            found.append((member["weak"] is not None, member["tag"]))
        position = member.end()
    if not found:
        raise InvalidRequestError(
            [Fault(f"/{name}", 'must be "*" or a list of ETags as answered, in their quotes')]
        )
    strong = tuple(tag for weak, tag in found if not weak)
    return EntityTags(strong=strong, weak=tuple(tag for weak, tag in found if weak))


def foreign_tag_error(name: str, form: str) -> InvalidRequestError:
    """Return the error for a header whose only tag is not a tag of this service.

    In a list such tags match nothing. A single one is a mistake.

    Args:
        name: The header.
        form: The form of the tags of this service.
    """
    return InvalidRequestError([Fault(f"/{name}", f"must be an ETag as answered: {form}")])
