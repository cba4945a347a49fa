"""The components of integrations, connected over their ports."""

from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.states import StateStore
from app.services.audit.log import AuditLog
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.integrations.administration import IntegrationAdministration
from app.services.integrations.api_keys import ApiKeys
from app.services.integrations.dispatcher import Dispatcher
from app.services.integrations.events import IntegrationEvents
from app.services.integrations.feed import DeliveryFeed
from app.services.integrations.lane_changes import LaneChanges
from app.services.integrations.letter_events import LetterEvents
from app.services.integrations.letters import DeadLetterAdministration
from app.services.integrations.outgoing import IntegrationSink
from app.services.integrations.pending import PendingStates
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.probes import IntegrationProbes
from app.services.integrations.registry import IntegrationRegistry
from app.services.integrations.replay import Replays
from app.services.integrations.retention import DeliveryRetention
from app.services.integrations.waiting_backfill import WaitingBackfill
from app.services.states.history import HistoryReader
from app.services.states.operations import StateOperations


class IntegrationComponents:
    """The components; each receives the few others that it needs."""

    def __init__(
        self,
        ports: IntegrationPorts,
        catalog: DefinitionCatalog,
        bus: EventBus,
        clock: Clock,
        *,
        states: StateStore,
        history: HistoryStore,
        reader: HistoryReader,
        definitions: DefinitionStore,
        access: Visibility,
        audit: AuditLog,
        store_answers: bool = False,
    ) -> None:
        self.registry = IntegrationRegistry(
            ports.registrations, bus, clock, settle_seconds=ports.settle_seconds
        )
        self.administration = IntegrationAdministration(self.registry, ports, catalog, audit, clock)
        self.keys = ApiKeys(ports.api_keys, ports.registrations, bus, audit, clock)
        self.events = IntegrationEvents(ports.secrets)
        self.probes = IntegrationProbes(self.registry, ports.webhooks, self.events, clock)
        self.sink = IntegrationSink(self.registry, ports.lanes, catalog, clock)
        self.pending = PendingStates(self.registry, ports.lanes, states, catalog, access, clock)
        self.feed = DeliveryFeed(self.registry, self.events, ports.log, states, history, catalog)
        self.waiting_backfill = WaitingBackfill(
            self.registry, ports.registrations, ports.lanes, states, definitions, catalog, clock
        )
        self._ports, self._catalog, self._clock, self._reader = ports, catalog, clock, reader
        self._bus = bus
        self._store_answers = store_answers
        self.letters = DeadLetterAdministration(ports, audit, clock)
        self.letter_events = LetterEvents(
            ports.letters, ports.registrations, self.events, LaneChanges(reader, clock), catalog
        )
        self.retention = DeliveryRetention(ports.log, ports.letters, clock)
        self.replays = Replays(ports, self.registry, reader, audit, clock)

    def dispatcher(self, operations: StateOperations) -> Dispatcher:
        """Return the dispatcher of this worker, which the sink gives the changes that it has marked."""
        dispatcher = Dispatcher(
            self._ports,
            lambda: self.registry.registered,
            self.registry.disable_by_receiver,
            self.events,
            self._reader,
            operations,
            self._catalog,
            self._clock,
            store_answers=self._store_answers,
            on_logged=self.feed.notify,
            workers=lambda: self._bus.worker_count,
        )
        self.registry.on_changed(dispatcher.review)
        self.sink.on_marked(dispatcher.offer)
        self.letters.on_jobs(dispatcher.poll)
        self.replays.on_jobs(dispatcher.poll)
        return dispatcher
