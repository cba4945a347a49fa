"""The adapters that integrations need."""

from msgspec import Struct

from app.contracts.ports.deliveries import DeadLetters, DeliveryLanes, DeliveryLog
from app.contracts.ports.integrations import ApiKeyStore, IntegrationStore
from app.contracts.ports.secrets import SecretStore
from app.contracts.ports.transports import EventStreams, WebhookTransport
from app.services.integrations.registry import SETTLE_SECONDS


class IntegrationPorts(Struct, frozen=True, kw_only=True):
    """The stores and transports of integrations.

    ``settle_seconds`` is the time after which a registration is in effect on all workers. ``seals_streams``:
    events are sealed with the newest secret of their integration before they are appended to its stream.
    """

    registrations: IntegrationStore
    api_keys: ApiKeyStore
    lanes: DeliveryLanes
    log: DeliveryLog
    letters: DeadLetters
    webhooks: WebhookTransport
    streams: EventStreams
    secrets: SecretStore
    settle_seconds: float = SETTLE_SECONDS
    seals_streams: bool = False
