"""Checks of members that several parts of a definition have: durations, roles, texts for people."""

import unicodedata
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeGuard

import msgspec

from app.contracts.definition import Finding
from app.flow.lint.findings import error, warning
from app.flow.lint.spelling import NAME, ROLE_RULE, is_role, quoted
from app.kit.durations import MAX_DURATION, parse_duration

MIN_TTL = timedelta(milliseconds=1)
MAX_ROLES = 100
TEXTS = {"title": 200, "description": 4000, "service": 1000, "module": 1000, "path": 1000}
"""The members that are texts, with their largest number of characters."""
MAX_META_BYTES = 16_384
"""As compact JSON."""


def objects(value: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the members of an object that are objects themselves."""
    for name, member in as_object(value).items():
        if isinstance(member, dict):
            yield name, member


def as_object(value: object) -> dict[str, Any]:
    """Return the value if it is an object, otherwise an empty object."""
    return value if isinstance(value, dict) else {}


def is_integer(value: object) -> TypeGuard[int]:
    """True for an integer of JSON, which ``true`` is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def duration(value: object, least: timedelta = MIN_TTL) -> timedelta | None:
    """Parse a duration in whole milliseconds, from ``least`` to ``MAX_DURATION``; None if it is invalid."""
    if not isinstance(value, str):
        return None
    try:
        given = parse_duration(value)
    except ValueError:
        return None
    return given if least <= given <= MAX_DURATION else None


def check_key(at: str, key: str, part: object, member: str) -> Iterator[Finding]:
    """Yield findings about the key of a step or transition, which its ``member`` repeats."""
    if not NAME.match(key):
        yield error(
            at,
            f"The name of a {member} must be 1 to 64 letters, digits, '_' or '-', without '-' at the start",
            "rename it, and put the text for people into `title`",
        )
    repeated = as_object(part).get(member)
    if isinstance(repeated, str) and repeated != key:
        yield error(
            f"{at}/{member}",
            f"The name is {quoted(repeated)}, but its key is {quoted(key)}",
            "give both the name that others refer to",
        )


def check_duration(at: str, value: object, least: timedelta = MIN_TTL) -> Iterator[Finding]:
    """Yield findings about a duration."""
    if isinstance(value, str) and duration(value, least) is None:
        bounds = f"of {least / timedelta(seconds=1):g} s to 100 years"
        yield error(
            at,
            f"{quoted(value)} is not an ISO 8601 duration such as P30D or PT12H, {bounds}",
            "write weeks as P1W, days as P30D, hours as PT12H, minutes as PT15M, seconds as PT30S; months "
            "and years have no fixed length",
        )


def check_roles(at: str, value: object) -> Iterator[Finding]:
    """Yield findings about a list of roles; the caller checks an empty one."""
    if not isinstance(value, list):
        return
    if len(value) > MAX_ROLES:
        yield error(
            at, f"The list has more than {MAX_ROLES} roles", "give those users one role that stands for them"
        )
    seen = set()
    for position, role in enumerate(value[:MAX_ROLES]):
        if not isinstance(role, str):
            continue
        if not is_role(role):
            yield error(
                f"{at}/{position}",
                f"{quoted(role)} is not a role: a role has {ROLE_RULE}",
                "write the role as in the claim `roles` of tokens",
            )
        elif role in seen:
            yield warning(f"{at}/{position}", f"The role {quoted(role)} is listed twice", "list it once")
        seen.add(role)


def check_texts(at: str, part: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about the texts and ``meta`` of the flow, a step or a transition."""
    for name, limit in TEXTS.items():
        text = part.get(name)
        if not isinstance(text, str):
            continue
        if len(text) > limit:
            yield error(f"{at}/{name}", f"The text is longer than {limit} characters", "shorten it")
        elif name == "title" and any(unicodedata.category(character) == "Cc" for character in text):
            yield warning(
                f"{at}/title",
                "The title has line ends or other control characters, but is shown in one line",
                "write one line here, and the rest in `description`",
            )
    meta = part.get("meta")
    if isinstance(meta, dict) and len(msgspec.json.encode(meta)) > MAX_META_BYTES:
        yield error(
            f"{at}/meta",
            f"The data is larger than {MAX_META_BYTES} bytes as JSON",
            "store large data where clients can load it, and its address here",
        )
