"""Opens the keys that entries of FLOW_ENCRYPTION_KEYS name."""

from app.contracts.ports.keys import WrappingKey
from config.encryption import WrappingKeySetting


def open_service_key(entry: WrappingKeySetting) -> WrappingKey:
    """Return the key that an entry names; nothing is sent yet.

    The modules of services are loaded here: most processes need none of them.
    """
    match entry.kind:
        case "awskms":
            from app.outbound.key_services.aws import AwsKmsKey  # noqa: PLC0415

            return AwsKmsKey(entry.name)
        case "gcpkms":
            from app.outbound.key_services.gcp import GcpKmsKey  # noqa: PLC0415

            return GcpKmsKey(entry.name)
        case "vault":
            from app.outbound.key_services.vault import VaultKey  # noqa: PLC0415

            return VaultKey(entry.name)
    raise ValueError(f"{entry.kind} is no key service")
