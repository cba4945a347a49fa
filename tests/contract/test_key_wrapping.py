"""The contract of KeyWrapping and of WrappingKey."""

from collections.abc import AsyncIterator, Callable

import pytest
import requests

from app.contracts.ports.keys import KeyWrapping, WrappingKey
from app.crypto.wrapping import LocalKey, WrappingKeys
from app.outbound.key_services.aws import AwsKmsKey
from app.outbound.key_services.gcp import GcpKmsKey
from app.outbound.key_services.vault import VaultKey
from tests.support.fake_data_keys import FakeKeyWrapping
from tests.support.key_services import VAULT_TOKEN, KeyServices, serving_keys

PORTS = (KeyWrapping, WrappingKey)
DATA_KEY = bytes(range(32))

MakeKey = Callable[[str], WrappingKey]
Make = Callable[[str], KeyWrapping]


@pytest.fixture
async def services(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeyServices]:
    """A server of key services, with the settings of their clients."""
    async with serving_keys() as services:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", services.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        monkeypatch.setenv("VAULT_TOKEN", VAULT_TOKEN)
        yield services


def key_maker(kind: str, url: str) -> MakeKey:
    """Makes keys of a kind by names of one letter."""

    def make(name: str) -> WrappingKey:
        if kind == "aws":
            return AwsKmsKey(f"arn:aws:kms:eu-central-1:111122223333:key/{name}")
        if kind == "gcp":
            resource = f"projects/p/locations/eu/keyRings/r/cryptoKeys/{name}"
            return GcpKmsKey(resource, f"{url}/v1", requests.Session)
        if kind == "vault":
            return VaultKey(f"{url}/v1/transit/keys/{name}")
        return LocalKey(name.encode() * 32)

    return make


@pytest.fixture(params=["local", "aws", "gcp", "vault"])
def make_key(request: pytest.FixtureRequest, services: KeyServices) -> MakeKey:
    return key_maker(request.param, services.url)


@pytest.fixture(params=["fake", "local", "aws", "gcp", "vault"])
def make(request: pytest.FixtureRequest, services: KeyServices) -> Make:
    """Makes the keys with these names of one letter; the first one wraps."""
    if request.param == "fake":
        return lambda names: FakeKeyWrapping(*names)
    make_key = key_maker(request.param, services.url)
    return lambda names: WrappingKeys([make_key(name) for name in names])


async def test_a_wrapping_key_unwraps_what_it_wrapped_for_the_same_owner(make_key: MakeKey) -> None:
    key, other = make_key("a"), make_key("b")
    assert key.id == make_key("a").id != other.id
    assert "," not in key.id
    wrapped = await key.wrap(DATA_KEY, "user:ada")
    assert await make_key("a").unwrap(wrapped, "user:ada") == DATA_KEY
    changed = bytes([*wrapped[:-1], wrapped[-1] ^ 1])
    for wrong in ((key, wrapped, "user:eve"), (other, wrapped, "user:ada"), (key, changed, "user:ada")):
        with pytest.raises(ValueError, match="changed, or belongs to another owner"):
            await wrong[0].unwrap(*wrong[1:])


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
