"""The garbage collector leaves alone what a run loads and collects: nothing of it becomes garbage.

Each of its full collections would go through all modules and tests again, which costs a fifth of the CPU of
the unit tests.
"""

import gc

import pytest

THRESHOLDS = (100_000, 10, 10)
"""With Python's own, of which the first is 700, full collections are a tenth of a run of the unit tests."""


def pytest_configure() -> None:
    """Do not collect while tests are imported."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Collect what the tests make from now on."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()
