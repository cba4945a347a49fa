"""The contract of PayloadCipher, without stores: what opens, and what never does."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from app.contracts.ports.ciphers import PayloadCipher, PayloadText, SealedText, Unopened
from app.contracts.ports.keys import UserKeys
from app.crypto.data_keys import DataKeys
from app.crypto.payload_cipher import COMPARABLE, CONTENT, AesPayloadCipher
from app.crypto.wrapping import LocalKeys
from tests.support.fake_data_keys import FakeDataKeyStore
from tests.support.fakes import FakeClock
from tests.support.long_form import examples
from tests.support.samples import T0

PORTS = (PayloadCipher, UserKeys)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
USERS = st.one_of(st.none(), TEXTS)
PLACES = st.builds(PayloadText, USERS, TEXTS, TEXTS, TEXTS, st.booleans())


class Worker:
    """The encryption of a worker."""

    def __init__(self, store: FakeDataKeyStore) -> None:
        self.keys = DataKeys(store, LocalKeys([b"a" * 32]), FakeClock(T0))
        self.cipher = AesPayloadCipher(self.keys)


@pytest.fixture
def store() -> FakeDataKeyStore:
    return FakeDataKeyStore()


@pytest.fixture
def worker(store: FakeDataKeyStore) -> Worker:
    return Worker(store)


@pytest.fixture
def cipher(worker: Worker) -> PayloadCipher:
    return worker.cipher


@pytest.fixture
def user_keys(worker: Worker) -> UserKeys:
    return worker.keys


def sealed_as(text: PayloadText, sealed: bytes) -> SealedText:
    return SealedText(text.user_id, text.document_id, text.field, sealed)


def run_both(check: Callable[[Worker], object]) -> None:
    """Run a check of Hypothesis with a cipher of its own, in a loop of its own."""

    async def run() -> None:
        await check(Worker(FakeDataKeyStore()))  # type: ignore[misc]

    asyncio.run(run())


@examples(500, fraction=20)
@given(texts=st.lists(PLACES, max_size=5))
def test_every_text_opens_where_it_was_sealed(texts: list[PayloadText]) -> None:
    async def check(worker: Worker) -> None:
        sealed = await worker.cipher.seal_many(texts)
        opened = await worker.cipher.open_many(list(map(sealed_as, texts, sealed)))
        assert opened == [text.text for text in texts]

    run_both(check)


@examples(1000, fraction=20)
@given(text=PLACES, other=PLACES)
def test_a_text_opens_in_no_other_place(text: PayloadText, other: PayloadText) -> None:
    async def check(worker: Worker) -> None:
        sealed, _ = await worker.cipher.seal_many([text, other])
        place = (text.user_id, text.document_id, text.field)
        for user in {text.user_id, other.user_id}:
            for document_id in {text.document_id, other.document_id}:
                for field in {text.field, other.field}:
                    (opened,) = await worker.cipher.open_many([SealedText(user, document_id, field, sealed)])
                    is_its_place = (user, document_id, field) == place
                    assert opened == (text.text if is_its_place else Unopened.DAMAGED)

    run_both(check)


@examples(1000, fraction=20)
@given(text=PLACES, data=st.data())
def test_no_changed_text_opens(text: PayloadText, data: st.DataObject) -> None:
    async def check(worker: Worker) -> None:
        (sealed,) = await worker.cipher.seal_many([text])
        bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        shorter = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
        for changed in (bytes(flipped), shorter, sealed + b"\0", b"", bytes(40)):
            (opened,) = await worker.cipher.open_many([sealed_as(text, changed)])
            assert opened is Unopened.DAMAGED

    run_both(check)


async def test_a_length_that_moves_between_names_changes_the_place(cipher: PayloadCipher) -> None:
    (sealed,) = await cipher.seal_many([PayloadText("ada", "cd", "ab", "{}")])
    moved = [SealedText("ada", "d", "abc", sealed), SealedText("ada", "bcd", "a", sealed)]
    assert await cipher.open_many(moved) == [Unopened.DAMAGED] * 2


@pytest.mark.parametrize("version", [CONTENT, COMPARABLE])
async def test_a_text_opens_with_its_version_and_key_alone(
    cipher: PayloadCipher, user_keys: UserKeys, version: int
) -> None:
    text = PayloadText("ada", "loop:ada", "payload", "a text that is long enough", version == COMPARABLE)
    (first,) = await cipher.seal_many([text])
    await user_keys.retire("ada")
    (second,) = await cipher.seal_many([text])
    assert first[0] == second[0] == version
    assert first[1:9] != second[1:9]
    other_version = bytes([3 - version]) + first[1:]
    other_key = first[:1] + second[1:9] + first[9:]
    unknown_key = first[:1] + bytes(8) + first[9:]
    newer = bytes([3]) + first[1:]
    found = await cipher.open_many(
        [sealed_as(text, each) for each in (first, second, other_version, other_key, unknown_key, newer)]
    )
    assert found == [text.text, text.text, *[Unopened.DAMAGED] * 4]


async def test_equal_texts_are_sealed_alike_only_if_they_are_comparable(cipher: PayloadCipher) -> None:
    text = PayloadText("ada", "loop:ada", "requestId", "r-1")
    one, other = await cipher.seal_many([text, text])
    assert one != other
    text = structs.replace(text, comparable=True)
    elsewhere = [structs.replace(text, **{name: "x"}) for name in ("user_id", "document_id", "field", "text")]
    one, *others = await cipher.seal_many([text, *elsewhere])
    assert len({one[9:], *(each[9:] for each in others)}) == 5
    assert await cipher.seal_many([text], fresh=True) == [one]


async def test_nothing_of_a_text_is_readable(cipher: PayloadCipher) -> None:
    texts = [PayloadText("ada", "loop:ada", "payload", "MARKER", each) for each in (False, True)]
    assert not any(b"MARKER" in sealed for sealed in await cipher.seal_many(texts))


async def test_the_texts_of_an_erased_user_are_erased_and_new_ones_open(
    cipher: PayloadCipher, user_keys: UserKeys, store: FakeDataKeyStore
) -> None:
    other = Worker(store)
    texts = [PayloadText("ada", "loop:ada", "payload", "{}", each) for each in (False, True)]
    eve = PayloadText("eve", "loop:eve", "payload", "{}")
    before = [sealed_as(text, one) for text, one in zip(texts, await cipher.seal_many(texts), strict=True)]
    (of_eve,) = await cipher.seal_many([eve])
    assert await other.cipher.open_many(before) == ["{}", "{}"]
    await user_keys.retire("ada")
    assert await cipher.open_many(before) == ["{}", "{}"], "an erasure reads what it erases"
    assert await user_keys.destroy("ada", T0, "root") == [before[0].sealed[1:9].hex()]
    other.keys.forget("ada")
    for each in (cipher, other.cipher):
        assert await each.open_many([*before, sealed_as(eve, of_eve)]) == [Unopened.ERASED] * 2 + ["{}"]
    after = [sealed_as(text, one) for text, one in zip(texts, await cipher.seal_many(texts), strict=True)]
    assert await other.cipher.open_many(after) == ["{}", "{}"]


async def test_fresh_reads_the_keys_again(cipher: PayloadCipher, store: FakeDataKeyStore) -> None:
    text = PayloadText("ada", "loop:ada", "payload", "{}")
    (before,) = await cipher.seal_many([text])
    eraser = Worker(store)
    await eraser.keys.retire("ada")
    await eraser.keys.destroy("ada", T0, "root")
    (stale,) = await cipher.seal_many([text])
    assert stale[1:9] == before[1:9], "the cache has not forgotten it"
    (fresh,) = await cipher.seal_many([text], fresh=True)
    (after,) = await cipher.seal_many([text])
    assert before[1:9] != fresh[1:9] == after[1:9]


async def test_with_keys_in_the_cache_nothing_is_awaited(
    cipher: PayloadCipher, store: FakeDataKeyStore
) -> None:
    text = PayloadText("ada", "loop:ada", "payload", "{}")
    (sealed,) = await cipher.seal_many([text])
    store.broken = True
    for step in (cipher.seal_many([text] * 3), cipher.open_many([sealed_as(text, sealed)] * 3)):
        with pytest.raises(StopIteration):  # the coroutine ends at its first step
            step.send(None)


async def test_two_workers_that_begin_together_open_each_others_texts(store: FakeDataKeyStore) -> None:
    workers = [Worker(store) for _ in range(3)]
    text = PayloadText("ada", "loop:ada", "requestId", "r-1", comparable=True)
    sealed = await asyncio.gather(*(worker.cipher.seal_many([text]) for worker in workers * 2))
    assert len({one for (one,) in sealed}) == 1
    for worker in workers:
        assert await worker.cipher.open_many([sealed_as(text, sealed[0][0])]) == ["r-1"]


async def test_an_erased_user_has_a_time_and_an_author(
    user_keys: UserKeys, cipher: PayloadCipher, store: FakeDataKeyStore
) -> None:
    at = datetime(2026, 1, 2, tzinfo=T0.tzinfo)
    await cipher.seal_many([PayloadText("ada", "loop:ada", "payload", "{}")])
    await user_keys.retire("ada")
    await user_keys.destroy("ada", at, "root")
    (destroyed,) = store.rings["user:ada"].destroyed
    assert (destroyed.at, destroyed.by) == (at, "root")
    assert await user_keys.last_destroyed("ada") == destroyed
    assert await user_keys.last_destroyed("eve") is None


async def test_whether_the_key_of_a_text_still_seals(cipher: PayloadCipher, store: FakeDataKeyStore) -> None:
    (sealed,) = await cipher.seal_many([PayloadText("ada", "loop:ada", "payload", "{}")])
    assert await cipher.seals_with("ada", sealed)
    eraser = Worker(store)
    await eraser.keys.retire("ada")
    assert not await cipher.seals_with("ada", sealed), "the keys are read again"
    assert not await cipher.seals_with("eve", sealed)


@pytest.mark.parametrize("forget", [lambda keys: keys.forget("ada"), lambda keys: keys.forget_all()])
async def test_a_worker_that_forgets_keys_reads_them_again(
    user_keys: UserKeys, cipher: PayloadCipher, store: FakeDataKeyStore, forget: Callable[[UserKeys], None]
) -> None:
    text = PayloadText("ada", "loop:ada", "payload", "{}")
    (sealed,) = await cipher.seal_many([text])
    await Worker(store).keys.retire("ada")
    await Worker(store).keys.destroy("ada", T0, "root")
    assert await cipher.open_many([sealed_as(text, sealed)]) == ["{}"]
    forget(user_keys)
    assert await cipher.open_many([sealed_as(text, sealed)]) == [Unopened.ERASED]


async def test_a_digest_is_the_same_on_all_workers_and_another_one_for_each_user_and_after_an_erasure(
    user_keys: UserKeys, store: FakeDataKeyStore
) -> None:
    other = Worker(store).keys
    digest = await user_keys.digest("ada", b"content")
    assert len(digest) == 24
    assert await other.digest("ada", b"content") == digest
    assert await other.digest("ada", b"other") != digest
    assert await other.digest("eve", b"content") != digest
    await user_keys.retire("ada")
    assert await user_keys.digest("ada", b"content") != digest
