"""The components of integrations, connected over their ports."""

from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.administration import IntegrationAdministration
from app.services.integrations.api_keys import ApiKeys
from app.services.integrations.letters import DeadLetterAdministration
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.probes import IntegrationProbes
from app.services.integrations.registry import IntegrationRegistry
from app.services.integrations.replay import Replays
from app.services.states.history import HistoryReader


class IntegrationComponents:
    """The components; each receives the few others that it needs."""

    def __init__(
        self,
        ports: IntegrationPorts,
        catalog: DefinitionCatalog,
        bus: EventBus,
        clock: Clock,
        history: HistoryReader,
        *,
        settle_seconds: float,
    ) -> None:
        self.registry = IntegrationRegistry(ports.registrations, bus, clock, settle_seconds=settle_seconds)
        self.administration = IntegrationAdministration(self.registry, ports, catalog, clock)
        self.keys = ApiKeys(ports.api_keys, ports.registrations, bus, clock)
        self.probes = IntegrationProbes(self.registry, ports.webhooks, clock)
        self.letters = DeadLetterAdministration(ports, clock)
        self.replays = Replays(ports, self.registry, history, clock)
