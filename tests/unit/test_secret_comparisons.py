"""Secrets are compared in constant time, and not by ``==``."""

import ast
from pathlib import Path

from tests.support.sources import nodes_of, tree_of

ROOT = Path(__file__).parents[2]
SECRETS = {
    "signature",
    "signatures",
    "hashed",
    "secret",
    "secrets",
    "mac",
    "password",
    "commitment",
    "token",
    "api_key",
    "digest",
    "expected_signature",
    "bearer",
    "credential",
}
ALLOWED = {
    "app/services/definitions/source_mirror.py": "digest: of a definition, to see whether it changed",
    "app/sources/files.py": "digest: of a file, to see whether it changed",
    "app/auth/keys.py": "digest: of public keys, to see whether they changed",
    "app/crypto/data_keys.py": "commitment: two stored ones; a request gives neither",
    "app/flow/history_forms.py": "commitment: stands in records, which their readers have",
}
"""Comparisons of values by such a name that are no secrets."""


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def comparisons(source: str) -> list[int]:
    """Return the lines in which something by the name of a secret is compared with a value."""
    found = []
    for node in nodes_of(tree_of(source)):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        by_equality = all(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops)
        plain = any(isinstance(side, ast.Constant) for side in sides)
        if by_equality and not plain and any(name_of(side).lstrip("_") in SECRETS for side in sides):
            found.append(node.lineno)
    return found


def test_comparisons_are_found() -> None:
    assert comparisons("a.hashed == b\nif signature != expected: pass\nx == 'secret'\nsecret == ''") == [1, 2]


def test_no_secret_is_compared_by_equality() -> None:
    found = {}
    for package in ("app", "models", "realtime", "config"):
        for module in (ROOT / package).rglob("*.py"):
            lines = comparisons(module.read_text())
            if lines:
                found[module.relative_to(ROOT).as_posix()] = lines
    assert found.keys() == ALLOWED.keys(), found
