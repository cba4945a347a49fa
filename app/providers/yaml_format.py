"""YAML 1.2 as values of JSON; a module of its own, as its library is slow to import."""

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.tokens import TagToken

from app.providers.formats import FormatError, no_moment

MAX_VALUES = 100_000
"""Of a document once its aliases are written out."""
MAX_MARKS = 100_000
"""Of line ends and of what begins a value: the library takes 0.1 ms for each, or more. A definition of 500
steps with 30 transitions each has 79,000."""
_MARKS = ("\n", ",", "[", "{", ": ", "- ", "? ")
_LONE_MARK = re.compile(r"!(?=\s|\Z)")
_MARKED = re.compile(r"(?:^|[:,\[{-])\s+[!&*@%`]")
_GUARD = re.compile(r"\bguard[\"']?\s*:")
_QUOTE_MARKS = "put a text that begins with !, &, *, %, @ or ` in quotes"
_QUOTE_GUARDS = "put a guard in quotes, or on a line of its own after 'guard: >-'"
_TAG = "tag:yaml.org,2002:"
_JSON_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


def read_yaml(text: str) -> Any:
    """Read a document of YAML 1.2 that has nothing but the values of JSON. Raises FormatError."""
    if count_marks(text) > MAX_MARKS:
        raise FormatError(f"has more lines and values than are read of YAML ({MAX_MARKS}); write it as JSON")
    yaml = YAML(typ="safe", pure=True)  # the other one knows YAML 1.1 alone, where ``no`` is false
    yaml.Constructor = _JsonConstructor
    yaml.composer.warn_double_anchors = False  # an anchor may be given anew
    try:
        if _LONE_MARK.search(text):
            _require_no_lone_tag(yaml, text)
        return yaml.load(text)
    except MarkedYAMLError as refusal:
        mark = refusal.problem_mark or refusal.context_mark
        problem = refusal.problem or "is not YAML"
        raise FormatError(_at(mark) + problem + _advice_about_quotes(text, mark)) from None
    except ReaderError as refusal:
        line = text.count("\n", 0, refusal.position) + 1
        raise FormatError(f"line {line}: is not YAML: {refusal.reason}") from None
    except YAMLError:
        raise FormatError("is not YAML") from None
    except (ValueError, LookupError):  # what the library says of a tag that does not fit
        raise FormatError("is not YAML: a number is too long, or not what its tag says") from None


def count_marks(text: str) -> int:
    """Count what reading a document takes time for, without reading it."""
    return sum(map(text.count, _MARKS))


def _require_no_lone_tag(yaml: YAML, text: str) -> None:
    """A tag without a name is dropped silently: ``guard: ! (a)`` would be the opposite of what it says."""
    for token in yaml.scan(text):
        if isinstance(token, TagToken) and str(token.value[1]) == "!":
            raise FormatError(f"{_at(token.start_mark)}the tag ! is not of JSON; {_QUOTE_MARKS}")


def _advice_about_quotes(text: str, mark: Any) -> str:
    """Advice for an error in a line with a text that should be in quotes."""
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if _MARKED.search(line):
        return f"; {_QUOTE_MARKS}"
    return f"; {_QUOTE_GUARDS}" if _GUARD.search(line) else ""


class _JsonConstructor(SafeConstructor):
    """Makes values of a document once it is known to have nothing but JSON's, and not too many."""

    def construct_document(self, node: Node) -> Any:
        if self.resolver.processing_version < (1, 2):
            raise FormatError("is YAML 1.1, where 'no' and '010' mean other things; leave %YAML out")
        _count(node, {})
        return super().construct_document(node)


def _count(node: Node, counted: dict[int, int]) -> int:
    """How many values a node stands for. Aliases are counted where they stand, each node is looked at
    once; so a document that would grow without bound is refused before it does."""
    known = counted.get(id(node))
    if known is not None:
        if not known:
            raise FormatError(f"{_at(node.start_mark)}an alias stands inside of what it names")
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
        raise FormatError(f"{_at(node.start_mark)}stands for more than {MAX_VALUES} values")
    counted[id(node)] = size
    return size


def _require_json(node: Node) -> None:
    if node.tag == _TAG + "timestamp":
        raise FormatError(f"{_at(node.start_mark)}{no_moment(node.value)}")
    if node.tag not in _JSON_TAGS:
        tag = str(node.tag).replace(_TAG, "!!")
        raise FormatError(f"{_at(node.start_mark)}the tag {tag} is not of JSON; {_QUOTE_MARKS}")


def _require_name(node: Node) -> None:
    if not isinstance(node, ScalarNode):
        raise FormatError(f"{_at(node.start_mark)}a name must be text")
    if node.tag not in (_TAG + "str", _TAG + "merge"):
        raise FormatError(f"{_at(node.start_mark)}the name {node.value} is no text; put it in quotes")


def _at(mark: Any) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
