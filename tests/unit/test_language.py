"""The rules of language and size that the code follows: docs/CONTRIBUTING.md explains them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, page
from tests.support.long_form import form
from tests.support.sources import called_name, nodes_of, tree_of

ROOMS = ("app", "models", "realtime", "config")
"""Folders of the service whose language is checked."""
TEST_ROOMS = form("language: rooms of tests", short=(), long=("bench", "tests"))
"""Folders whose words are checked too."""

MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 50
MAX_NESTING = 4

VAGUE_BEGINNING = re.compile(r"\s*(What|Who|Whether|Those|That which)\b")
VAGUE_WORDS = frozenset(
    [
        *("tell", "tells", "told", "telling", "untold"),
        *("hear", "hears", "heard", "hearing", "unheard"),
        *("keep", "keeps", "kept", "keeping", "keeper", "keepers", "unkept", "keepable", "unkeepable"),
    ]
)
"""Say published, received, stored, retained, … instead: the word that an engineer would search for."""
EXTERNAL_NAMES = {
    "keep_alive": "HTTP's term for a connection that is used again",
    "timeout_keep_alive": "an option of uvicorn",
    "keep_subprocess_alive": "a method of uvicorn's supervisor, which ours overrides",
}
EXTERNAL_TERMS = re.compile(r"keep-alive", re.IGNORECASE)

LOG_METHODS = frozenset(["debug", "info", "warning", "error", "critical", "exception", "msg"])
LOGGERS = (["log"], ["_log"], ["logger"], ["_library_log"])
MESSAGE_CALLS = re.compile(
    r"(?:.*(?:Error|Exception|Fault|Finding|Refusal)|echo|secho|say|option|argument)\Z"
)
COMMAND_DECORATORS = re.compile(r"(?:.*[._])?(?:command|group)\b")
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NAMES = (ast.Name, ast.Attribute)
NAMING = {
    *(ast.ClassDef, *FUNCTIONS, ast.arg, *NAMES, ast.Import, ast.ImportFrom),
    *(ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping),
}
"""Nodes that can define a name."""
STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)
"""Nodes in which a block can be."""
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


def modules_of(rooms: tuple[str, ...]) -> list[Path]:
    """Return the Python modules of rooms, each of which is a folder or a module."""
    modules: list[Path] = []
    for room in rooms:
        path = ROOT / room
        assert path.exists(), f"there is no room {room}"
        modules += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return modules


def shown(module: Path, line: int) -> str:
    return f"{module.relative_to(ROOT)}:{line}"


def tree_of_file(module: Path) -> ast.Module:
    return tree_of(module.read_text())


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a module and of its classes, functions and attributes, with their lines."""
    for node in nodes_of(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for position, statement in enumerate(body):
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not is_text or not isinstance(statement.value.value, str):
                continue
            before = body[position - 1] if position else None
            is_first = before is None and isinstance(node, DOCUMENTED)
            if is_first or isinstance(before, ast.Assign | ast.AnnAssign):
                yield statement.lineno, statement.value.value


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a module defines: classes, functions, arguments, variables and attributes."""
    for node in nodes_of(tree):
        if type(node) not in NAMING:
            continue
        names: list[str | None] = []
        if isinstance(node, NAMES):
            stored = isinstance(node.ctx, ast.Store)
            names = [node.id if isinstance(node, ast.Name) else node.attr] if stored else []
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            names = [node.name]
        elif isinstance(node, ast.MatchMapping):
            names = [node.rest]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.asname for alias in node.names]
        for name in names:
            if name is not None:
                yield getattr(node, "lineno", 0), name


@cache
def words_of(identifier: str) -> list[str]:
    """Return the words of a name in snake_case or CamelCase, in small letters."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def texts_for_people(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield log events, messages of errors and findings, lines for the terminal, and help of commands."""
    for node in nodes_of(tree):
        if isinstance(node, FUNCTIONS) and any(is_command(each) for each in node.decorator_list):
            yield node.lineno, ast.get_docstring(node) or ""
        if isinstance(node, ast.Call):
            for argument in _shown_arguments(node):
                yield node.lineno, _literal_text(argument)


def is_command(decorator: ast.expr) -> bool:
    """Return True if a decorator makes a command, whose help is the docstring of its function."""
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return COMMAND_DECORATORS.fullmatch(ast.unparse(function)) is not None


def _shown_arguments(call: ast.Call) -> list[ast.expr]:
    name = called_name(call)
    if name in LOG_METHODS and ast.unparse(call.func).split(".")[-2:-1] in LOGGERS:
        return call.args[:1]
    helps = [each.value for each in call.keywords if each.arg in ("help", "summary", "description")]
    if MESSAGE_CALLS.match(name):
        named = [each.value for each in call.keywords if each.arg in ("message", "reason", "text")]
        return [*call.args, *named, *helps]
    return helps


def _literal_text(expression: ast.expr) -> str:
    """Return the literal parts of a text, also of one that is put together from several."""
    parts = [
        node.value
        for node in ast.walk(expression)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return " … ".join(parts)


def vague_words(text: str) -> list[str]:
    """Return the vague words of a text."""
    words = re.findall(r"[a-z]+", EXTERNAL_TERMS.sub("", text).lower())
    return [word for word in words if word in VAGUE_WORDS]


def nesting(function: ast.AST) -> int:
    """Return how many blocks of a function are inside one another; nested functions count on their own."""
    return max((_depth(child) for child in ast.iter_child_nodes(function)), default=0)


def _depth(node: ast.AST) -> int:
    if not isinstance(node, STATEMENTS) or isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return 0
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        inside = max(map(_depth, node.body))
        return max(inside + 1, _depth(node.orelse[0]))  # elif is no further level
    inside = max((_depth(child) for child in ast.iter_child_nodes(node)), default=0)
    return inside + 1 if isinstance(node, BLOCKS) else inside


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    found = [
        f"{shown(module, line)}: {text.strip().splitlines()[0]}"
        for module in modules_of(ROOMS + TEST_ROOMS)
        for line, text in docstrings(tree_of_file(module))
        if VAGUE_BEGINNING.match(text)
    ]
    assert not found, "\n".join(["", *found])


def test_no_name_has_a_vague_word() -> None:
    found = []
    for module in modules_of(ROOMS + TEST_ROOMS):
        if VAGUE_WORDS.intersection(words_of(module.stem)):
            found.append(f"{module.relative_to(ROOT)}: the name of the module")
        for line, name in identifiers(tree_of_file(module)):
            if name not in EXTERNAL_NAMES and VAGUE_WORDS.intersection(words_of(name)):
                found.append(f"{shown(module, line)}: {name}")
    assert not found, "\n".join(["", *dict.fromkeys(found)])


def test_no_log_event_or_message_has_a_vague_word() -> None:
    found = [
        f"{shown(module, line)}: {', '.join(vague_words(text))}: {text!r}"
        for module in modules_of(ROOMS + TEST_ROOMS)
        for line, text in texts_for_people(tree_of_file(module))
        if vague_words(text)
    ]
    assert not found, "\n".join(["", *found])


def test_modules_and_functions_are_short_and_flat() -> None:
    found = []
    for module in modules_of(ROOMS):
        lines = len(module.read_text().splitlines())
        if lines > MAX_MODULE_LINES:
            found.append(f"{module.relative_to(ROOT)}: {lines} lines")
        for node in nodes_of(tree_of_file(module)):
            if not isinstance(node, FUNCTIONS):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"{shown(module, node.lineno)}: {node.name} has {length} lines")
            if nesting(node) > MAX_NESTING:
                found.append(f"{shown(module, node.lineno)}: {node.name} nests {nesting(node)} levels")
    assert not found, "\n".join(["", *found])


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules_of(ROOMS):
        for node in tree_of_file(module).body:  # a nested class is named through the one around it
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(shown(module, node.lineno))
    found = [f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1]
    assert not found, "\n".join(["", *found])


def test_the_checks_find_every_form_of_a_docstring() -> None:
    source = '"""A."""\nX = 1\n"""B."""\nclass C:\n    """D."""\n    e: int\n    """E."""\n'
    source += 'def f():\n    """F."""\n    "no docstring"\nasync def g(self):\n    self.h = 1\n    """H."""\n'
    assert sorted(text for _, text in docstrings(ast.parse(source))) == ["A.", "B.", "D.", "E.", "F.", "H."]


def test_the_checks_find_every_form_of_a_name() -> None:
    source = (
        "import a as b\nclass C:\n    d: int\ndef e(f, *g, h=1, **i):\n    j, k = 1, 2\n    f.l = 3\n"
        "    for m in f: pass\n    with f as n: pass\n    try: pass\n    except X as o: pass\n"
        "    [p for p in f]\n    match f:\n        case {'q': q, **r}: pass\n        case [s, *t]: pass\n"
        "lambda u: 1\nif (v := 1): pass\nasync def w(): pass\n"
    )
    assert {name for _, name in identifiers(ast.parse(source))} == set("bCdefghijklmnopqrstuvw")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("as_told", ["as", "told"]),
        ("_heardOf", ["heard", "of"]),
        ("KeptValues", ["kept", "values"]),
        ("MAX_KEPT", ["max", "kept"]),
        ("HTTPKeeper2", ["http", "keeper"]),
        ("socket_keepalive", ["socket", "keepalive"]),
    ],
)
def test_the_words_of_a_name(name: str, words: list[str]) -> None:
    assert words_of(name) == words


@pytest.mark.parametrize(
    "statement",
    [
        "log.info('not heard')",
        "self._log.error(f'{x} is kept')",
        "raise ValueError('a ' + 'told')",
        "raise errors.FlowError(f'told {x}')",
        "Fault('/a', 'cannot be kept')",
        "Fault('/a', message='cannot be kept')",
        "click.echo('Kept.')",
        "say('it is kept')",
        "click.option('--x', help='tell')",
        "Endpoint(summary='Tell')",
        "@main.command()\ndef f():\n    '''Keep it.'''",
        "@click.group\ndef f():\n    '''Keep it.'''",
    ],
)
def test_the_checks_find_every_form_of_a_message(statement: str) -> None:
    assert [text for _, text in texts_for_people(ast.parse(statement)) if vague_words(text)]


@pytest.mark.parametrize(
    "statement",
    [
        "f('kept')",
        "def f():\n    '''Keep it.'''",
        "raise ValueError('a keep-alive')",
        "log.info('a', b='kept')",
    ],
)
def test_the_checks_leave_other_texts_alone(statement: str) -> None:
    assert not [text for _, text in texts_for_people(ast.parse(statement)) if vague_words(text)]


@pytest.mark.parametrize(
    ("body", "levels"),
    [
        ("pass", 0),
        ("if a:\n  for b in c:\n   with d:\n    pass", 3),
        ("if a:\n  pass\n elif b:\n  pass\n elif c:\n  while d: pass", 2),
        ("if a:\n  pass\n else:\n  if b: pass\n  pass", 2),
        ("try:\n  pass\n except X:\n  match a:\n   case 1: pass", 2),
        ("if a:\n  def g():\n   if b:\n    if c: pass", 1),
    ],
)
def test_the_levels_of_a_function(body: str, levels: int) -> None:
    (function,) = ast.parse(f"def f():\n {body}").body
    assert nesting(function) == levels


def test_the_glossary_has_every_term_once() -> None:
    terms = re.findall(r"^\| ([a-z][a-z -]+?) \| ", page("docs/glossary.md"), re.MULTILINE)
    terms = [term for term in terms if term != "term"]
    assert [term for term in terms if terms.count(term) > 1] == []
    required = (
        "flow definition version state epoch revision transition record history outbox relay sink subscriber "
        "topic channel lease fence tombstone migration rehearsal integration delivery attempt roll-up"
    )
    assert {*required.split(), "dead letter", "data key", "key ring"} - set(terms) == set()
