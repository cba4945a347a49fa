"""Markers that tests get from their folder and their fixtures. They select documented subsets of the tests.

``server``: needs a program besides Python: the servers of MongoDB's and Redis's protocols, or Node.
``process``: starts processes of ``server-flow``.
``js``: runs JavaScript, in Node or in a browser.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MARKERS = {
    "server": "needs a database server, a Redis server or Node",
    "process": "starts processes of server-flow",
    "js": "runs JavaScript, in Node or in a browser",
}
OF_FOLDERS = {
    "component": ("server",),
    "e2e": ("server", "process"),
    "js": ("server", "js"),
}
OF_FIXTURES = {
    "servers": ("server",),
    "serving": ("server", "process"),
    "service": ("server", "process"),
    "node_packages": ("server", "js"),
    "sdist": ("long",),  # packages are built by the gate
    "checkout": ("long",),
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import the folders all of whose tests ``-m "not MARKER"`` deselects."""
    excluded = config.option.markexpr.removeprefix("not ")
    of_folder = OF_FOLDERS.get(collection_path.name, ()) if collection_path.parent == TESTS else ()
    return True if config.option.markexpr.startswith("not ") and excluded in of_folder else None


LONGEST = (
    "test_three_services.py",
    "test_services_guide.py",
    "test_deliveries.py",
    "test_embedded_database.py",
    "test_database_faults.py",
    "test_lifecycle.py",
    "test_data.py",
    "test_live.py",
    "test_crashes.py",
    "test_storm.py",
    "test_docs.py",
    "test_deliveries_commands.py",
    "test_migration.py",
    "test_timeouts.py",
    "test_definition_sources.py",
    "test_markers.py",
    "test_secrets.py",
    "test_key_rotation.py",
)
"""Files of ``e2e`` with tests of more than ten seconds, which mostly wait."""
ORDER = ("js", "e2e", "component", "contract", "unit")
"""Folders. What takes long comes first, so that the processes of xdist end at about the same time."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the folders, and mark every test, before ``-m`` selects."""
    items.sort(key=lambda item: (item.path.name not in LONGEST, ORDER.index(_folder_of(item))))
    for item in items:
        folder = _folder_of(item)
        fixtures: list[str] = getattr(item, "fixturenames", [])
        names = {*OF_FOLDERS.get(folder, ())}.union(*(OF_FIXTURES.get(name, ()) for name in fixtures))
        for name in sorted(names):
            item.add_marker(name)


def _folder_of(item: pytest.Item) -> str:
    folder = item.path.relative_to(TESTS).parts[0]
    if folder not in ORDER:
        raise pytest.UsageError(f"{item.path}: tests are in {', '.join(ORDER)} (docs/CONTRIBUTING.md)")
    return folder
