"""The encryption of a process, and its check at the start."""

from collections.abc import Callable, Sequence

from app.contracts.errors import WrappingKeyMissingError
from app.contracts.ports.clock import Clock
from app.contracts.ports.keys import DataKeyStore, KeyWrapping, WrappingKey
from app.crypto.data_keys import DataKeys
from app.crypto.payload_cipher import AesPayloadCipher
from app.crypto.wrapping import LocalKey, WrappingKeys
from config.encryption import WrappingKeySetting


def no_service_key(entry: WrappingKeySetting) -> WrappingKey:
    """Refuse a key of a key service."""
    raise ValueError(f"keys of {entry.kind} cannot be used here")


class Encryption:
    """The parts of the encryption; all but the store are None if it is off.

    Args:
        entries: The wrapping keys of the settings, the one that wraps first; none: encryption is off.
        store: The stored data keys.
        clock: For the times at which data keys are created.
        open_service_key: Returns the key of an entry that names one in a key service.
    """

    def __init__(
        self,
        entries: Sequence[WrappingKeySetting],
        store: DataKeyStore,
        clock: Clock,
        open_service_key: Callable[[WrappingKeySetting], WrappingKey] = no_service_key,
    ) -> None:
        self.store = store
        self.wrapping: KeyWrapping | None = None
        self.keys: DataKeys | None = None
        self.cipher: AesPayloadCipher | None = None
        if entries:
            self.wrapping = WrappingKeys(
                [
                    LocalKey(entry.key) if entry.kind == "local" else open_service_key(entry)
                    for entry in entries
                ]
            )
            self.keys = DataKeys(store, self.wrapping, clock)
            self.cipher = AesPayloadCipher(self.keys)

    async def require_wrapping_keys(self) -> None:
        """Check that every stored data key can be unwrapped.

        Raises:
            WrappingKeyMissingError: Names the missing keys.
            StoreUnavailableError: The store does not respond.
        """
        missing = await self.store.other_wrappings(() if self.wrapping is None else self.wrapping.known)
        if not missing:
            return
        counts = await self.store.count_by_wrapping()
        needs = ", ".join(f"{key} (data keys: {counts.get(key, 0)})" for key in missing)
        found = "is not set" if self.wrapping is None else "lacks"
        raise WrappingKeyMissingError(
            f"Stored data needs wrapping keys that FLOW_ENCRYPTION_KEYS {found}: {needs}. Add them there, or "
            "restore encryption.json in the data directory of embedded servers; without them the data cannot "
            "be read (docs/operations/encryption.md)"
        )
