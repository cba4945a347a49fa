"""The JavaScript client: by itself, its types, and on a running service, in Node and in Chromium."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from tests.support.documentation import block
from tests.support.javascript import MODULES, Helper, Results, browsing, chromium, modules, node, run
from tests.support.serving import Serving, external

pytestmark = pytest.mark.timeout(400)  # the packages may have to be installed first

SUITE_SECONDS = 150


@pytest.fixture(scope="module")
def helper(servers: Settings) -> Iterator[Helper]:
    assert servers.jwt_secret is not None
    helper = Helper(servers.jwt_secret.get_secret_value())
    yield helper
    helper.close()


@pytest.fixture(scope="module")
def service(servers: Settings, helper: Helper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two workers, which pages of the tests' server may use."""
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    env = {**external(own), "FLOW_CORS_ORIGINS": helper.origin}
    serving = Serving("--workers", "2", env=env, cwd=tmp_path_factory.mktemp("service"))
    yield serving
    serving.end()


@pytest.mark.parametrize("file", ["following.test.mjs", "client.test.mjs"])
def test_by_itself(file: str) -> None:
    run(node("--test", file))


@pytest.mark.parametrize(
    "how", ["--module esnext --moduleResolution bundler", "--module nodenext --moduleResolution nodenext"]
)
def test_its_types(how: str) -> None:
    modules()
    tsc = str(MODULES / "typescript" / "bin" / "tsc")
    run(node(tsc, "--noEmit", "--strict", "--target", "es2022", *how.split(), "types.ts"))


def test_in_node(service: Serving, helper: Helper) -> None:
    modules()
    found = run(
        node("run-suite.mjs"), SUITE_SECONDS, FLOW_URL=service.url, TOKEN_URL=f"{helper.origin}/token"
    )
    _check(json.loads(found))


def test_in_chromium(service: Serving, helper: Helper, tmp_path: Path) -> None:
    chromium()
    with browsing(f"{helper.origin}/page.html?service={service.url}", tmp_path) as output:
        _check(helper.results(SUITE_SECONDS, output))


def test_the_page_of_the_readme(service: Serving, helper: Helper, tmp_path: Path) -> None:
    """As it stands there, but on a page of another origin than the service's."""
    chromium()
    page = block("README.md", "html", "FlowClient")
    page = page.replace("'/static/", f"'{service.url}/static/").replace("location.origin", f"'{service.url}'")
    token = service.token(f"reader-{uuid.uuid4().hex[:8]}")
    helper.pages["/readme.html"] = f"""<!doctype html>
    <script>
      const steps = [];
      const say = (body) => fetch('/results', {{ method: 'POST', body: JSON.stringify(body) }});
      addEventListener('error', (event) => say([String(event.message)]));
      addEventListener('unhandledrejection', ({{ reason }}) => say([String(reason)]));
      const fetchToken = async () => '{token}';
      const render = (state) => {{
        steps.push(state && state.step);
        if (state?.revision === 1) say(steps);
      }};
    </script>
    {page}"""
    with browsing(f"{helper.origin}/readme.html", tmp_path) as output:
        steps = helper.results(SUITE_SECONDS, output)
    # What was there before the page followed is read, whatever it was by then.
    assert [step for step in steps if step][-1] == "profile-setup"
    assert [None, "welcome", "profile-setup"][-len(steps) :] == steps or steps == [None, "profile-setup"]


def _check(results: Results) -> None:
    assert results, "nothing was tested"
    failed = [f"{result['name']}: {result['error']}" for result in results if not result["ok"]]
    assert not failed, "\n\n".join(failed)
