"""The OpenAPI document, read by a linter and by generators of clients, which work with the service."""

import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from tests.support.http import blocking_http_client
from tests.support.javascript import BIN, FOLDER, modules, node, run
from tests.support.serving import Serving, external

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]  # the packages may have to be installed first

SOURCES = FOLDER / "openapi"
SECONDS = 100


@pytest.fixture(scope="module")
def service(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    serving = Serving(env=external(own), cwd=tmp_path_factory.mktemp("service"))
    yield serving
    serving.end()


@pytest.fixture
def env(service: Serving) -> dict[str, str]:
    """The environment of a program on a generated client."""
    user = f"user-{uuid.uuid4().hex[:8]}"
    return {
        "FLOW_URL": service.url,
        "TOKEN": service.token(user),
        "ADMIN": service.token("root", "flow:admin"),
        "SLUG": f"flow-{user}",
    }


@pytest.fixture
def document(service: Serving, tmp_path: Path) -> Path:
    """The document of the running service."""
    file = tmp_path / "openapi.json"
    with blocking_http_client(service.url) as http:
        file.write_bytes(http.get("/openapi.json").content)
    return file


def tool(package: str, path: str) -> list[str]:
    """The command that runs a tool of npm."""
    return node(str(modules(SOURCES) / package / path))


def test_a_linter_finds_nothing(document: Path) -> None:
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    redocly = tool("@redocly/cli", "bin/cli.js")
    run([*redocly, "lint", "--extends=recommended-strict", str(document)], SECONDS, **quiet)


def test_a_client_in_typescript(document: Path, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(modules(SOURCES))
    for name in ("package.json", "tsconfig.json", "program.ts"):
        (tmp_path / name).write_bytes((SOURCES / name).read_bytes())
    schema = tmp_path / "schema.d.ts"
    run([*tool("openapi-typescript", "bin/cli.js"), str(document), "--output", str(schema)])
    components = schema.read_text().partition("export interface components")[2].partition("$defs")[0]
    assert components
    assert "Record<string, never>" not in components, "an object that may have members is taken for empty"
    run([*tool("typescript", "bin/tsc"), "--project", str(tmp_path)])
    run(node(str(tmp_path / "program.js")), SECONDS, **env)


def test_a_client_in_python(document: Path, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"post_hooks": []}))
    package = tmp_path / "flow_api"
    generate = [str(BIN / "openapi-python-client"), "generate", "--meta", "none", "--fail-on-warning"]
    files = [
        "--path",
        str(document),
        "--output-path",
        str(package),
        "--config",
        str(tmp_path / "config.json"),
    ]
    run([*generate, *files])
    program = SOURCES / "program.py"
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", os.devnull]
    run([*mypy, str(package), str(program)], MYPYPATH=str(tmp_path))
    run([sys.executable, str(program)], SECONDS, PYTHONPATH=str(tmp_path), **env)
