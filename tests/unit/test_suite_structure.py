"""Rules that the test suite itself follows."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Protocol

import pytest

from app.contracts import ports
from tests.support.sources import called_name, nodes_of, tree_of

TESTS = Path(__file__).parents[1]
CONTRACTS = sorted((TESTS / "contract").glob("test_*.py"))
MODULES = sorted(TESTS.rglob("*.py"))


def may_import_a_test_module(source: str) -> bool:
    """Return whether the text of a module can have such an import; most are not parsed so."""
    return re.search(r"\btests\.(?!support\b)|\bimport tests\b|\bfrom (tests\b(?!\.)|\.)", source) is not None


def imported_modules(source: str) -> list[str]:
    """Return the absolute names that a module imports, wherever the statement stands.

    A name imported from a package counts as a module of it, because it can be one.
    """
    names: list[str] = []
    for node in nodes_of(tree_of(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def is_test_module(name: str) -> bool:
    """Return whether a dotted name is in a test module or a conftest."""
    parts = name.split(".")
    return parts[0] == "tests" and any(part == "conftest" or part.startswith("test_") for part in parts[1:])


def test_no_module_imports_a_test_module() -> None:
    found = [
        f"{module.relative_to(TESTS)}: {name}"
        for module in MODULES
        if may_import_a_test_module(source := module.read_text())
        for name in imported_modules(source)
        if is_test_module(name)
    ]
    assert found == [], "move what is shared to tests/support"


def test_the_check_finds_every_form_of_import() -> None:
    source = (
        "from tests.unit.test_a import b\nfrom tests.unit import test_a\nimport tests.conftest\n"
        "def f():\n    from tests.e2e.conftest import g\n"
    )
    assert all(
        map(may_import_a_test_module, (*source.splitlines()[:3], source.splitlines()[-1], "from . import a"))
    )
    found = [name for name in imported_modules(source) if is_test_module(name)]
    assert found == [
        "tests.unit.test_a.b",
        "tests.unit.test_a",
        "tests.conftest",
        "tests.e2e.conftest.g",
    ]


def ports_of(suite: Path) -> list[str]:
    """Return the names of the ports that a contract suite declares in ``PORTS``."""
    for node in tree_of(suite.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PORTS":
            assert isinstance(node.value, ast.Tuple)
            return [ast.unparse(name) for name in node.value.elts]
    raise AssertionError(f"{suite.name} does not declare its PORTS")


def attributes_used(source: str) -> set[str]:
    """Return the names of all attributes that a module reads or calls."""
    return {node.attr for node in nodes_of(tree_of(source)) if isinstance(node, ast.Attribute)}


def test_every_port_has_a_contract_suite_that_uses_all_its_members() -> None:
    protocols = {
        name: port
        for module in pkgutil.iter_modules(ports.__path__, f"{ports.__name__}.")
        for name, port in vars(importlib.import_module(module.name)).items()
        if getattr(port, "_is_protocol", False) and port is not Protocol
    }
    suites = {name: suite for suite in CONTRACTS for name in ports_of(suite)}
    assert suites.keys() == protocols.keys()
    unused = {
        f"{name}.{member}"
        for name, port in protocols.items()
        for member in vars(port).keys() - attributes_used(suites[name].read_text())
        if not member.startswith("_")
    }
    assert unused == set(), "a contract suite calls every member of its port"


NO_OTHER_WAY = {"tests/support/mock_database.py": "mongomock offers no way to add an operator"}


PRIVATE = re.compile(r"""(?<!\bself)(?<!\bcls)\.\s*_[^_\W]|["'](?:[\w.]+\.)?_[^_\W]""")
"""Every text with a private attribute of another object has it."""


def private_writes(source: str) -> list[str]:
    """Return the statements that write to a private attribute of another object, or inside one.

    ``self`` and ``cls`` may: a fake that extends a part writes to what it inherits.
    """
    if not PRIVATE.search(source):
        return []
    found = []
    for node in nodes_of(tree_of(source)):
        if isinstance(node, ast.Assign | ast.Delete):
            written: list[ast.expr] = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            written = [node.target]
        elif isinstance(node, ast.Call) and called_name(node) in SETTERS:
            written = [part for argument in node.args[:2] for part in named_by(argument)]
        else:
            continue
        if any(is_private(part) for target in written for part in ast.walk(target)):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


SETTERS = ("setattr", "delattr", "setitem", "delitem")
"""Of Python and of ``pytest.MonkeyPatch``."""


def named_by(argument: ast.expr) -> list[ast.expr]:
    """Return an argument, and the attribute that it names as text."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return [ast.Attribute(ast.Name("named"), argument.value.split(".")[-1])]
    return [argument]


def is_private(node: ast.AST) -> bool:
    """Return whether an expression is a private attribute of anything but ``self`` and ``cls``."""
    if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
        return False
    return not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))


def test_no_test_writes_to_private_attributes_of_other_objects() -> None:
    found = {
        f"tests/{module.relative_to(TESTS)}": writes
        for module in MODULES
        if (writes := private_writes(module.read_text()))
    }
    assert found.keys() == NO_OTHER_WAY.keys(), found


@pytest.mark.parametrize(
    ("statement", "is_write"),
    [
        ("service._states = store", True),
        ("service._changes.executor.states = store", True),
        ("bus._handlers['a'] = handle", True),
        ("del bus._handlers", True),
        ("counter._value += 1", True),
        ("monkeypatch.setattr(store, '_write', fail)", True),
        ("monkeypatch.setattr(service._store, 'latest', fail)", True),
        ("monkeypatch.setattr('app.main._connect', fail)", True),
        ("setattr(store, '_write', fail)", True),
        ("self._seen = []", False),
        ("seen = bus._handlers", False),
        ("monkeypatch.setattr(store, 'write', fail)", False),
        ("module.__doc__ = ''", False),
    ],
)
def test_the_check_finds_every_form_of_write(statement: str, is_write: bool) -> None:
    assert bool(private_writes(statement)) is is_write
