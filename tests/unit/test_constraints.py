"""``constraints.txt`` names every package that an installation from a checkout brings."""

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.documentation import README, ROOT

PINNED_ELSEWHERE = {"secantusdb"}
"""In pyproject.toml, as the version depends on the platform."""


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def own_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *extras["embedded"], *extras["kms"], *extras["test"]]
    return [Requirement(text) for text in listed if not text.startswith("server-flow[")]


def wanted(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def installed_names() -> set[str]:
    """The names of all that is required here, directly or not."""
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [requirement for requirement in own_requirements() if wanted(requirement, frozenset())]
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        inner = [Requirement(text) for text in metadata.requires(requirement.name) or ()]
        todo += [each for each in inner if wanted(each, key[1])]
    return {name for name, _ in found}


def test_every_package_that_is_installed_has_a_pin() -> None:
    names = installed_names()
    assert len(names) > 50, "it was found out"
    assert names - set(constraints()) == PINNED_ELSEWHERE


def test_the_pins_are_versions_that_the_project_allows() -> None:
    pins = constraints()
    refused = [
        str(requirement)
        for requirement in own_requirements()
        if (pin := pins.get(canonicalize_name(requirement.name))) and not requirement.specifier.contains(pin)
    ]
    assert refused == []


def test_the_documented_commands_take_the_constraints() -> None:
    for text, extra in ((README, "embedded"), ((ROOT / "docs" / "CONTRIBUTING.md").read_text(), "test")):
        assert re.search(rf"pip install -c constraints.txt -e '\.\[{extra}\]'", text)
