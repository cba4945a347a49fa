"""Keys of a JWKS address: outages, withdrawn and unknown keys."""

import asyncio
from typing import Any

import jwt
import pytest

from app.auth import keys
from app.auth.jwk_sets import KeySet
from app.auth.keys import FIRST_RETRY_SECONDS, MAX_AGE_SECONDS, RETRY_SECONDS, SigningKeys
from app.contracts.errors import AuthenticationRequiredError, KeysUnavailableError, SigningKeysError
from tests.support.log_events import LogEvents


class Address:
    """The content of the address: ids of keys with their versions, or ``failure`` while it is away."""

    setting = "FLOW_JWKS_URL"

    def __init__(self, *key_ids: str) -> None:
        self.keys = dict.fromkeys(key_ids, 1)
        self.failure: Exception | None = None
        self.opened = asyncio.Event()
        self.opened.set()
        self.requests = 0
        self.now = 1000.0
        self.signing = SigningKeys(self, lambda: self.now)

    async def read(self) -> KeySet:
        await self.opened.wait()
        self.requests += 1
        if self.failure is not None:
            raise self.failure
        keys = {key_id: {"HS256": (key_id, version)} for key_id, version in self.keys.items()}
        return KeySet(keys, frozenset({"HS256"}), repr(self.keys), 0)

    async def find(self, key_id: str) -> Any:
        return await self.signing.find(token(key_id))


def token(key_id: str | None) -> str:
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode({"sub": "ada"}, "k" * 32, "HS256", headers=headers)


AWAY = SigningKeysError("Connection refused")


async def test_a_key_is_found_with_one_question() -> None:
    address = Address("a", "b")
    assert (await address.find("a")).key[0] == "a"
    assert (await address.find("b")).key[0] == "b"
    assert address.requests == 1


async def test_an_unknown_key_is_requested_at_most_once_a_minute() -> None:
    address = Address("a")
    await address.find("a")
    for _ in range(2):
        for n in range(20):
            with pytest.raises(AuthenticationRequiredError):
                await address.find(f"unknown-{n}")
            await address.find("a")
        address.now += RETRY_SECONDS - 1
        with pytest.raises(AuthenticationRequiredError):
            await address.find("unknown")
        address.now += 1
    assert address.requests == 3


async def test_the_first_question_counts_when_the_key_is_not_there() -> None:
    address = Address("a")
    for _ in range(5):
        with pytest.raises(AuthenticationRequiredError):
            await address.find("unknown")
    assert address.requests == 1


async def test_a_new_key_is_found_at_once() -> None:
    address = Address("a")
    await address.find("a")
    address.keys = {"b": 1, "a": 2}
    assert (await address.find("b")).key[0] == "b"
    assert (await address.find("a")).key == ("a", 2)


async def test_a_withdrawn_key_ends_with_the_age_of_the_keys() -> None:
    address = Address("a", "b")
    await address.find("a")
    del address.keys["a"]
    address.now += MAX_AGE_SECONDS - 1
    await address.find("a")
    address.now += 1
    with pytest.raises(AuthenticationRequiredError):
        await address.find("a")
    assert address.requests == 2


@pytest.mark.expected_logs("signing keys unavailable")
async def test_known_keys_stay_in_use_while_the_address_is_away(log_events: LogEvents) -> None:
    address = Address("a")
    await address.find("a")
    address.failure = AWAY
    for _ in range(3):
        address.now += MAX_AGE_SECONDS
        for _ in range(5):
            assert (await address.find("a")).key[0] == "a"
            with pytest.raises(KeysUnavailableError):
                await address.find("unknown")
    assert address.requests == 1 + 3 * 2, "for its age, and for the unknown one"
    assert len(log_events.named("signing keys unavailable")) == 1
    address.failure = None
    address.now += RETRY_SECONDS
    with pytest.raises(AuthenticationRequiredError):
        await address.find("unknown")


@pytest.mark.expected_logs("signing keys unavailable")
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (AWAY, "Connection refused"),
        (SigningKeysError("HTTP status 502"), "HTTP status 502"),
        (TimeoutError(), "no answer"),
        (ValueError("no JSON, but a secret"), "no keys"),
        (ConnectionResetError("secret"), "no keys"),
        (RuntimeError("a bug with a secret"), "no keys"),
    ],
)
async def test_without_any_key_the_refusal_is_for_now(
    failure: Exception, reason: str, log_events: LogEvents
) -> None:
    address = Address("a")
    address.failure = failure
    for _ in range(3):
        with pytest.raises(KeysUnavailableError) as refused:
            await address.find("a")
        assert (refused.value.status, refused.value.retryable) == (503, True)
    assert address.requests == 1
    (entry,) = log_events.named("signing keys unavailable")
    assert reason in entry["reason"]
    assert "secret" not in str(entry)
    address.failure = None
    address.now += FIRST_RETRY_SECONDS
    assert (await address.find("a")).key[0] == "a"
    with pytest.raises(AuthenticationRequiredError):
        await address.find("unknown")
    assert address.requests == 3, "requests during the outage do not count"


async def test_what_names_no_key_is_refused_without_a_question() -> None:
    address = Address("a")
    with pytest.raises(AuthenticationRequiredError):
        await address.signing.find(token(None))
    with pytest.raises(jwt.InvalidTokenError):
        await address.signing.find("nonsense")
    assert address.requests == 0


async def test_many_requests_share_one_request_for_keys() -> None:
    address = Address("a")
    address.opened.clear()
    searches = [asyncio.create_task(address.find("a")) for _ in range(20)]
    await asyncio.sleep(0)
    searches.pop().cancel()
    address.opened.set()
    assert {found.key[0] for found in await asyncio.gather(*searches)} == {"a"}
    assert address.requests == 1


async def test_a_key_is_for_its_algorithms_alone() -> None:
    address = Address("a")
    made = jwt.encode({"sub": "ada"}, "k" * 64, "HS512", headers={"kid": "a"})
    for _ in range(3):
        with pytest.raises(jwt.InvalidAlgorithmError):
            await address.signing.find(made)
    assert address.requests == 1


async def test_the_generation_changes_with_the_keys() -> None:
    address = Address("a", "b")
    found = []
    for change in ({"a": 1, "b": 1}, {"b": 1, "a": 2}, {"a": 2}, {"a": 2}):
        address.keys = change
        await address.find("a")
        await address.signing.refresh_old()
        found.append(address.signing.generation)
        address.now += MAX_AGE_SECONDS
    assert found == [1, 2, 3, 3]


@pytest.mark.expected_logs("signing keys unavailable")
async def test_an_address_that_hangs_holds_up_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch, log_events: LogEvents
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.05)
    monkeypatch.setattr(keys, "REFRESH_WAIT_SECONDS", 0.01)
    address = Address("a")
    await address.find("a")
    address.opened.clear()
    address.now += MAX_AGE_SECONDS
    assert (await address.find("a")).key[0] == "a"
    with pytest.raises(KeysUnavailableError):
        await address.find("unknown")
    (entry,) = log_events.named("signing keys unavailable")
    assert entry["reason"] == "no answer in 0.05 s"
