"""When the browser files are built, and what the build asks for."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from app.web.build import build_requirements
from app.web.bundle import ENTRY, WEB, Bundle
from app.web.node import NODE_REQUIREMENT, NodeRuntime
from tests.support.bundles import copy_sources

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a current bundle of a copy of the sources."""
    return copy_sources(tmp_path / "web")


def test_a_current_bundle_needs_nothing(bundle: Bundle) -> None:
    assert bundle.is_current
    assert build_requirements(bundle) == []


@pytest.mark.parametrize("name", ["client/flow-client.js", "package-lock.json", ".npmrc", "vite.config.js"])
def test_a_changed_source_needs_node(bundle: Bundle, name: str) -> None:
    (bundle.folder / name).write_text("changed")
    assert build_requirements(bundle) == [NODE_REQUIREMENT]


def test_an_added_and_a_renamed_source_need_node(bundle: Bundle) -> None:
    before = bundle.digest_sources()
    (bundle.folder / "client" / "more.js").touch()
    added = bundle.digest_sources()
    (bundle.folder / "client" / "more.js").rename(bundle.folder / "client" / "renamed.js")
    assert len({before, added, bundle.digest_sources()}) == 3


def test_what_is_not_a_source_does_not_count(bundle: Bundle) -> None:
    (bundle.folder / "node_modules").mkdir()
    (bundle.folder / "node_modules" / "x.js").write_text("x")
    (bundle.folder / "build.py").write_text("x")
    assert bundle.is_current


def test_line_endings_do_not_count(bundle: Bundle) -> None:
    source = bundle.folder / "client" / "flow-client.js"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert bundle.is_current


def test_a_missing_or_incomplete_bundle_needs_node(bundle: Bundle) -> None:
    (bundle.files / ENTRY).unlink()
    assert build_requirements(bundle) == [NODE_REQUIREMENT]
    shutil.rmtree(bundle.files)
    assert build_requirements(bundle) == [NODE_REQUIREMENT]


@pytest.mark.parametrize(("value", "skipped"), [("1", True), ("0", False), ("", False)])
def test_the_build_can_be_skipped(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, value: str, skipped: bool
) -> None:
    (bundle.folder / "vite.config.js").write_text("changed")
    monkeypatch.setenv("FLOW_SKIP_WEB_BUILD", value)
    assert build_requirements(bundle) == ([] if skipped else [NODE_REQUIREMENT])


@pytest.mark.parametrize(
    ("system", "machine", "libc", "there_is_one"),
    [
        ("linux", "x86_64", ("glibc", "2.36"), True),
        ("linux", "aarch64", ("glibc", "2.28"), True),
        ("linux", "x86_64", ("glibc", "2.17"), False),
        ("linux", "x86_64", ("", ""), False),  # musl
        ("linux", "armv7l", ("glibc", "2.36"), False),
        ("darwin", "arm64", ("", ""), True),
        ("win32", "AMD64", ("", ""), True),
        ("freebsd14", "amd64", ("", ""), False),
    ],
)
def test_node_is_asked_for_where_pypi_has_it(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    libc: tuple[str, str],
    there_is_one: bool,
) -> None:
    monkeypatch.setattr("app.web.node.sys.platform", system)
    monkeypatch.setattr("app.web.node.platform.machine", lambda: machine)
    monkeypatch.setattr("app.web.node.platform.libc_ver", lambda: libc)
    shutil.rmtree(bundle.files)
    assert build_requirements(bundle) == ([NODE_REQUIREMENT] if there_is_one else [])


def test_node_comes_first_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.touch()
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("PIP_CERT", str(authorities))
    for name in ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    env = NodeRuntime(tmp_path / "node", ("npm",)).environment()
    assert env["PATH"].startswith(f"{tmp_path}")
    assert env["NODE_EXTRA_CA_CERTS"] == str(authorities)
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", "own.pem")
    assert NodeRuntime(tmp_path / "node", ("npm",)).environment()["NODE_EXTRA_CA_CERTS"] == "own.pem"


def test_node_is_pinned_once() -> None:
    assert NODE_REQUIREMENT in (ROOT / "constraints.txt").read_text().splitlines()


def test_packages_of_npm_have_exact_versions_and_the_lock_names_no_registry() -> None:
    package = json.loads((WEB / "package.json").read_text())
    versions = [*package["dependencies"].values(), *package["devDependencies"].values()]
    assert [version for version in versions if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []
    locked = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert [name for name, entry in locked.items() if "resolved" in entry] == []
    assert [name for name, entry in locked.items() if name and "integrity" not in entry] == []
    assert "omit-lockfile-registry-resolved=true" in (WEB / ".npmrc").read_text().splitlines()


def test_the_client_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert json.loads((WEB / "client" / "package.json").read_text())["version"] == project["version"]
