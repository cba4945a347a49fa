"""Builds the bundle with npm and Vite."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from app.web.bundle import ENTRY, MARK, NOTICES, Bundle
from app.web.node import NODE_REQUIREMENT, NodeMissingError, NodeRuntime, find_node, has_wheel

SKIP = "FLOW_SKIP_WEB_BUILD"
"""Environment variable; 1: installations build nothing."""
_NPM_SECONDS = 300
_VITE_SECONDS = 180
_NPM_CI = (
    "ci",
    "--ignore-scripts",
    "--include=dev",  # Vite; NODE_ENV=production would leave it out
    "--no-audit",
    "--no-fund",
    "--fetch-timeout=30000",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=5000",
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_REASONS = (
    re.compile(r"^\s*(?:\[[A-Z_]+\] )?(?:Error: )?(Could not .*)$", re.MULTILINE),  # Vite
    re.compile(r"^\s*(\[[A-Z_]+\] .*|\w*Error: .*)$", re.MULTILINE),  # Vite and its plugins
    re.compile(r"^npm (?:error|ERR!) (?!code |errno |syscall |A complete log)(\S.*)$", re.MULTILINE),
)
"""Lines that name a reason, the most specific first."""
MAX_REASON_CHARACTERS = 200


class WebBuildError(Exception):
    """The bundle could not be built. The message is one line.

    Args:
        message: What failed, and why.
        output: Everything that the failing command printed.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


def is_skipped() -> bool:
    """Return whether the environment disables the build during installations."""
    return os.environ.get(SKIP, "") not in ("", "0")


def build_requirements(bundle: Bundle) -> list[str]:
    """Return the packages that the build of this bundle requires: none if the bundle is current."""
    if is_skipped() or not bundle.has_sources or bundle.is_current or not has_wheel():
        return []
    return [NODE_REQUIREMENT]


def build(bundle: Bundle, *, download: bool = False) -> None:
    """Build the bundle in a temporary folder, and replace the existing one if that succeeded.

    Args:
        bundle: The bundle to build.
        download: Let pip download Node if it is missing.

    Raises:
        WebBuildError: The build failed; an existing bundle is unchanged.
    """
    digest = bundle.digest_sources()
    try:
        with (
            find_node(download=download) as node,
            tempfile.TemporaryDirectory(prefix="server-flow-web-") as folder,
        ):
            work = Bundle(Path(folder).resolve())
            _copy_sources(bundle, work)
            _run([*node.npm, *_NPM_CI], "npm ci", node, work.folder, _NPM_SECONDS)
            _run([*node.npm, "run", "build"], "vite build", node, work.folder, _VITE_SECONDS)
            for name in (ENTRY, NOTICES):
                if not (work.files / name).is_file():
                    raise WebBuildError(f"vite build made no {name}")
            (work.files / MARK).write_text(f"{digest}\n")
            _replace(bundle.files, work.files)
    except NodeMissingError as missing:
        raise WebBuildError(str(missing)) from None
    except OSError as refusal:
        raise WebBuildError(f"{refusal.filename or 'the bundle'}: {refusal.strerror or refusal}") from None


def _copy_sources(bundle: Bundle, to: Bundle) -> None:
    for source in bundle.sources():
        copy = to.folder / source.relative_to(bundle.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _run(command: list[str], name: str, node: NodeRuntime, folder: Path, seconds: float) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=folder,
            env=node.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise WebBuildError(f"{name} took longer than {seconds:.0f} seconds") from None
    if done.returncode != 0:
        output = _COLOUR.sub("", done.stdout)
        raise WebBuildError(f"{name} failed: {_reason(output)}", output)


def _reason(output: str) -> str:
    """Return the most specific line of a command's output."""
    for pattern in _REASONS:
        found = pattern.search(output)
        if found is not None:
            return found[1].strip()[:MAX_REASON_CHARACTERS]
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:MAX_REASON_CHARACTERS] if lines else "it printed nothing"


def _replace(present: Path, new: Path) -> None:
    """Replace a folder by another; it is missing for a moment at most."""
    with tempfile.TemporaryDirectory(prefix=".built-", dir=present.parent) as beside:
        shutil.copytree(new, Path(beside) / "new")
        if present.exists():
            present.rename(Path(beside) / "old")
        (Path(beside) / "new").rename(present)
