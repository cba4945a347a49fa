"""Rules that the test suite itself keeps."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
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
