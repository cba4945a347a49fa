"""API keys of services: their text, the cache, and the use cases."""

import asyncio
import string
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.auth.tokens import TokenVerifier
from app.contracts.callers import ADMIN, SERVICE, Caller, service_caller
from app.contracts.errors import (
    ApiKeyNotFoundError,
    AuthenticationRequiredError,
    InsufficientPermissionsError,
    InvalidRequestError,
    RateLimitedError,
    ServiceNotFoundError,
    StoreUnavailableError,
)
from app.contracts.events import Gap, IntegrationChanged
from app.contracts.integration import ApiKey, Integration
from app.contracts.integration_commands import ApiKeyCommand
from app.services.audit.log import AuditLog
from app.services.integrations.api_keys import MAX_VALID_KEYS, TRUST_SECONDS, ApiKeys, NewApiKey
from app.services.integrations.key_text import is_key_id, new_key, read_key
from app.services.rates.admission import Admission
from app.services.rates.request_limits import RequestLimits, RequestRates
from app.services.rates.shared_budgets import SharedBudgets
from tests.support.fake_api_keys import FakeApiKeyStore
from tests.support.fake_audit import FakeAuditStore
from tests.support.fake_integrations import FakeIntegrationStore
from tests.support.fake_rates import FakeRateCounters
from tests.support.fakes import FakeBus, FakeClock, FakeSecretStore
from tests.support.log_events import LogEvents
from tests.support.samples import T0

ROOT = Caller("root", scopes=frozenset({ADMIN}))
PAYMENT = service_caller("payment")
MESSAGE = "The API key is not valid here"


class World:
    """The use cases over fakes, with one registered service."""

    def __init__(self) -> None:
        self.store = FakeApiKeyStore()
        self.registrations = FakeIntegrationStore()
        self.bus = FakeBus()
        self.clock = FakeClock(T0)
        for alias in ("payment", "user"):
            self.registrations.integrations[alias] = Integration(alias=alias, registered_at=T0, updated_at=T0)
        self.audit = AuditLog(FakeAuditStore(), FakeSecretStore(), self.clock)
        self.keys = self.worker()

    def worker(self) -> ApiKeys:
        return ApiKeys(self.store, self.registrations, self.bus, self.audit, self.clock)

    async def make(self, alias: str = "payment", **command: Any) -> NewApiKey:
        return await self.keys.create(alias, ApiKeyCommand(**command), ROOT)


@pytest.fixture
def world() -> World:
    return World()


async def refused(keys: ApiKeys, text: str) -> None:
    with pytest.raises(AuthenticationRequiredError) as refusal:
        await keys.verify(text)
    assert (refusal.value.message, refusal.value.details) == (MESSAGE, {"reason": "api-key"})


def test_a_new_key_is_read_again() -> None:
    texts = set()
    for _ in range(50):
        text, parts = new_key()
        assert len(text) == len("sfk_") + 16 + 1 + 43 + 6
        assert set(text) <= set(string.ascii_letters + string.digits + "_")
        assert read_key(text) == parts
        assert is_key_id(parts.id)
        texts.add(text)
    assert len(texts) == 50


def test_a_text_that_differs_in_one_character_is_no_key() -> None:
    text, _ = new_key()
    for at in range(len(text)):
        for other in ("A", "a", "7", "_"):
            if text[at] != other:
                assert read_key(text[:at] + other + text[at + 1 :]) is None, at
        assert read_key(text[:at] + text[at + 1 :]) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "sfk_",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.upper(),
        lambda text: text + "\ud800",
        lambda text: text[:-1] + "\ud800",
        lambda text: text[:-1] + "\u0660",
        lambda text: text[:-1] + "\x00",
        lambda text: text * 20_000,
        lambda text: "sfk_" + "A" * 1_000_000,
    ],
)
async def test_texts_that_are_no_keys_are_refused_without_a_read(world: World, change: Any) -> None:
    text = (await world.make()).text
    await refused(world.keys, change(text))
    assert world.store.reads == 0


async def test_a_key_is_a_credential_of_its_service(world: World) -> None:
    made = await world.make(name="ci")
    caller = await world.keys.verify(made.text)
    expected = world.clock.now().timestamp() + TRUST_SECONDS
    assert caller == service_caller("payment", expires_at=expected, credential=made.key.id)
    assert (caller.user_id, caller.scopes) == ("service:payment", frozenset({SERVICE}))
    assert not caller.acts_for("service:payment")


async def test_the_store_has_the_hash_alone(world: World) -> None:
    made = await world.make()
    stored = repr(world.store.keys)
    secret = made.text.rpartition("_")[2]
    assert made.key.id in stored
    assert secret[:20] not in stored
    assert secret[20:] not in stored


async def test_unknown_revoked_expired_and_wrong_keys_are_refused_in_the_same_way(world: World) -> None:
    unknown, _ = new_key()
    revoked, short, other = await world.make(), await world.make(expires_in=60), await world.make()
    await world.keys.revoke("payment", revoked.key.id, ROOT)
    assert (await world.keys.verify(short.text)).expires_at == T0.timestamp() + 60
    world.clock.advance(seconds=60)
    swapped = ApiKey(id=short.key.id, alias="x", hashed=other.key.hashed, created_at=T0, created_by="x")
    world.store.keys[other.key.id] = structs.replace(swapped, id=other.key.id, hashed="0" * 64)
    for text in (unknown, revoked.text, short.text, other.text):
        await refused(world.keys, text)


async def test_a_verified_key_is_not_read_again_for_some_seconds(world: World) -> None:
    made = await world.make()
    await asyncio.gather(*(world.keys.verify(made.text) for _ in range(20)))
    for _ in range(20):
        await world.keys.verify(made.text)
    assert world.store.reads == 1


async def test_a_revocation_is_in_effect_on_all_workers_at_once(world: World) -> None:
    made, second, other = await world.make(), await world.make("user"), world.worker()
    for worker in (world.keys, other):
        await worker.verify(made.text)
        await worker.verify(second.text)
    reads = world.store.reads
    await world.keys.revoke("payment", made.key.id, PAYMENT)
    for worker in (world.keys, other):
        await refused(worker, made.text)
        await worker.verify(second.text)
    assert world.store.reads == reads + 2, "keys of other services stay"


@pytest.mark.expected_logs("registration change not announced")
async def test_other_workers_learn_of_a_revocation_when_redis_is_available_again(world: World) -> None:
    made, other = await world.make(), world.worker()
    await other.verify(made.text)
    world.bus.broken = True
    await world.keys.revoke("payment", made.key.id, ROOT)
    await refused(world.keys, made.text)
    world.bus.mend(T0)
    await refused(other, made.text)


async def test_a_gap_of_the_bus_clears_the_cache(world: World) -> None:
    made = await world.make()
    await world.keys.verify(made.text)
    world.store.keys.clear()
    await world.keys.verify(made.text)
    for handler in world.bus.gap_handlers:
        handler(Gap(T0))
    await refused(world.keys, made.text)


async def test_keys_that_are_not_cached_need_the_store(world: World) -> None:
    made, unread = await world.make(), await world.make()
    await world.keys.verify(made.text)
    world.store.broken = True
    await world.keys.verify(made.text)
    for text in (unread.text, new_key()[0]):
        with pytest.raises(StoreUnavailableError):
            await world.keys.verify(text)
    await refused(world.keys, "sfk_typing_error")


async def test_a_connection_is_renewed_until_its_key_ends(world: World) -> None:
    made = await world.make()
    caller = await world.keys.verify(made.text)
    world.clock.advance(seconds=10)
    renewed = await world.keys.renew(caller)
    assert renewed.expires_at == caller.expires_at + 10
    await world.bus.publish([IntegrationChanged("payment")])
    world.store.broken = True
    assert await world.keys.renew(renewed) == renewed, "until it is not trusted any more"
    world.store.broken = False
    await world.keys.revoke("payment", made.key.id, ROOT)
    with pytest.raises(AuthenticationRequiredError, match=MESSAGE):
        await world.keys.renew(renewed)


async def test_a_connection_ends_when_the_keys_of_its_service_are_removed(world: World) -> None:
    caller = await world.keys.verify((await world.make()).text)
    await world.store.delete_of("payment")
    await world.bus.publish([IntegrationChanged("payment")])
    with pytest.raises(AuthenticationRequiredError, match=MESSAGE):
        await world.keys.renew(caller)


async def test_the_last_use_is_stored_once_a_minute(world: World) -> None:
    made, other = await world.make(), world.worker()
    for worker in (world.keys, other):
        for _ in range(5):
            await worker.verify(made.text)
            await asyncio.gather(*worker._noting)
    assert world.store.uses == 1
    assert (await world.keys.list_keys("payment", ROOT))[0].last_used_at == T0
    world.clock.advance(seconds=60)
    await world.keys.verify(made.text)
    await asyncio.gather(*world.keys._noting)
    assert world.store.uses == 2


async def test_a_use_that_cannot_be_stored_refuses_nothing(world: World) -> None:
    made = await world.make()
    await world.keys._cache.find(made.key.id)
    world.store.broken = True
    await world.keys.verify(made.text)
    await asyncio.gather(*world.keys._noting)
    assert world.store.uses == 0


@pytest.mark.parametrize(
    "caller",
    [
        Caller("ada"),
        Caller("shop", scopes=frozenset({SERVICE})),
        service_caller("user"),
        structs.replace(service_caller("user"), scopes=frozenset({SERVICE, ADMIN})),
    ],
)
async def test_others_manage_no_keys_of_a_service(world: World, caller: Caller) -> None:
    made = await world.make()
    for alias in ("payment", "nobody", "", "\ud800"):
        for attempt in (
            world.keys.create(alias, ApiKeyCommand(), caller),
            world.keys.list_keys(alias, caller),
            world.keys.revoke(alias, made.key.id, caller),
        ):
            with pytest.raises(InsufficientPermissionsError):
                await attempt
    assert [key.revoked_at for key in world.store.keys.values()] == [UNSET]


async def test_a_service_rotates_its_own_key(world: World) -> None:
    old = await world.make()
    own = await world.keys.verify(old.text)
    world.clock.advance(seconds=1)
    fresh = await world.keys.create("payment", ApiKeyCommand(name="next"), own)
    assert fresh.key.created_by == "service:payment"
    await world.keys.revoke("payment", old.key.id, await world.keys.verify(fresh.text))
    await refused(world.keys, old.text)
    assert [key.id for key in await world.keys.list_keys("payment", PAYMENT)] == [old.key.id, fresh.key.id]


async def test_keys_need_a_registered_service_and_are_bounded(world: World) -> None:
    with pytest.raises(ServiceNotFoundError):
        await world.make("nobody")
    with pytest.raises(ServiceNotFoundError):
        await world.keys.list_keys("nobody", ROOT)
    made = [await world.make() for _ in range(MAX_VALID_KEYS)]
    with pytest.raises(InvalidRequestError, match="revoke one first"):
        await world.make()
    await world.keys.revoke("payment", made[0].key.id, ROOT)
    await world.make()


async def test_a_key_of_another_service_or_none_is_not_revoked(world: World) -> None:
    made = await world.make()
    for alias, key_id in (("user", made.key.id), ("payment", "x"), ("payment", new_key()[1].id)):
        with pytest.raises(ApiKeyNotFoundError):
            await world.keys.revoke(alias, key_id, ROOT)
    await world.keys.verify(made.text)


async def test_the_log_has_ids_of_keys_and_never_keys(world: World, log_events: LogEvents) -> None:
    made = await world.make()
    await world.keys.verify(made.text)
    await world.keys.revoke("payment", made.key.id, ROOT)
    await refused(world.keys, made.text)
    await refused(world.keys, made.text[:-1])
    logged = repr(log_events.entries)
    assert [entry["reason"] for entry in log_events.named("api key refused")] == ["revoked", "format"]
    assert made.key.id in logged
    assert made.text.rpartition("_")[2][:12] not in logged


async def test_failures_of_others_at_the_address_stop_no_key_that_this_worker_knows(world: World) -> None:
    made, unused = await world.make(), await world.make()
    limits = RequestLimits(SharedBudgets(FakeRateCounters()), RequestRates(failures=1))
    verifier = TokenVerifier(key="k" * 32, algorithms=["HS256"], service_keys=world.keys)
    admission = Admission(limits, verifier)
    assert (await admission.admit(made.text, "192.0.2.1")).service == "payment"
    with pytest.raises(AuthenticationRequiredError):
        await admission.admit("made-up", "192.0.2.1")
    assert (await admission.admit(made.text, "192.0.2.1")).service == "payment"
    other = made.text.replace(made.text.split("_")[1], unused.text.split("_")[1])
    for text in (unused.text, other, "made-up", new_key()[0]):
        with pytest.raises(RateLimitedError):
            await admission.admit(text, "192.0.2.1")
