"""Definitions as bytes: JSON, YAML 1.2 and TOML, decoded to values of JSON and to nothing else."""

import datetime
import json
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from app.contracts.ports.sources import DefinitionSourceError

MAX_BYTES = 1_048_576
"""Of a file with one definition."""
_MOMENTS = (datetime.date, datetime.time)


def decode(raw: bytes, suffix: str, place: str) -> Any:
    """The value of a document, by the ``suffix`` of its file (a key of ``DECODERS``). Raises
    DefinitionSourceError that begins with ``place``, and says the line and column where that is known."""
    if len(raw) > MAX_BYTES:
        raise DefinitionSourceError(f"{place}: is larger than {MAX_BYTES} bytes")
    try:
        return DECODERS[suffix](_text(raw))
    except RecursionError:
        raise DefinitionSourceError(f"{place}: is nested too deep") from None
    except FormatError as refusal:
        raise DefinitionSourceError(f"{place}: {refusal}") from None


def decode_json(raw: bytes, place: str) -> Any:
    """The value of JSON of any size. Raises DefinitionSourceError as ``decode`` does."""
    try:
        return _json(_text(raw))
    except RecursionError:
        raise DefinitionSourceError(f"{place}: is nested too deep") from None
    except FormatError as refusal:
        raise DefinitionSourceError(f"{place}: {refusal}") from None


class FormatError(Exception):
    """The fault of a document, and its place."""


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")  # editors on Windows put a mark first
    except UnicodeDecodeError as refusal:
        line = raw.count(b"\n", 0, refusal.start) + 1
        raise FormatError(f"line {line}: is not UTF-8") from None


def _json(text: str) -> Any:
    doubled: list[_Doubled] = []

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            members = _Doubled(members, next(_doubles([name for name, _ in pairs])))
            doubled.append(members)
        return members

    try:
        value = json.loads(text, object_pairs_hook=gather, parse_constant=_no_number)
    except json.JSONDecodeError as refusal:
        at = f"line {refusal.lineno}, column {refusal.colno}"
        raise FormatError(f"{at}: is not JSON: {refusal.msg}") from None
    except ValueError:  # a number with thousands of digits
        raise FormatError("is not JSON: a number is too long") from None
    if doubled:
        at, name = next((at, found.name) for at, found in _walk(value, "") if isinstance(found, _Doubled))
        raise FormatError(f"{at or '(whole)'}: the name {name!r} is there twice")
    return value


class _Doubled(dict[str, Any]):
    """The members of an object that has a ``name`` twice."""

    def __init__(self, members: dict[str, Any], name: str) -> None:
        super().__init__(members)
        self.name = name


def _doubles(names: list[str]) -> Iterator[str]:
    seen = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _no_number(name: str) -> NoReturn:
    raise FormatError(f"is not JSON: {name} is no number")


def _toml(text: str) -> Any:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as refusal:
        raise FormatError(f"is not TOML: {refusal}") from None
    except ValueError:
        raise FormatError("is not TOML: a number is too long") from None
    for at, found in _walk(value, ""):
        if isinstance(found, _MOMENTS):
            raise FormatError(f"{at}: {no_moment(found.isoformat())}")
    return value


def _walk(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The value and all that is in it, with the dotted path to each."""
    yield at, value
    members = dict(enumerate(value)) if isinstance(value, list) else value
    for name, member in members.items() if isinstance(members, dict) else ():
        yield from _walk(member, f"{at}.{name}" if at else str(name))


def _yaml(text: str) -> Any:
    from app.sources.yaml_format import read_yaml  # noqa: PLC0415 - the library, where there is YAML

    return read_yaml(text)


def no_moment(written: str) -> str:
    """Say why a date or time is refused."""
    return f"{written} is a date or time, which JSON has not; put it in quotes"


DECODERS: dict[str, Callable[[str], Any]] = {".json": _json, ".yaml": _yaml, ".yml": _yaml, ".toml": _toml}
"""The decoders, by the end of a file's name."""
