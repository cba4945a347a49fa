"""The build backend: setuptools, which first bundles what browsers get.

It asks for Node only when the bundle in ``app/web/built`` was not built from the present sources. A build
that fails is reported in one line and never fails the installation, because everything else works without it.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import build_meta

from app.web.build import SKIP, WebBuildError, build, build_requirements, is_skipped
from app.web.bundle import Bundle

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Config = Mapping[str, Any] | None
BUNDLE = Bundle(Path(__file__).parent / "app" / "web")

prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def get_requires_for_build_wheel(config_settings: Config = None) -> list[str]:
    """List what ``build_wheel`` needs."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *build_requirements(BUNDLE)]


def get_requires_for_build_sdist(config_settings: Config = None) -> list[str]:
    """List what ``build_sdist`` needs."""
    return [*build_meta.get_requires_for_build_sdist(config_settings), *build_requirements(BUNDLE)]


def get_requires_for_build_editable(config_settings: Config = None) -> list[str]:
    """List what ``build_editable`` needs."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *build_requirements(BUNDLE)]


def build_wheel(
    wheel_directory: str, config_settings: Config = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel, with the bundle in it."""
    _bundle()
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory: str, config_settings: Config = None) -> str:
    """Build an sdist, with the bundle in it, so that installing from it needs no Node."""
    _bundle()
    return str(build_meta.build_sdist(sdist_directory, config_settings))


def build_editable(
    wheel_directory: str, config_settings: Config = None, metadata_directory: str | None = None
) -> str:
    """Build an editable wheel, with the bundle beside its sources."""
    _bundle()
    return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))


def _bundle() -> None:
    """Build the bundle unless it is current; never raise."""
    if BUNDLE.is_current:
        return
    if is_skipped():
        _report(f"The browser files were not built, because {SKIP} is set.")
        return
    try:
        build(BUNDLE)
    except WebBuildError as failure:
        _report(f"The browser files were not built: {failure}.")


def _report(line: str) -> None:
    print(f"{line} Everything else works; 'server-flow web build' builds them later.", file=sys.stderr)  # noqa: T201
