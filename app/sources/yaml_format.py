"""Decodes YAML 1.2 to values of JSON. Imported only when there is YAML.

PyYAML parses, with libyaml where it was built with it. Its constructors implement YAML 1.1, where ``no`` is
false and ``010`` is 8; so the values are built here from the events of the parser, without recursion.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml
from yaml.error import MarkedYAMLError, YAMLError

from app.sources.format_faults import FormatError, refuse_time
from app.sources.yaml_faults import at, explain, quote_marks, shown

MAX_VALUES = 100_000
"""Limit for a document with its aliases expanded."""
MAX_MARKS = 100_000
"""Limit for line ends and beginnings of values: libyaml takes 0.01 ms for each, PyYAML alone 0.05 ms. A
definition of 500 steps with 30 transitions each has 79,000."""
MAX_DEPTH = 500
"""Limit for nested lists and mappings, because readers of the value may recurse."""
MAX_DIGITS = 1000
MAX_DIRECTIVES = 100
"""libyaml compares each %TAG with all before it."""
_MARKS = ("\n", ",", "[", "{", ": ", "- ", "? ")
_LONE_TAG = re.compile(r"!(?:<!>)?(?=\s|\Z)")
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_JSON_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_PLAIN = re.compile(
    r"""(?P<null>~|null|Null|NULL|)
    |(?P<bool>true|True|TRUE|false|False|FALSE)
    |(?P<int>[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)
    |(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))
    |(?P<merge><<)
    |(?P<timestamp>[0-9]{4}-[0-9]{2}-[0-9]{2}
        |[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?
         (?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)""",
    re.VERBOSE,
)
"""The types of unquoted text: the core schema of YAML 1.2, times (refused) and merge keys."""
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str, parser: Any = _PARSER) -> Any:
    """Decode a document of YAML 1.2 that contains only values of JSON.

    Args:
        text: The document.
        parser: A loader class of PyYAML; only its parser is used.

    Raises:
        FormatError: The document is refused; the message says where and why.
    """
    if count_marks(text) > MAX_MARKS:
        raise FormatError(
            f"has more lines and values than are accepted in YAML ({MAX_MARKS}); write it as JSON"
        )
    _require_readable(text)
    try:
        if _LONE_TAG.search(text):
            _require_no_lone_tag(text, parser)
        return _Document(parser(text)).read()
    except MarkedYAMLError as refusal:
        raise FormatError(explain(refusal, text)) from None
    except YAMLError:
        raise FormatError("is not YAML; write it as JSON") from None


def count_marks(text: str) -> int:
    """Count the parts of a document that take time to parse, without parsing it."""
    return sum(map(text.count, _MARKS))


def _require_readable(text: str) -> None:
    unreadable = _UNREADABLE.search(text)
    if unreadable:
        line = text.count("\n", 0, unreadable.start()) + 1
        column = unreadable.start() - text.rfind("\n", 0, unreadable.start())
        code = f"U+{ord(unreadable[0]):04X}"
        raise FormatError(
            f"line {line}, column {column}: is not YAML: the character {code} is not allowed; "
            "write it as an escape in double quotes"
        )
    if (
        text.count("\n%") > MAX_DIRECTIVES
        and len(re.findall(r"^%TAG\b", text, re.MULTILINE)) > MAX_DIRECTIVES
    ):
        raise FormatError(f"has more than {MAX_DIRECTIVES} lines with %TAG; leave them out")


def _require_no_lone_tag(text: str, parser: Any) -> None:
    """Refuse a tag without a name, which parsers drop silently: ``guard: ! (a)`` would lose its negation."""
    for token in yaml.scan(text, Loader=parser):
        if isinstance(token, yaml.TagToken) and not token.value[0] and token.value[1] == "!":
            raise FormatError(f"{at(token.start_mark)}the tag ! has no meaning in JSON; {quote_marks()}")


@dataclass(slots=True)
class _Node:
    """A value of the document; complete when it has a size."""

    mark: Any
    value: Any = None
    kind: str = "str"
    written: str = ""
    size: int = 0
    """Number of values, with aliases expanded."""


class _List:
    """A list whose end has not been read yet."""

    kind: ClassVar = "seq"

    def __init__(self, node: _Node) -> None:
        self.node = node
        self.size = 1
        self._members: list[Any] = []

    def add(self, member: _Node) -> None:
        self._members.append(member.value)
        self.grow(member)

    def grow(self, member: _Node) -> None:
        self.size += member.size
        if self.size > MAX_VALUES:
            raise FormatError(
                f"{at(self.node.mark)}stands for more than {MAX_VALUES} values; "
                "use fewer aliases, or write several definitions"
            )

    def close(self) -> None:
        self.node.value, self.node.size = self.value(), self.size

    def value(self) -> Any:
        return self._members


class _Mapping(_List):
    """A mapping whose end has not been read yet."""

    kind: ClassVar = "map"

    def __init__(self, node: _Node) -> None:
        super().__init__(node)
        self._own: dict[str, Any] = {}
        self._merged: list[dict[str, Any]] | None = None
        self._name: _Node | None = None

    def add(self, member: _Node) -> None:
        name, self._name = self._name, None
        if name is None:
            self._name = self._checked(member)
            return
        if name.kind == "merge":
            self._merged = _mappings(member)
        else:
            self._own[name.value] = member.value
        self.grow(member)

    def value(self) -> Any:
        members: dict[str, Any] = {}
        for merged in reversed(self._merged or ()):  # the first has precedence
            members.update(merged)
        return members | self._own

    def _checked(self, name: _Node) -> _Node:
        if name.kind in ("seq", "map"):
            raise FormatError(f"{at(name.mark)}a name must be text; write one, in quotes if necessary")
        if name.kind not in ("str", "merge"):
            raise FormatError(f"{at(name.mark)}the name {shown(name.written)} is not text; put it in quotes")
        if name.kind == "merge" and self._merged is not None:
            raise FormatError(f"{at(name.mark)}found duplicate key '<<'; merge a list: '<<: [*a, *b]'")
        if name.kind == "str" and name.value in self._own:
            raise FormatError(
                f"{at(name.mark)}found duplicate key {shown(name.value)!r}; remove or rename one of the two"
            )
        return name


def _mappings(merged: _Node) -> list[dict[str, Any]]:
    found = [merged.value] if merged.kind == "map" else merged.value
    if merged.kind not in ("map", "seq") or not all(isinstance(each, dict) for each in found):
        raise FormatError(f"{at(merged.mark)}expected a mapping, or a list of mappings, to merge with '<<'")
    return found


@dataclass
class _Document:
    """Builds the value of the only document that a parser reads."""

    parser: Any
    _open: list[_List] = field(default_factory=list)
    _anchors: dict[str, _Node] = field(default_factory=dict)
    _whole: Any = None

    def read(self) -> Any:
        try:
            documents = 0
            while self.parser.check_event():
                event = self.parser.get_event()
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    _require_single(event, documents)
                else:
                    self._take(event)
        finally:
            self.parser.dispose()
        return self._whole

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            node = _scalar(event)
            self._name_anchor(event, node)
            self._add(node)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(event, _Mapping)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(event, _List)
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = self._open.pop()
            ended.close()
            self._add(ended.node)
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._of_alias(event))

    def _begin(self, event: Any, of: type[_List]) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise FormatError(f"{at(event.start_mark)}is nested too deep (more than {MAX_DEPTH} levels)")
        if event.tag and event.tag != _TAG + of.kind:
            raise _wrong_tag(event)
        node = _Node(event.start_mark, kind=of.kind)
        self._name_anchor(event, node)
        self._open.append(of(node))

    def _add(self, node: _Node) -> None:
        if self._open:
            self._open[-1].add(node)
        else:
            self._whole = node.value

    def _name_anchor(self, event: Any, node: _Node) -> None:
        if event.anchor is not None:
            self._anchors[event.anchor] = node

    def _of_alias(self, event: Any) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise FormatError(
                f"{at(event.start_mark)}found undefined alias {shown(event.anchor)!r}; "
                f"name a value with &{shown(event.anchor)} above, or put the text in quotes"
            )
        if not node.size:
            raise FormatError(
                f"{at(event.start_mark)}an alias is inside the value that it names; write the value out"
            )
        return _Node(event.start_mark, node.value, node.kind, node.written, node.size)


def _require_single(event: Any, documents: int) -> None:
    if event.version and tuple(event.version) < (1, 2):
        raise FormatError(
            f"{at(event.start_mark)}is YAML 1.1, where 'no' and '010' mean other values; leave %YAML out"
        )
    if documents > 1:
        raise FormatError(f"{at(event.start_mark)}found another document; write each into its own file")


def _scalar(event: Any) -> _Node:
    written: str = event.value
    node = _Node(event.start_mark, written, written=written, size=1)
    tag = event.tag
    plain = tag is None and event.implicit[0]
    if tag == _TAG + "str" or not (tag or plain):
        return node
    found = _PLAIN.fullmatch(written)
    kind = (found.lastgroup if found else None) or "str"
    if tag:
        kind = _kind_by_tag(event, kind)
    if kind == "timestamp":
        raise FormatError(f"{at(node.mark)}{refuse_time(shown(written))}")
    node.kind = kind
    if kind in ("int", "float"):
        if len(written) > MAX_DIGITS:
            raise FormatError(f"{at(node.mark)}a number is too long (more than {MAX_DIGITS} digits)")
        node.value = _whole_number(written) if kind == "int" else _double(written)
    elif kind in ("null", "bool"):
        node.value = None if kind == "null" else written[0] in "tT"
    return node


def _kind_by_tag(event: Any, kind: str) -> str:
    """Return the kind that a tag demands, if a text of this ``kind`` can have it."""
    tagged = event.tag.removeprefix(_TAG)
    if tagged not in ("null", "bool", "int", "float", "timestamp"):
        raise _wrong_tag(event)
    if tagged not in (kind, "timestamp") and (tagged, kind) != ("float", "int"):
        raise FormatError(
            f"{at(event.start_mark)}the value does not have the type of its tag !!{tagged}; "
            "leave the tag out, or correct the value"
        )
    return str(tagged)


def _wrong_tag(event: Any) -> FormatError:
    tag = shown(event.tag.replace(_TAG, "!!", 1))
    if event.tag in _JSON_TAGS:
        return FormatError(f"{at(event.start_mark)}the tag {tag} does not fit its value; leave it out")
    return FormatError(f"{at(event.start_mark)}the tag {tag} has no meaning in JSON; {quote_marks()}")


def _whole_number(written: str) -> int:
    base = {"0o": 8, "0x": 16}.get(written[:2], 10)
    return int(written, base) if base != 10 else int(written)


def _double(written: str) -> float:
    return float(written.lower().replace(".inf", "inf").replace(".nan", "nan"))
