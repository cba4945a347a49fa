"""YAML 1.2 as values of JSON; a module of its own, as its library is slow to import."""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from app.providers.formats import FormatError, no_moment

MAX_VALUES = 100_000
"""Of a document once its aliases are written out."""
MAX_MARKS = 100_000
"""Of line ends and of what begins a value: the library takes 0.1 ms for each, or more. A definition of 500
steps with 30 transitions each has 79,000."""
_MARKS = ("\n", ",", "[", "{", ": ", "- ", "? ")
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
        return yaml.load(text)
    except MarkedYAMLError as refusal:
        mark = refusal.problem_mark or refusal.context_mark
        raise FormatError(_at(mark) + (refusal.problem or "is not YAML")) from None
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
        raise FormatError(f"{_at(node.start_mark)}the tag {str(node.tag).replace(_TAG, '!!')} is not of JSON")


def _require_name(node: Node) -> None:
    if not isinstance(node, ScalarNode):
        raise FormatError(f"{_at(node.start_mark)}a name must be text")
    if node.tag not in (_TAG + "str", _TAG + "merge"):
        raise FormatError(f"{_at(node.start_mark)}the name {node.value} is no text; put it in quotes")


def _at(mark: Any) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
