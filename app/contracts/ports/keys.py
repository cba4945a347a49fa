"""The ports of the keys of the encryption: data keys, and the keys that wrap them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

SERVICE_OWNER = "service"
"""The owner of the data key of what belongs to no user."""


def user_owner(user_id: str) -> str:
    """Return the owner of a user's data keys."""
    return f"user:{user_id}"


class WrappedKey(Struct, frozen=True):
    """A data key as it is stored.

    Args:
        id: 16 hexadecimal digits, which every text sealed with it names.
        wrapped: The key, sealed by the wrapping key.
        wrapped_by: The id of the wrapping key.
        commitment: Follows from the key, so that no other key passes for it.
        created_at: The time at which it was made.
    """

    id: str
    wrapped: bytes
    wrapped_by: str
    commitment: bytes
    created_at: datetime


class DestroyedKey(Struct, frozen=True):
    """The trace of a data key that an erasure destroyed."""

    id: str
    at: datetime
    by: str


class DataKeyRing(Struct, frozen=True):
    """The data keys of an owner.

    ``current`` seals; None before the first use and after an erasure. ``retired`` still open, until the
    erasure that retired them destroys them.
    """

    owner: str
    current: WrappedKey | None = None
    retired: tuple[WrappedKey, ...] = ()
    destroyed: tuple[DestroyedKey, ...] = ()

    @property
    def usable(self) -> tuple[WrappedKey, ...]:
        """The keys that are not destroyed."""
        return self.retired if self.current is None else (self.current, *self.retired)


class DataKeyStore(Protocol):
    """Stores the data keys, one document for each owner. Every method raises StoreUnavailableError."""

    async def load_many(self, owners: Sequence[str]) -> Mapping[str, DataKeyRing]:
        """Return the keys of owners; those without keys are left out."""

    async def create_many(self, keys: Mapping[str, WrappedKey]) -> Mapping[str, DataKeyRing]:
        """Store a current key for each owner that has none, and return what is stored of each then."""

    async def retire(self, owner: str) -> DataKeyRing | None:
        """Make the current key a retired one, and return the keys; None if the owner never had one."""

    async def destroy_retired(self, owner: str, at: datetime, by: str) -> Sequence[str]:
        """Remove the retired keys, and return the ids of all that were ever destroyed."""

    async def rewrap(self, owner: str, before: WrappedKey, after: WrappedKey) -> bool:
        """Replace the wrapping of a key, current or retired, if it is still ``before``."""

    async def wrapped_by_others(self, wrapping: str, after: str, limit: int) -> Sequence[DataKeyRing]:
        """Return owners, by name after ``after``, with a usable key that another key than this one wraps."""

    async def other_wrappings(self, known: Collection[str]) -> Sequence[str]:
        """Return the ids of all keys but these that wrap a usable data key. Quick if there are none."""

    async def count_by_wrapping(self) -> Mapping[str, int]:
        """Count the owners with usable data keys, by the ids of the keys that wrap those."""


class WrappingKey(Protocol):
    """One key that wraps data keys: one of the settings, or one in a key management service."""

    @property
    def id(self) -> str:
        """The id, which data keys are stored with."""

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key; it unwraps only for the same owner.

        Raises:
            KeyServiceUnavailableError: The key management service does not respond, or refuses.
        """

    async def unwrap(self, wrapped: bytes, owner: str) -> bytes:
        """Return a data key.

        Raises:
            ValueError: It was changed, or belongs to another owner.
            KeyServiceUnavailableError: The key management service does not respond, or refuses.
        """


class KeyWrapping(Protocol):
    """Wraps data keys with one of several wrapping keys, and unwraps with all of them."""

    @property
    def current(self) -> str:
        """The id of the key that wraps."""

    @property
    def known(self) -> Collection[str]:
        """The ids of the keys that unwrap."""

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key with the current key; it unwraps only for the same owner.

        Raises:
            StoreUnavailableError: The key management service does not respond.
        """

    async def unwrap(self, wrapped: bytes, wrapped_by: str, owner: str) -> bytes:
        """Return a data key.

        Raises:
            LookupError: ``wrapped_by`` is not known here.
            ValueError: It was changed, or belongs to another owner.
            StoreUnavailableError: The key management service does not respond.
        """


class UserKeys(Protocol):
    """The data keys of users, for erasures and for what is compared but not read again."""

    async def digest(self, user_id: str, content: bytes) -> str:
        """Return a digest that the present data key of a user makes, and nobody without it.

        Raises:
            StoreUnavailableError: The data key cannot be read.
        """

    async def retire(self, user_id: str) -> None:
        """Let no later change use the present data key of a user. Raises StoreUnavailableError."""

    async def destroy(self, user_id: str, at: datetime, by: str) -> Sequence[str]:
        """Destroy the retired data keys of a user; return the ids of all that were ever destroyed.

        Raises:
            StoreUnavailableError: The store does not respond.
        """

    async def last_destroyed(self, user_id: str) -> DestroyedKey | None:
        """Return the data key of a user that was destroyed last. Raises StoreUnavailableError."""

    def forget(self, user_id: str) -> None:
        """Forget the data keys of a user in the cache, as another worker has erased the data."""

    def forget_all(self) -> None:
        """Forget all data keys in the cache, as events of erasures may have been missed."""


class SealedPage(Struct, frozen=True):
    """The result of sealing a page of documents.

    Args:
        checked: The number of documents.
        sealed: How many of them had a text in the clear, which is sealed now.
        next: The id after which the next page begins; None if there is none.
    """

    checked: int
    sealed: int
    next: str | None


class ClearData(Protocol):
    """Stored data of a time before the encryption was switched on."""

    @property
    def collections(self) -> Sequence[str]:
        """The collections that may have such data."""

    async def seal_page(self, collection: str, after: str, limit: int) -> SealedPage:
        """Seal the texts of documents that are in the clear, where they are still as they were read.

        Args:
            collection: One of ``collections``.
            after: The documents follow this id; "" for the first ones.
            limit: The largest number of documents.

        Raises:
            StoreUnavailableError: The store or the key service does not respond.
        """
