"""What tests of pure code share."""

from collections.abc import Iterator

import pytest

from tests.support.tokens import Oracle


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """State tokens in JavaScript."""
    oracle = Oracle()
    yield oracle
    oracle.close()
