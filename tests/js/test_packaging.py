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

import pytest

from app.web.build import WebBuildError, build
from app.web.bundle import Bundle
from app.web.node import NODE_REQUIREMENT, find_node
from tests.support.bundles import copy_sources
from tests.support.readme import ROOT

pytestmark = pytest.mark.timeout(400)  # Node and npm's packages may have to be downloaded first

BUILT = "app/web/built"
BUNDLED = ("@socket.io/component-emitter", "engine.io-client", "socket.io-client", "socket.io-parser")
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


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Build an sdist from what is tracked, and a wheel from the sdist: both files, and what was printed."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in source_files():
        if not name.startswith("tests/"):
            copy = folder / "checkout" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder / "checkout")],
        env={name: value for name, value in os.environ.items() if name != "FLOW_SKIP_WEB_BUILD"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel, done.stdout


def test_the_wheel_has_the_bundle_and_its_licences(distributions: tuple[Path, Path, str]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
        client = wheel.read(f"{BUILT}/flow-client.js").decode()
        notices = wheel.read(f"{BUILT}/third-party-notices.md").decode()
        types = wheel.read(f"{BUILT}/flow-client.d.ts")
    assert "FlowClient" in client.rpartition("export")[2]
    assert types == (ROOT / "app/web/client/flow-client.d.ts").read_bytes()
    for package in BUNDLED:
        assert f"## {package} - " in notices
    assert "Permission is hereby granted" in notices
    sources = {name for name in names if name.startswith(("app/web/client", "app/web/site"))}
    assert sources == set()
    assert [name for name in names if "node_modules" in name or name.startswith("build_backend")] == []


def test_the_sdist_has_the_bundle_so_that_its_wheel_needs_no_node(
    distributions: tuple[Path, Path, str],
) -> None:
    sdist, _, printed = distributions
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"build_backend.py", "app/web/.npmrc", "app/web/client/browser.js", f"{BUILT}/flow-client.js"}
    assert wanted - names == set()
    of_sdist, separator, of_wheel = printed.partition("Building wheel from sdist")
    assert separator, printed
    assert NODE_REQUIREMENT in of_sdist
    assert "nodejs" not in of_wheel


def test_a_failing_build_keeps_the_present_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real npm, and a registry that refuses connections."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(bundle.folder / "empty-cache"))
    (bundle.folder / "client" / "flow-client.js").write_text("changed")
    with pytest.raises(WebBuildError, match=r"\Anpm ci failed: [^\n]*ECONNREFUSED[^\n]*\Z"):
        build(bundle)
    assert bundle.exists
    assert not bundle.is_current
    assert [file.name for file in bundle.folder.glob(".built-*")] == []


def test_a_build_replaces_the_present_bundle(bundle: Bundle) -> None:
    (bundle.folder / "client" / "more.js").write_text("// another source")
    (bundle.files / "left-over.js").touch()
    build(bundle)
    assert bundle.is_current
    assert not (bundle.files / "left-over.js").exists()
    assert not (bundle.folder / "node_modules").exists()


def test_the_hooks_report_a_failure_in_one_line_and_return(bundle: Bundle, tmp_path: Path) -> None:
    """The backend's own step before setuptools, on sources that cannot be bundled."""
    (bundle.folder / "package-lock.json").write_text("{}")
    script = (
        "import sys, types; from pathlib import Path\n"
        "sys.modules['setuptools'] = types.ModuleType('setuptools')\n"
        "sys.modules['setuptools'].build_meta = types.SimpleNamespace(\n"
        "  prepare_metadata_for_build_wheel=None, prepare_metadata_for_build_editable=None,\n"
        "  build_wheel=lambda *arguments: 'a.whl')\n"
        "import build_backend; from app.web.bundle import Bundle\n"
        "build_backend.BUNDLE = Bundle(Path(sys.argv[1]))\n"
        "print(build_backend.build_wheel('dist'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout == "a.whl\n"
    assert re.fullmatch(r"The browser files were not built: npm ci failed: .*\n", done.stderr)
    assert "server-flow web build" in done.stderr


def test_node_is_found_in_this_environment() -> None:
    with find_node() as found:
        printed = subprocess.run([found.executable, "--version"], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == f"v{NODE_REQUIREMENT.rpartition('==')[2]}"
