"""Rotation of wrapping keys: concurrent, interrupted, and with keys that cannot be unwrapped."""

import asyncio

import pytest
from msgspec import structs

from app.contracts.audit import AuditEntry
from app.contracts.callers import Caller
from app.contracts.errors import StoreUnavailableError, WrappingKeyMissingError
from app.contracts.ports.keys import DataKeyRing, KeyWrapping, WrappedKey
from app.crypto.data_keys import DataKeys
from app.crypto.encryption import Encryption
from app.crypto.wrapping import LocalKeys
from app.services.administration.key_rotation import KeyRotation
from app.services.audit.log import AuditLog
from config.encryption import WrappingKeySetting
from tests.support.fake_audit import FakeAuditStore
from tests.support.fake_data_keys import FakeDataKeyStore, FakeKeyWrapping
from tests.support.fakes import FakeClock, FakeSecretStore
from tests.support.samples import T0

AUDIT_STORE = FakeAuditStore()


def rotation_of(store: FakeDataKeyStore, wrapping: KeyWrapping) -> KeyRotation:
    return KeyRotation(store, wrapping, AuditLog(AUDIT_STORE, FakeSecretStore(), FakeClock(T0)))


OWNERS = [f"user:{number:03}" for number in range(250)]


async def filled(store: FakeDataKeyStore, wrapping: KeyWrapping, owners: list[str]) -> dict[str, bytes]:
    """Create data keys; the commitments by owner."""
    created = await DataKeys(store, wrapping, FakeClock(T0)).load_sealing(owners)
    return {owner: key.commitment for owner, key in created.items()}


async def readable(store: FakeDataKeyStore, wrapping: KeyWrapping) -> dict[str, bytes]:
    """Unwrap all current keys; the commitments by owner."""
    keys = await DataKeys(store, wrapping, FakeClock(T0)).load_sealing(list(store.rings))
    return {owner: key.commitment for owner, key in keys.items()}


@pytest.fixture
def store() -> FakeDataKeyStore:
    return FakeDataKeyStore()


async def test_all_data_keys_are_wrapped_again_and_stay_the_same(store: FakeDataKeyStore) -> None:
    commitments = await filled(store, LocalKeys([b"a" * 32]), OWNERS)
    both = LocalKeys([b"b" * 32, b"a" * 32])
    progress: list[tuple[int, int]] = []
    report = await rotation_of(store, both).rotate(lambda done, total: progress.append((done, total)))
    assert (report.key, report.rewrapped, report.remaining) == (both.current, len(OWNERS), 0)
    assert progress == [(100, 250), (200, 250), (250, 250)]
    assert await readable(store, LocalKeys([b"b" * 32])) == commitments
    assert (await rotation_of(store, both).rotate()).rewrapped == 0


async def test_retired_keys_are_wrapped_again_too(store: FakeDataKeyStore) -> None:
    before = FakeKeyWrapping("local:a")
    await filled(store, before, ["user:ada"])
    await store.retire("user:ada")
    await filled(store, before, ["user:ada"])
    report = await rotation_of(store, FakeKeyWrapping("local:b", "local:a")).rotate()
    assert report.rewrapped == 2
    assert {key.wrapped_by for key in store.rings["user:ada"].usable} == {"local:b"}
    assert len(store.rings["user:ada"].retired) == 1


async def test_the_list_says_what_can_be_removed(store: FakeDataKeyStore) -> None:
    await filled(store, FakeKeyWrapping("local:a"), OWNERS[:3])
    await filled(store, FakeKeyWrapping("local:x"), OWNERS[3:4])
    rotation = rotation_of(store, FakeKeyWrapping("local:b", "local:a", "local:c"))
    found = [(key.id, key.owners, key.current, key.known, key.unused) for key in await rotation.list_keys()]
    assert found == [
        ("local:b", 0, True, True, False),
        ("local:a", 3, False, True, False),
        ("local:c", 0, False, True, True),
        ("local:x", 1, False, False, False),
    ]


@pytest.mark.expected_logs("data key not wrapped again")
async def test_keys_that_cannot_be_unwrapped_remain_and_stop_no_other(store: FakeDataKeyStore) -> None:
    await filled(store, FakeKeyWrapping("local:a"), OWNERS[:3])
    await filled(store, FakeKeyWrapping("local:x"), OWNERS[3:4])
    first = store.rings[OWNERS[0]].current
    assert first is not None
    store.rings[OWNERS[0]] = DataKeyRing(OWNERS[0], structs.replace(first, wrapped=b"local:a|user:eve|00"))
    before = dict(store.rings)
    report = await rotation_of(store, FakeKeyWrapping("local:b", "local:a")).rotate()
    assert (report.rewrapped, report.remaining) == (2, 2)
    assert [store.rings[owner] == before[owner] for owner in OWNERS[:4]] == [True, False, False, True]


async def test_two_rotations_at_once_do_the_work_once(store: FakeDataKeyStore) -> None:
    commitments = await filled(store, FakeKeyWrapping("local:a"), OWNERS)
    wrapping = FakeKeyWrapping("local:b", "local:a")
    reports = await asyncio.gather(*(rotation_of(store, wrapping).rotate() for _ in range(2)))
    assert sum(report.rewrapped for report in reports) == len(OWNERS)
    assert await readable(store, FakeKeyWrapping("local:b")) == commitments


async def test_keys_that_are_created_by_an_older_worker_meanwhile_are_wrapped_in_the_next_pass(
    store: FakeDataKeyStore,
) -> None:
    before = FakeKeyWrapping("local:a")
    await filled(store, before, OWNERS[100:200])

    async def create_behind() -> None:
        if "user:000" not in store.rings:
            await filled(store, before, OWNERS[:100])

    rewrap = store.rewrap

    async def rewrap_and_create(owner: str, old: WrappedKey, new: WrappedKey) -> bool:
        await create_behind()
        return await rewrap(owner, old, new)

    store.rewrap = rewrap_and_create  # type: ignore[method-assign, assignment]
    report = await rotation_of(store, FakeKeyWrapping("local:b", "local:a")).rotate()
    assert (report.rewrapped, report.remaining) == (200, 0)


async def test_an_interrupted_rotation_is_repeated(store: FakeDataKeyStore) -> None:
    commitments = await filled(store, FakeKeyWrapping("local:a"), OWNERS)
    wrapping = FakeKeyWrapping("local:b", "local:a")
    with pytest.raises(StoreUnavailableError):
        await rotation_of(store, wrapping).rotate(lambda done, _: setattr(store, "broken", done >= 100))
    store.broken = False
    report = await rotation_of(store, wrapping).rotate()
    assert report.rewrapped == 150
    assert await readable(store, FakeKeyWrapping("local:b")) == commitments


async def test_the_job_rotates_once_after_a_start_with_another_first_key(store: FakeDataKeyStore) -> None:
    await filled(store, FakeKeyWrapping("local:a"), OWNERS[:3])
    older = rotation_of(store, FakeKeyWrapping("local:a", "local:b"))
    newer = rotation_of(store, FakeKeyWrapping("local:b", "local:a"))
    for rotation in (older, newer):
        await rotation.look()
        await rotation.look()
    beside = rotation_of(store, FakeKeyWrapping("local:b", "local:a"))
    await beside.look()
    await newer.rotate_if_due()
    assert await store.count_by_wrapping() == {"local:b": 3}
    audited = len(AUDIT_STORE.entries)
    await beside.rotate_if_due()
    assert len(AUDIT_STORE.entries) == audited, "it was done by another worker"
    await older.look()
    await older.rotate_if_due()
    assert await store.count_by_wrapping() == {"local:b": 3}, (
        "a worker of before the change wraps nothing back"
    )


async def test_a_job_that_failed_is_repeated(store: FakeDataKeyStore) -> None:
    await filled(store, FakeKeyWrapping("local:a"), OWNERS[:3])
    rotation = rotation_of(store, FakeKeyWrapping("local:b", "local:a"))
    store.broken = True
    with pytest.raises(StoreUnavailableError):
        await rotation.look()
    store.broken = False
    await rotation.look()
    store.broken = True
    with pytest.raises(StoreUnavailableError):
        await rotation.rotate_if_due()
    store.broken = False
    await rotation.rotate_if_due()
    assert await store.count_by_wrapping() == {"local:b": 3}


def encryption(store: FakeDataKeyStore, *keys: bytes) -> Encryption:
    return Encryption([WrappingKeySetting("local", key * 32) for key in keys], store, FakeClock(T0))


async def test_a_start_needs_every_wrapping_key_that_stored_data_needs(store: FakeDataKeyStore) -> None:
    off, first, both = encryption(store), encryption(store, b"a"), encryption(store, b"b", b"a")
    for each in (off, first, both):
        await each.require_wrapping_keys()
    assert first.keys is not None
    await first.keys.load_sealing(["user:ada", "service"])
    for each in (first, both):
        await each.require_wrapping_keys()
    missing = LocalKeys([b"a" * 32]).current
    for each, says in ((off, "is not set"), (encryption(store, b"b"), "lacks")):
        with pytest.raises(WrappingKeyMissingError, match=rf"{says}: {missing} \(data keys: 2\)"):
            await each.require_wrapping_keys()


async def test_a_rotation_is_audited(store: FakeDataKeyStore) -> None:
    AUDIT_STORE.entries.clear()
    wrapping = FakeKeyWrapping("local:b", "local:a")
    await filled(store, FakeKeyWrapping("local:a"), OWNERS[:3])
    await rotation_of(store, wrapping).rotate(caller=Caller("root"))
    done = AUDIT_STORE.entries[-1]
    assert isinstance(done, AuditEntry)
    assert (done.act.action, done.act.target, done.act.actor) == ("keys.rotate", "key:local:b", "root")
    assert (done.outcome, done.act.details) == ("done", {"rewrapped": 3, "remaining": 0})
