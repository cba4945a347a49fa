"""The search for markers: in whatever form a text is written."""

import base64
import json
import os

import pytest

from tests.support.marked import Markers

MARKERS = Markers()
TEXT = json.dumps({"a": "b", "note": MARKERS("Note"), "c": 1}).encode()


@pytest.mark.parametrize("offset", range(4))
def test_a_marker_is_found_in_every_form(offset: int) -> None:
    text = os.urandom(offset) + TEXT
    assert MARKERS.found(text) == {"Note"}
    encoded = base64.b64encode(text)
    for written in (encoded, base64.urlsafe_b64encode(text), base64.b64encode(text).rstrip(b"=")):
        assert MARKERS.found(b"x" + written) == {"a marker in base64"}
    for digits in (text.hex(), text.hex().upper()):
        assert MARKERS.found(b"x" + digits.encode()) == {"a marker in hexadecimal"}
    assert MARKERS.found(os.urandom(10_000)) == set()


def test_a_secret_is_found_in_every_form() -> None:
    markers = Markers()
    secret = os.urandom(32)
    markers.add_secret("key", secret)
    markers.add_secret("text", "a text that is secret")
    assert markers.found(b"is: " + base64.b64encode(b"ab" + secret + b"c")) == {"key"}
    assert markers.found(secret.hex().encode()) == {"key"}
    assert markers.found(b"here is a text that is secret") == {"text"}
    assert markers.found(os.urandom(1000)) == set()
