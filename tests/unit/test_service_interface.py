"""The interface of the service for Python programs, where it is written down more than once."""

import ast
import inspect
import re

from app.services import FlowService
from app.services.trusted import TrustedFlows
from app.services.wiring import Limits
from tests.support.documentation import ROOT, page


def operations(of: type) -> set[str]:
    """Return the names of the public coroutines of a class."""
    methods = inspect.getmembers(of, inspect.iscoroutinefunction)
    return {name for name, _ in methods if not name.startswith("_")}


def test_trusted_code_has_every_operation_of_the_service() -> None:
    assert operations(TrustedFlows) == operations(FlowService)


def test_the_guide_lists_every_operation() -> None:
    row = re.search(r"\| `service\.as_trusted\(\)` \| `([^`]*)` \|", page("docs/guides/embed-in-python.md"))
    assert row is not None
    assert set(row[1].split(", ")) == operations(TrustedFlows)


def test_every_limit_is_passed_on_from_the_settings() -> None:
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / "app" / "main.py").read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Limits"
    ]
    assert [{keyword.arg for keyword in call.keywords} for call in calls] == [set(Limits.__struct_fields__)]
