"""The audit of dependencies: a vulnerability fails the gate unless an exception explains it, for a time."""

import importlib.util
import sys
from datetime import date
from types import ModuleType
from typing import Any

import pytest

from tests.support.documentation import ROOT

TODAY = date(2026, 11, 27)
PIP_REPORT: dict[str, Any] = {
    "dependencies": [
        {"name": "starlette", "version": "1.10.0", "vulns": []},
        {"name": "uvloop", "skip_reason": "Dependency not found on PyPI"},
        {
            "name": "aiohttp",
            "version": "3.12.0",
            "vulns": [
                {
                    "id": "PYSEC-2026-1",
                    "fix_versions": ["3.14.5"],
                    "aliases": ["CVE-2026-1", "GHSA-aaaa-bbbb-cccc"],
                    "description": "A request can be smuggled.",
                }
            ],
        },
    ],
    "fixes": [],
}
NPM_REPORT: dict[str, Any] = {
    "auditReportVersion": 2,
    "vulnerabilities": {
        "vite": {
            "name": "vite",
            "range": "<8.3.9",
            "via": [{"url": "https://github.com/advisories/GHSA-dddd-eeee-ffff", "severity": "high"}],
        },
        "wrapper": {"name": "wrapper", "range": "*", "via": ["vite"]},
    },
}
EXCEPTION = {"id": "CVE-2026-1", "package": "aiohttp", "reason": "no server of it runs", "until": TODAY}


@pytest.fixture(scope="module")
def chain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply_chain", ROOT / ".ci" / "supply_chain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_reports_are_read(chain: ModuleType) -> None:
    pypi = chain.read_pip_audit(PIP_REPORT)
    assert (pypi.audited, pypi.skipped, [each.package for each in pypi.found]) == (2, 1, ["aiohttp"])
    npm = chain.read_npm_audit(NPM_REPORT, 58)
    assert (npm.audited, npm.skipped) == (58, 0)
    assert [(each.package, each.id) for each in npm.found] == [("vite", "GHSA-dddd-eeee-ffff")]


def test_a_registry_without_advisories_has_audited_nothing(chain: ModuleType) -> None:
    npm = chain.read_npm_audit({"message": "405 Method Not Allowed", "statusCode": 405}, 58)
    assert (npm.audited, npm.skipped) == (0, 58)


def test_a_vulnerability_fails_unless_it_is_explained(chain: ModuleType) -> None:
    found = chain.read_pip_audit(PIP_REPORT).found
    (line,) = chain.unexplained(found, [], TODAY)
    assert line.startswith("aiohttp 3.12.0 has a known vulnerability: PYSEC-2026-1, CVE-2026-1")
    assert line.endswith("fixed in 3.14.5")
    assert chain.unexplained(found, [EXCEPTION], TODAY) == []


@pytest.mark.parametrize(
    "changes",
    [{"until": date(2026, 11, 26)}, {"package": "vite"}, {"id": "CVE-2026-2"}, {"reason": " "}],
    ids=["ended", "other package", "other vulnerability", "no reason"],
)
def test_an_exception_is_for_one_vulnerability_and_a_time(chain: ModuleType, changes: dict[str, Any]) -> None:
    found = chain.read_pip_audit(PIP_REPORT).found
    assert chain.unexplained(found, [{**EXCEPTION, **changes}], TODAY)


def test_the_bill_has_the_components_of_both_registries(chain: ModuleType) -> None:
    python = {"bomFormat": "CycloneDX", "components": [{"name": "starlette"}], "dependencies": [{"ref": "a"}]}
    browser = {"components": [{"name": "socket.io-client"}], "dependencies": [{"ref": "b"}]}
    whole = chain.merged(python, browser)
    assert whole["bomFormat"] == "CycloneDX"
    assert [each["name"] for each in whole["components"]] == ["starlette", "socket.io-client"]
    assert [each["ref"] for each in whole["dependencies"]] == ["a", "b"]
