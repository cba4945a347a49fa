"""Fixtures of the tests that run JavaScript."""

from collections.abc import Iterator

import pytest

from tests.support.token_oracle import Oracle


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """State tokens as the reference algorithm in JavaScript writes and reads them."""
    oracle = Oracle()
    yield oracle
    oracle.close()
