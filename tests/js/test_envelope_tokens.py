"""Envelope tokens that JavaScript makes, as programs of the base system do."""

import json
import subprocess
import time
from datetime import timedelta
from typing import Any

import pytest

from app.auth.envelope_tokens import EnvelopeVerifier
from app.contracts.errors import AuthenticationRequiredError
from config.tokens import read_ed25519_key
from tests.support.envelopes import PUBLIC_KEY, TYPE, auth, envelope_token
from tests.support.javascript import FOLDER, node

SEED = "07" * 32
DAY_MS = 86_400_000
CHECKS = EnvelopeVerifier([read_ed25519_key(PUBLIC_KEY)], max_age=timedelta(days=1))
NAMES = ["ada", "żółć 😀", "a/b+c=", "\u2028\u2029", 'with "quotes" and \\', "<>&'"]


def made_by_node(requests: list[dict[str, Any]]) -> list[str]:
    ended = subprocess.run(
        node(str(FOLDER / "envelope-token.mjs")),
        input="".join(f"{json.dumps(request)}\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ended.stdout.split()


def request(**changes: Any) -> dict[str, Any]:
    return {
        "type": TYPE,
        "content": auth(),
        "dt": int(time.time() * 1000),
        "ttl": 300_000,
        "seed": SEED,
        **changes,
    }


def test_tokens_of_javascript_are_verified() -> None:
    contents = [auth(userId=name, groups=[name], entityId=name, attributes=[{"a": 0.1}]) for name in NAMES]
    requests = [request(content=content, ttl=ttl) for content in contents for ttl in (300_000, None, DAY_MS)]
    callers = [CHECKS.verify(token) for token in made_by_node(requests)]
    assert [caller.user_id for caller in callers] == [each["content"]["userId"] for each in requests]
    assert [caller.groups for caller in callers] == [{each["content"]["userId"]} for each in requests]


def test_both_languages_write_the_same_token() -> None:
    """The signature of Ed25519 is determined by the key and the signed bytes."""
    moment = int(time.time() * 1000)
    (theirs,) = made_by_node([request(content={}, dt=moment)])
    ours = envelope_token(b"{}", dt=moment)
    assert theirs == ours


@pytest.mark.parametrize(
    "changes", [{"seed": "08" * 32}, {"type": "one-time-token"}, {"dt": 0}, {"content": []}]
)
def test_others_are_refused(changes: dict[str, Any]) -> None:
    (token,) = made_by_node([request(**changes)])
    with pytest.raises(AuthenticationRequiredError):
        CHECKS.verify(token)
