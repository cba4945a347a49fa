"""The components of integrations, connected over their ports."""

from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.administration import IntegrationAdministration
from app.services.integrations.api_keys import ApiKeys
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.probes import IntegrationProbes
from app.services.integrations.registry import IntegrationRegistry


class IntegrationComponents:
    """The components; each receives the few others that it needs."""

    def __init__(
        self, ports: IntegrationPorts, catalog: DefinitionCatalog, bus: EventBus, clock: Clock
    ) -> None:
        self.registry = IntegrationRegistry(
            ports.registrations, bus, clock, settle_seconds=ports.settle_seconds
        )
        self.administration = IntegrationAdministration(self.registry, ports, catalog, clock)
        self.keys = ApiKeys(ports.api_keys, ports.registrations, bus, clock)
        self.probes = IntegrationProbes(self.registry, ports.webhooks, clock)
