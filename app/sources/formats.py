"""Decodes JSON, YAML 1.2 and TOML to values of JSON."""

import datetime
import json
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from app.contracts.errors import DefinitionSourceError
from app.sources.format_faults import FormatError, refuse_time

MAX_BYTES = 1_048_576
"""Limit for a file with one definition."""
_TIME_TYPES = (datetime.date, datetime.time)


def decode(raw: bytes, suffix: str, place: str) -> Any:
    """Decode a document.

    Args:
        raw: The content of a file.
        suffix: The suffix of its name, a key of ``DECODERS``.
        place: The file, for messages.

    Raises:
        DefinitionSourceError: With ``place``, and the line and column where they are known.
    """
    if len(raw) > MAX_BYTES:
        raise DefinitionSourceError(f"{place}: is larger than {MAX_BYTES} bytes")
    try:
        return DECODERS[suffix](_decode_utf8(raw))
    except RecursionError:
        raise DefinitionSourceError(f"{place}: is nested too deep") from None
    except FormatError as refusal:
        raise DefinitionSourceError(f"{place}: {refusal}") from None


def decode_json(raw: bytes, place: str) -> Any:
    """Decode JSON of any size. Raises DefinitionSourceError as ``decode`` does."""
    try:
        return _decode_json(_decode_utf8(raw))
    except RecursionError:
        raise DefinitionSourceError(f"{place}: is nested too deep") from None
    except FormatError as refusal:
        raise DefinitionSourceError(f"{place}: {refusal}") from None


def _decode_utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")  # editors on Windows write a byte order mark
    except UnicodeDecodeError as refusal:
        line = raw.count(b"\n", 0, refusal.start) + 1
        raise FormatError(f"line {line}: is not UTF-8") from None


def _decode_json(text: str) -> Any:
    duplicates: list[_DuplicateMembers] = []

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            members = _DuplicateMembers(members, next(_find_duplicates([name for name, _ in pairs])))
            duplicates.append(members)
        return members

    try:
        value = json.loads(text, object_pairs_hook=gather, parse_constant=_refuse_constant)
    except json.JSONDecodeError as refusal:
        at = f"line {refusal.lineno}, column {refusal.colno}"
        raise FormatError(f"{at}: is not JSON: {refusal.msg}") from None
    except ValueError:  # a number with thousands of digits
        raise FormatError("is not JSON: a number is too long") from None
    if duplicates:
        at, name = next(
            (at, found.name)
            for at, found in _nested_values(value, "")
            if isinstance(found, _DuplicateMembers)
        )
        raise FormatError(f"{at or '(whole)'}: the name {name!r} occurs twice")
    return value


class _DuplicateMembers(dict[str, Any]):
    """The members of an object in which ``name`` occurs twice."""

    def __init__(self, members: dict[str, Any], name: str) -> None:
        super().__init__(members)
        self.name = name


def _find_duplicates(names: list[str]) -> Iterator[str]:
    seen = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _refuse_constant(name: str) -> NoReturn:
    raise FormatError(f"is not JSON: {name} is not a number")


def _decode_toml(text: str) -> Any:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as refusal:
        raise FormatError(f"is not TOML: {refusal}") from None
    except ValueError:
        raise FormatError("is not TOML: a number is too long") from None
    for at, found in _nested_values(value, ""):
        if isinstance(found, _TIME_TYPES):
            raise FormatError(f"{at}: {refuse_time(found.isoformat())}")
    return value


def _nested_values(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Yield the value and everything inside it, each with its dotted path."""
    yield at, value
    members = dict(enumerate(value)) if isinstance(value, list) else value
    for name, member in members.items() if isinstance(members, dict) else ():
        yield from _nested_values(member, f"{at}.{name}" if at else str(name))


def _decode_yaml(text: str) -> Any:
    from app.sources.yaml_format import read_yaml  # noqa: PLC0415 - the library, where there is YAML

    return read_yaml(text)


DECODERS: dict[str, Callable[[str], Any]] = {
    ".json": _decode_json,
    ".yaml": _decode_yaml,
    ".yml": _decode_yaml,
    ".toml": _decode_toml,
}
"""The decoders, by the suffix of a file's name."""
