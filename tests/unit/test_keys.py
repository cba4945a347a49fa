"""Keys of a JWKS address: outages, withdrawn and unknown keys."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError, URLError

import jwt
import pytest

from app.auth import keys
from app.auth.keys import FIRST_RETRY_SECONDS, MAX_AGE_SECONDS, RETRY_SECONDS, SigningKeys
from app.contracts.errors import AuthenticationRequiredError, KeysUnavailableError
from tests.support.log_events import LogEvents


class Key:
    def __init__(self, key_id: str, version: int = 1) -> None:
        self.key_id = key_id
        self.version = version


class Address:
    """The content of the address: ``keys``, or ``failure`` while it is away."""

    def __init__(self, *key_ids: str) -> None:
        self.keys = [Key(key_id) for key_id in key_ids]
        self.failure: Exception | None = None
        self.requests = 0
        self.now = 1000.0
        self.signing = SigningKeys(self.read, lambda: self.now)

    def read(self) -> list[Key]:
        self.requests += 1
        if self.failure is not None:
            raise self.failure
        return self.keys

    async def find(self, key_id: str) -> Any:
        return await self.signing.find(token(key_id))


def token(key_id: str | None) -> str:
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode({"sub": "ada"}, "k" * 32, "HS256", headers=headers)


AWAY = URLError(ConnectionRefusedError(111, "Connection refused"))


async def test_a_key_is_found_with_one_question() -> None:
    address = Address("a", "b")
    assert (await address.find("a")).key_id == "a"
    assert (await address.find("b")).key_id == "b"
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
    address.keys = [Key("b"), Key("a", version=2)]
    assert (await address.find("b")).key_id == "b"
    assert (await address.find("a")).version == 2


async def test_a_withdrawn_key_ends_with_the_age_of_the_keys() -> None:
    address = Address("a", "b")
    await address.find("a")
    address.keys = address.keys[1:]
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
            assert (await address.find("a")).key_id == "a"
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
        (HTTPError("https://me:secret@keys.test", 502, "Bad Gateway", {}, None), "HTTP status 502"),  # type: ignore[arg-type]
        (TimeoutError(), "no answer"),
        (ValueError("no JSON"), "no keys"),
        (jwt.PyJWKClientError("no object"), "no keys"),
        (ConnectionResetError(), "no keys"),
        (RuntimeError("a bug"), "no keys"),
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
    assert (await address.find("a")).key_id == "a"
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


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()


async def test_many_requests_share_one_request_for_keys(gate: threading.Event) -> None:
    address = Address("a")

    def read() -> list[Key]:
        gate.wait()
        return address.read()

    address.signing = SigningKeys(read)
    searches = [asyncio.create_task(address.find("a")) for _ in range(20)]
    await asyncio.sleep(0)
    searches.pop().cancel()
    gate.set()
    assert {key.key_id for key in await asyncio.gather(*searches)} == {"a"}
    assert address.requests == 1


@pytest.mark.expected_logs("signing keys unavailable")
async def test_an_address_that_hangs_holds_up_nobody_for_long(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch, log_events: LogEvents
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.05)
    monkeypatch.setattr(keys, "REFRESH_WAIT_SECONDS", 0.01)
    address = Address("a")
    hangs = False

    def read() -> list[Key]:
        if hangs:
            gate.wait()
        return address.read()

    address.signing = SigningKeys(read, lambda: address.now)
    await address.find("a")
    hangs = True
    address.now += MAX_AGE_SECONDS
    assert (await address.find("a")).key_id == "a"
    with pytest.raises(KeysUnavailableError):
        await address.find("unknown")
    (entry,) = log_events.named("signing keys unavailable")
    assert entry["reason"] == "no answer in 0.05 s"
