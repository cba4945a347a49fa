"""Rules that the test suite itself keeps."""

import ast
from pathlib import Path

from app.contracts import ports

TESTS = Path(__file__).parents[1]
CONTRACTS = sorted((TESTS / "contract").glob("test_*.py"))
MODULES = sorted(TESTS.rglob("*.py"))


def imported_modules(source: str) -> list[str]:
    """Return the absolute names that a module imports, wherever the statement stands.

    A name imported from a package counts as a module of it, because it can be one.
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def is_test_module(name: str) -> bool:
    """Tell whether a dotted name is in a test module or a conftest."""
    parts = name.split(".")
    return parts[0] == "tests" and any(part == "conftest" or part.startswith("test_") for part in parts[1:])


def test_no_module_imports_a_test_module() -> None:
    found = [
        f"{module.relative_to(TESTS)}: {name}"
        for module in MODULES
        for name in imported_modules(module.read_text())
        if is_test_module(name)
    ]
    assert found == [], "move what is shared to tests/support"


def test_the_check_finds_every_form_of_import() -> None:
    source = (
        "from tests.unit.test_a import b\nfrom tests.unit import test_a\nimport tests.conftest\n"
        "def f():\n    from tests.e2e.conftest import g\n"
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
    for node in ast.parse(suite.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PORTS":
            assert isinstance(node.value, ast.Tuple)
            return [ast.unparse(name) for name in node.value.elts]
    raise AssertionError(f"{suite.name} does not declare its PORTS")


def attributes_used(source: str) -> set[str]:
    """Return the names of all attributes that a module reads or calls."""
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def test_every_port_has_a_contract_suite_that_uses_all_its_members() -> None:
    protocols = {name: port for name, port in vars(ports).items() if getattr(port, "_is_protocol", False)}
    del protocols["Protocol"]
    suites = {name: suite for suite in CONTRACTS for name in ports_of(suite)}
    assert suites.keys() == protocols.keys()
    unused = {
        f"{name}.{member}"
        for name, port in protocols.items()
        for member in vars(port).keys() - attributes_used(suites[name].read_text())
        if not member.startswith("_")
    }
    assert unused == set(), "a contract suite calls every member of its port"
