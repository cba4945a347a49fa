"""Wheels and sdists have the browser files in them, and no commit has."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from app.http.routes.pages import PAGES
from app.web.build import WebBuildError, build
from app.web.bundle import Bundle
from app.web.node import NODE_REQUIREMENT, find_node
from tests.support.bundles import copy_sources
from tests.support.documentation import ROOT

pytestmark = pytest.mark.timeout(400)  # Node and npm's packages may have to be downloaded first

BUILT = "app/web/built"
BUNDLED = ("engine.io-client", "socket.io-client", "socket.io-parser", "swagger-ui-dist")
GENERATED = re.compile(r"(?:^|/)(?:built|dist|node_modules|__pycache__)/|[.]min[.]|[.]map$")
MAX_LINE_CHARACTERS = 500
"""A longer line of JavaScript or CSS is minified."""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a current bundle of a copy of the sources."""
    return copy_sources(tmp_path / "web")


def source_files() -> Iterator[str]:
    """List the files under version control.

    Outside a checkout, as in an unpacked sdist, those are the files that a checkout would not ignore.
    """
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        yield from filter(None, listed.stdout.split("\0"))
        return
    print("This is no git checkout: every file is checked that git would not ignore.")
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    for file in ROOT.rglob("*"):
        name = file.relative_to(ROOT)
        ancestors = {*name.parts, *(parent.as_posix() for parent in name.parents)}
        if file.is_file() and not ancestors & ignored:
            yield name.as_posix()


def test_no_minified_or_generated_file_is_tracked() -> None:
    files = list(source_files())
    assert "app/web/client/flow-client.js" in files
    assert [name for name in files if GENERATED.search(name)] == []
    scripts = [name for name in files if Path(name).suffix in {".js", ".mjs", ".css", ".html", ".ts"}]
    longest = {name: max(map(len, (ROOT / name).read_text().splitlines())) for name in scripts}
    assert {name: length for name, length in longest.items() if length > MAX_LINE_CHARACTERS} == {}
    assert [name for name in scripts if "sourceMappingURL" in (ROOT / name).read_text()] == []


def copy_checkout(folder: Path) -> Path:
    """Copy what is tracked, without the tests."""
    for name in source_files():
        if not name.startswith("tests/"):
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy)
    return folder


def call_hook(source: Path, hook: str, *arguments: Path, **env: str) -> tuple[str, str]:
    """Call a hook of the build backend as pip does: its result, and what it reported about the bundle."""
    script = "import sys, build_backend as backend; print(getattr(backend, sys.argv[1])(*sys.argv[2:]))"
    inherited = {name: value for name, value in os.environ.items() if name != "FLOW_SKIP_WEB_BUILD"}
    done = subprocess.run(
        [sys.executable, "-c", script, hook, *map(str, arguments)],
        cwd=source,
        env={**inherited, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports = [line for line in done.stderr.splitlines() if "browser files" in line]
    return done.stdout.splitlines()[-1], "\n".join(reports)


def web_build(wheel: Path, to: Path, code: int) -> str:
    """Run ``server-flow web build`` in an installation of a wheel, and return what was printed."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(to), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", "from app.cli import main; main()", "web", "build"],
        env={**os.environ, "PYTHONPATH": str(to)},
        cwd=to,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout."""
    return copy_checkout(tmp_path / "checkout")


class Sdist(NamedTuple):
    """An unpacked sdist, and what the backend asked for before and after it was built."""

    folder: Path
    needed_before: str
    needed_after: str


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Sdist:
    """Build an sdist from a fresh checkout, and unpack it."""
    folder = tmp_path_factory.mktemp("sdist")
    checkout = copy_checkout(folder / "checkout")
    before, _ = call_hook(checkout, "get_requires_for_build_editable")
    name, reports = call_hook(checkout, "build_sdist", folder)
    assert reports == ""
    after, _ = call_hook(checkout, "get_requires_for_build_editable")
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return Sdist(unpacked, before, after)


@pytest.fixture(scope="module")
def wheel(sdist: Sdist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    return folder / call_hook(sdist.folder, "build_wheel", folder)[0]


def test_the_wheel_has_the_bundle_and_its_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        client = archive.read(f"{BUILT}/flow-client.js").decode()
        notices = archive.read(f"{BUILT}/third-party-notices.md").decode()
        types = archive.read(f"{BUILT}/flow-client.d.ts")
    assert "FlowClient" in client.rpartition("export")[2]
    assert types == (ROOT / "app/web/client/flow-client.d.ts").read_bytes()
    for package in BUNDLED:
        assert f"## {package} - " in notices
    for licence in ("Permission is hereby granted", "Apache License", "Bundled in swagger-ui-dist"):
        assert licence in notices
    pages = {f"{BUILT}/site/{name}" for name in PAGES.values()}
    assert pages <= names
    sources = {
        name for name in names if name.startswith(("app/web/client/", "app/web/site/", "app/web/style/"))
    }
    assert sources == set()
    assert [name for name in names if "node_modules" in name or name.startswith("build_backend")] == []


def test_a_checkout_needs_node_once(sdist: Sdist) -> None:
    assert sdist.needed_before == repr([NODE_REQUIREMENT])
    assert sdist.needed_after == "[]"


def test_the_sdist_has_the_bundle_so_that_its_wheel_needs_no_node(sdist: Sdist) -> None:
    assert Bundle(sdist.folder / "app" / "web").is_current
    for hook in ("get_requires_for_build_wheel", "get_requires_for_build_sdist"):
        assert call_hook(sdist.folder, hook) == ("[]", "")


@pytest.mark.long
def test_a_failing_build_leaves_the_present_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real npm, and a registry that refuses connections."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(bundle.folder / "empty-cache"))
    (bundle.folder / "client" / "flow-client.js").write_text("changed")
    with pytest.raises(WebBuildError, match=r"\Anpm ci failed: [^\n]*ECONNREFUSED[^\n]*\Z"):
        build(bundle)
    assert bundle.exists
    assert not bundle.is_current
    assert [file.name for file in bundle.folder.glob(".built-*")] == []


def test_a_failing_build_names_the_reason(bundle: Bundle) -> None:
    (bundle.folder / "site" / "home.js").write_text("import {")
    with pytest.raises(WebBuildError, match=r"\Avite build failed: \[PARSE_ERROR\] [^\n]*\Z") as failure:
        build(bundle)
    assert "site/home.js:1" in failure.value.output


@pytest.mark.long
def test_a_build_replaces_the_present_bundle(bundle: Bundle) -> None:
    (bundle.folder / "client" / "more.js").write_text("// another source")
    (bundle.files / "left-over.js").touch()
    build(bundle)
    assert bundle.is_current
    assert not (bundle.files / "left-over.js").exists()
    assert not (bundle.folder / "node_modules").exists()


def test_an_installation_without_an_npm_registry_succeeds(checkout: Path, tmp_path: Path) -> None:
    registry = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_cache": str(tmp_path / "npm")}
    name, report = call_hook(checkout, "build_wheel", tmp_path, **registry)
    assert re.match(r"The browser files were not built: npm ci failed: [^\n]*ECONNREFUSED[^\n]*\Z", report)
    assert "server-flow web build" in report
    assert not (checkout / BUILT).exists()
    printed = web_build(tmp_path / name, tmp_path / "installed", 1)
    assert printed.startswith("server-flow: this wheel was built without browser files")


def test_the_build_can_be_skipped(checkout: Path, tmp_path: Path) -> None:
    skip = {"FLOW_SKIP_WEB_BUILD": "1"}
    assert call_hook(checkout, "get_requires_for_build_editable", **skip) == ("[]", "")
    _, report = call_hook(checkout, "build_editable", tmp_path, **skip)
    assert report.startswith("The browser files were not built, because FLOW_SKIP_WEB_BUILD is set.")
    assert not (checkout / BUILT).exists()


def test_there_is_nothing_to_build_in_a_wheel(wheel: Path, tmp_path: Path) -> None:
    printed = web_build(wheel, tmp_path / "installed", 0)
    assert printed.startswith("Nothing to do: this installation came with its browser files")


def test_node_is_found_in_this_environment() -> None:
    with find_node() as found:
        printed = subprocess.run([found.executable, "--version"], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == f"v{NODE_REQUIREMENT.rpartition('==')[2]}"
