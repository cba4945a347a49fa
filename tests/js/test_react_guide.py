"""The hook and the component of the guide to React run, on a service."""

from pathlib import Path

import pytest

from config.settings import Settings
from tests.support.documentation import block
from tests.support.javascript import MODULES, node, run
from tests.support.serving import Serving, external

pytestmark = pytest.mark.timeout(400)  # the packages may have to be installed first

GUIDE = "docs/guides/follow-in-react.md"


def test_a_component_shows_every_step(settings: Settings, node_packages: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "use-flow.js").write_text(block(GUIDE, "js", "useSyncExternalStore"))
    (tmp_path / "Onboarding.jsx").write_text(block(GUIDE, "jsx", "Onboarding"))
    compile_it = ["--allowJs", "--noCheck", "--jsx", "react-jsx", "--module", "esnext", "--target", "esnext"]
    compiler = str(node_packages / "typescript" / "bin" / "tsc")
    run(node(compiler, *compile_it, "--moduleResolution", "bundler", "--rootDir", str(tmp_path),
             "--outDir", str(tmp_path / "out"), str(tmp_path / "Onboarding.jsx")))  # fmt: skip
    (tmp_path / "out" / "package.json").write_text('{"type": "module"}')
    serving = Serving(env=external(settings), cwd=tmp_path)
    shown = run(node("react_page.mjs", serving.url, str(tmp_path / "out")), TOKEN=serving.token("ada"))
    assert shown.splitlines() == ["Loading …", "Begin", "welcomestart", "profile-setupcontinueskip"]
    serving.end()
