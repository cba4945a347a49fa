"""Data keys in an erasure: all workers forget them, whatever the bus does."""

from datetime import datetime

import pytest

from app.contracts.ports.keys import DestroyedKey
from app.services.states.erasure_keys import ErasureKeys
from tests.support.fakes import FakeBus
from tests.support.samples import T0


class Keys:
    """The data keys of a worker: what was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def retire(self, user_id: str) -> None:
        self.calls.append(f"retire {user_id}")

    async def destroy(self, user_id: str, at: datetime, by: str) -> list[str]:
        self.calls.append(f"destroy {user_id} {by}")
        return ["k1"]

    async def digest(self, user_id: str, content: bytes) -> str:
        return f"{user_id} {content!r}"

    async def last_destroyed(self, user_id: str) -> DestroyedKey | None:
        return DestroyedKey("k1", T0, "root")

    def forget(self, user_id: str) -> None:
        self.calls.append(f"forget {user_id}")

    def forget_all(self) -> None:
        self.calls.append("forget all")


async def test_other_workers_forget_a_key_when_it_is_retired_and_when_it_is_destroyed() -> None:
    bus, own, other = FakeBus(), Keys(), Keys()
    erasing = ErasureKeys(own, bus)
    ErasureKeys(other, bus)
    await erasing.retire("ada")
    assert other.calls == ["forget ada"]
    assert list(await erasing.destroy("ada", T0, "root")) == ["k1"]
    assert other.calls == ["forget ada"] * 2
    assert [call for call in own.calls if not call.startswith("forget")] == ["retire ada", "destroy ada root"]


@pytest.mark.expected_logs("erasure not published")
async def test_without_redis_keys_are_destroyed_and_other_workers_forget_all_once_it_is_back() -> None:
    bus, own, other = FakeBus(), Keys(), Keys()
    erasing = ErasureKeys(own, bus)
    ErasureKeys(other, bus)
    bus.broken = True
    await erasing.retire("ada")
    assert list(await erasing.destroy("ada", T0, "root")) == ["k1"]
    assert other.calls == []
    bus.mend(T0)
    assert other.calls == ["forget all"]


async def test_without_encryption_there_is_nothing_to_destroy() -> None:
    bus = FakeBus()
    erasing = ErasureKeys(None, bus)
    await erasing.retire("ada")
    assert list(await erasing.destroy("ada", T0, "root")) == []
    assert await erasing.last_destroyed("ada") is None
    bus.mend(T0)
