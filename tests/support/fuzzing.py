"""Fuzz tests: many inputs, each with a bound of processor time, and memory that does not grow with them."""

import asyncio
import functools
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.long_form import form
from tests.support.processor_time import bounded

INPUTS = form("fuzz tests: inputs", short=30, long=10_000)
MAX_WAIT_SECONDS = 60.0
MAX_GROWTH_BLOCKS = 5_000
MAX_GROWTH_BLOCKS_PER_INPUT = 0.5
"""Limit of the blocks of memory that Python has more after all inputs than after half of them."""
MAX_NATIVE_GROWTH_BYTES = 40_000_000
"""Limit of the growth of the process meanwhile, which libraries in other languages have part in."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _nothing() -> None:
    pass


def fuzz(
    strategy: st.SearchStrategy[Any], check: Callable[[Any], None], *, begin: Callable[[], None] = _nothing
) -> None:
    """Check many inputs, and require that memory does not grow with them.

    All inputs are made before the first is checked, so that the memory of Hypothesis does not count, and each
    is checked once, so that a cache of inputs without a bound is found. If a check fails, Hypothesis looks
    for the smallest input that does.

    Args:
        strategy: Makes the inputs.
        check: Fails for an input that is handled wrongly.
        begin: Starts afresh what grows with its inputs by design, such as the data of a store.
    """
    inputs: list[Any] = []
    of_hypothesis = settings(
        max_examples=INPUTS,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    of_hypothesis(given(strategy)(lambda value: inputs.append(value)))()  # noqa: PLW0108 - it reads its code
    assert len(inputs) >= INPUTS // 2, "the strategy has too few inputs"
    try:
        _check_all(inputs, check, begin)
    except Exception:
        begin()
        of_hypothesis(given(strategy)(check))()
        raise


def _check_all(inputs: list[Any], check: Callable[[Any], None], begin: Callable[[], None]) -> None:
    """Check inputs. Fail if Python's blocks of memory, or the process, grow with the second half of them."""
    process = psutil.Process()
    begin()
    found = [(sys.getallocatedblocks(), process.memory_info().rss) for _ in _halves(inputs, check, begin)]
    (blocks, native), (blocks_after, native_after) = found
    print(f"{len(inputs)} inputs; blocks {blocks, blocks_after}, resident {native, native_after}")
    allowed = MAX_GROWTH_BLOCKS + MAX_GROWTH_BLOCKS_PER_INPUT * (len(inputs) // 2)
    assert blocks_after - blocks < allowed, f"{blocks}, {blocks_after} blocks after {len(inputs)} inputs"
    assert native_after - native < MAX_NATIVE_GROWTH_BYTES, f"{native}, {native_after} bytes"


def _halves(inputs: list[Any], check: Callable[[Any], None], begin: Callable[[], None]) -> Iterator[None]:
    """Check both halves of the inputs; after each, nothing is left that may be."""
    half = len(inputs) // 2
    for part in (inputs[:half], inputs[half:]):
        for value in part:
            with bounded():
                check(value)
        begin()
        clear_bounded_caches()
        gc.collect()
        yield


def clear_bounded_caches() -> None:
    """Empty the caches of functions that have a bound, as they may fill until the last input."""
    for name, module in list(sys.modules.items()):
        if name.startswith("app."):
            members = list(vars(module).values())
            inner = [member for each in members if isinstance(each, type) for member in vars(each).values()]
            for each in (*members, *inner):
                is_cache = isinstance(each, functools._lru_cache_wrapper)
                if is_cache and each.cache_parameters()["maxsize"] is not None:
                    each.cache_clear()


class Loop:
    """An event loop for the checks of asynchronous code, which must end in time."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of the work."""

        async def in_time() -> Any:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                return await work

        return self._runner.run(in_time())

    def close(self) -> None:
        """End the loop."""
        self._runner.close()
