"""The text that ``serve`` prints."""

from pathlib import Path

import jwt
import pytest

from app.cli.welcome import welcome_text
from app.web.bundle import Bundle
from config.settings import Settings
from tests.support.bundles import copy_sources

SETTINGS = Settings(_env_file=None, jwt_secret="a secret for tests that is long enough")


@pytest.mark.parametrize(
    ("host", "data_dir", "shown"),
    [
        ("127.0.0.1", Path("data"), True),
        ("::1", Path("data"), True),
        ("localhost", Path("data"), True),
        ("0.0.0.0", Path("data"), False),
        ("10.1.2.3", Path("data"), False),
        ("127.0.0.1", None, False),
    ],
)
def test_the_address_with_a_token_is_for_the_embedded_default_on_this_machine(
    tmp_path: Path, host: str, data_dir: Path | None, shown: bool
) -> None:
    bundle = copy_sources(tmp_path / "web")
    text = welcome_text("http://there:8000", host, SETTINGS, data_dir, None, bundle, is_terminal=True)
    assert ("#token=" in text) == shown
    if shown:
        token = text.partition("#token=")[2].split()[0]
        assert SETTINGS.jwt_secret is not None
        claims = jwt.decode(token, SETTINGS.jwt_secret.get_secret_value(), algorithms=["HS256"])
        assert claims.pop("exp") - claims.pop("iat") <= 3600
        assert claims == {"sub": "demo"}


@pytest.mark.parametrize("data_dir", [Path("data"), None])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_the_embedded_default_on_a_terminal_has_tokens(
    tmp_path: Path, data_dir: Path | None, is_terminal: bool
) -> None:
    bundle = copy_sources(tmp_path / "web")
    text = welcome_text(
        "http://there:8000", "127.0.0.1", SETTINGS, data_dir, "first", bundle, is_terminal=is_terminal
    )
    assert ("eyJ" in text) == (is_terminal and data_dir is not None)
    assert " token --user ada" in text


def test_pages_that_are_not_built_are_not_offered(tmp_path: Path) -> None:
    text = welcome_text(
        "http://there:8000", "127.0.0.1", SETTINGS, Path("data"), None, Bundle(tmp_path), is_terminal=True
    )
    assert "server-flow web build" in text
    assert "#token=" not in text
