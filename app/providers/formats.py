"""Definitions as bytes: JSON, YAML 1.2 and TOML, decoded to values of JSON and to nothing else."""

import datetime
import json
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from app.contracts.ports import DefinitionSourceError

MAX_BYTES = 1_048_576
"""Of a file with one definition."""
MAX_VALUES = 100_000
"""Of a YAML document once its aliases are written out."""
_TAG = "tag:yaml.org,2002:"
_JSON_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}
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
    except _RefusedError as refusal:
        raise DefinitionSourceError(f"{place}: {refusal}") from None


def decode_json(raw: bytes, place: str) -> Any:
    """The value of JSON of any size. Raises DefinitionSourceError as ``decode`` does."""
    try:
        return _json(_text(raw))
    except RecursionError:
        raise DefinitionSourceError(f"{place}: is nested too deep") from None
    except _RefusedError as refusal:
        raise DefinitionSourceError(f"{place}: {refusal}") from None


class _RefusedError(Exception):
    """What is wrong with a document, and where in it."""


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")  # editors on Windows put a mark first
    except UnicodeDecodeError as refusal:
        line = raw.count(b"\n", 0, refusal.start) + 1
        raise _RefusedError(f"line {line}: is not UTF-8") from None


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
        raise _RefusedError(f"{at}: is not JSON: {refusal.msg}") from None
    except ValueError:  # a number with thousands of digits
        raise _RefusedError("is not JSON: a number is too long") from None
    if doubled:
        at, name = next((at, found.name) for at, found in _walk(value, "") if isinstance(found, _Doubled))
        raise _RefusedError(f"{at or '(whole)'}: the name {name!r} is there twice")
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
    raise _RefusedError(f"is not JSON: {name} is no number")


def _toml(text: str) -> Any:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as refusal:
        raise _RefusedError(f"is not TOML: {refusal}") from None
    except ValueError:
        raise _RefusedError("is not TOML: a number is too long") from None
    for at, found in _walk(value, ""):
        if isinstance(found, _MOMENTS):
            raise _RefusedError(f"{at}: {_no_moment(found.isoformat())}")
    return value


def _walk(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The value and all that is in it, with the dotted path to each."""
    yield at, value
    members = dict(enumerate(value)) if isinstance(value, list) else value
    for name, member in members.items() if isinstance(members, dict) else ():
        yield from _walk(member, f"{at}.{name}" if at else str(name))


def _yaml(text: str) -> Any:
    yaml = YAML(typ="safe", pure=True)  # the other one knows YAML 1.1 alone, where ``no`` is false
    yaml.Constructor = _JsonConstructor
    yaml.composer.warn_double_anchors = False  # an anchor may be given anew
    try:
        return yaml.load(text)
    except MarkedYAMLError as refusal:
        mark = refusal.problem_mark or refusal.context_mark
        raise _RefusedError(_at(mark) + (refusal.problem or "is not YAML")) from None
    except ReaderError as refusal:
        line = text.count("\n", 0, refusal.position) + 1
        raise _RefusedError(f"line {line}: is not YAML: {refusal.reason}") from None
    except YAMLError:
        raise _RefusedError("is not YAML") from None
    except (ValueError, LookupError):  # what the library says of a tag that does not fit
        raise _RefusedError("is not YAML: a number is too long, or not what its tag says") from None


class _JsonConstructor(SafeConstructor):
    """Makes values of a document once it is known to have nothing but JSON's, and not too many."""

    def construct_document(self, node: Node) -> Any:
        if self.resolver.processing_version < (1, 2):
            raise _RefusedError("is YAML 1.1, where 'no' and '010' mean other things; leave %YAML out")
        _count(node, {})
        return super().construct_document(node)


def _count(node: Node, counted: dict[int, int]) -> int:
    """How many values a node stands for. Aliases are counted where they stand, each node is looked at
    once; so a document that would grow without bound is refused before it does."""
    known = counted.get(id(node))
    if known is not None:
        if not known:
            raise _RefusedError(f"{_at(node.start_mark)}an alias stands inside of what it names")
        return known
    counted[id(node)] = 0  # being counted
    _require_json(node)
    inside: list[Node] = []
    if isinstance(node, MappingNode):
        for name, member in node.value:
            _require_name(name)
            inside.append(member)
    elif isinstance(node, SequenceNode):
        inside = node.value
    size = 1 + sum(_count(member, counted) for member in inside)
    if size > MAX_VALUES:
        raise _RefusedError(f"{_at(node.start_mark)}stands for more than {MAX_VALUES} values")
    counted[id(node)] = size
    return size


def _require_json(node: Node) -> None:
    if node.tag == _TAG + "timestamp":
        raise _RefusedError(f"{_at(node.start_mark)}{_no_moment(node.value)}")
    if node.tag not in _JSON_TAGS:
        raise _RefusedError(
            f"{_at(node.start_mark)}the tag {str(node.tag).replace(_TAG, '!!')} is not of JSON"
        )


def _require_name(node: Node) -> None:
    if not isinstance(node, ScalarNode):
        raise _RefusedError(f"{_at(node.start_mark)}a name must be text")
    if node.tag not in (_TAG + "str", _TAG + "merge"):
        raise _RefusedError(f"{_at(node.start_mark)}the name {node.value} is no text; put it in quotes")


def _no_moment(written: str) -> str:
    return f"{written} is a date or time, which JSON has not; put it in quotes"


def _at(mark: Any) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


DECODERS: dict[str, Callable[[str], Any]] = {".json": _json, ".yaml": _yaml, ".yml": _yaml, ".toml": _toml}
"""What reads a file, by the end of its name."""
