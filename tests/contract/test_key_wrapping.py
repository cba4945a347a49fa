"""The contract of KeyWrapping."""

from collections.abc import Callable

import pytest

from app.contracts.ports.keys import KeyWrapping
from app.crypto.wrapping import LocalKeys
from tests.support.fake_data_keys import FakeKeyWrapping

PORTS = (KeyWrapping,)
DATA_KEY = bytes(range(32))

Make = Callable[[str], KeyWrapping]


def local_keys(names: str) -> KeyWrapping:
    return LocalKeys([name.encode() * 32 for name in names])


def fake_keys(names: str) -> KeyWrapping:
    return FakeKeyWrapping(*names)


@pytest.fixture(params=[fake_keys, local_keys])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes the keys with these names of one letter; the first one wraps."""
    chosen: Make = request.param
    return chosen


async def test_a_key_unwraps_for_its_owner_alone(make: Make) -> None:
    keys = make("a")
    wrapped = await keys.wrap(DATA_KEY, "user:ada")
    assert wrapped != DATA_KEY
    assert await keys.unwrap(wrapped, keys.current, "user:ada") == DATA_KEY
    for owner in ("user:eve", "service", ""):
        with pytest.raises(ValueError, match="owner"):
            await keys.unwrap(wrapped, keys.current, owner)


async def test_the_first_key_wraps_and_all_unwrap(make: Make) -> None:
    before, after = make("a"), make("ba")
    wrapped = await before.wrap(DATA_KEY, "service")
    assert before.current != after.current
    assert set(after.known) == {before.current, after.current}
    assert await after.unwrap(wrapped, before.current, "service") == DATA_KEY
    rewrapped = await after.wrap(DATA_KEY, "service")
    assert await make("b").unwrap(rewrapped, after.current, "service") == DATA_KEY


async def test_an_unknown_key_is_a_lookup_error(make: Make) -> None:
    wrapped = await make("a").wrap(DATA_KEY, "service")
    with pytest.raises(LookupError):
        await make("b").unwrap(wrapped, make("a").current, "service")


async def test_what_another_key_wrapped_does_not_unwrap(make: Make) -> None:
    wrapped = await make("a").wrap(DATA_KEY, "service")
    with pytest.raises(ValueError, match="owner"):
        await make("ba").unwrap(wrapped, make("b").current, "service")
