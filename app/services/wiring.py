"""The components of a service, connected over the ports."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from msgspec import Struct, structs

from app.contracts.callers import Caller
from app.contracts.ports.audit import AuditStore
from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.ports.entities import EntityReservations
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.keys import ClearData, DataKeyStore, KeyWrapping, UserKeys
from app.contracts.ports.leases import LeaseStore
from app.contracts.ports.rate_limits import RateCounters
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import StateStore
from app.contracts.ports.statistics import StatisticsSource
from app.contracts.statistics import FlowStatistics
from app.flow.values.payload import PayloadLimits
from app.services.administration.batch import Bulk
from app.services.administration.clear_data import ClearDataSealing
from app.services.administration.integrity import IntegrityCheck
from app.services.administration.key_rotation import LOOK_EVERY, ROTATE_EVERY, KeyRotation
from app.services.administration.migration import Migration
from app.services.administration.personal_data import PersonalDataRequests
from app.services.administration.pseudonymisation import Pseudonymisation
from app.services.administration.retirement import Retirement
from app.services.administration.search import StateSearch
from app.services.administration.states import Administration
from app.services.audit.log import AuditLog
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.checks import DefinitionChecks
from app.services.definitions.diagrams import FlowDiagrams
from app.services.definitions.exchange import DefinitionExchange
from app.services.definitions.field_masks import FieldMasks
from app.services.definitions.publisher import Definitions
from app.services.definitions.tokens import StateTokens
from app.services.definitions.visibility import Visibility
from app.services.delivery.relay import Relay
from app.services.delivery.sinks import DeliverySink, EventBusSink, HistorySink
from app.services.delivery.state_events import StateEvents
from app.services.delivery.undeliverable import UndeliverableRecords
from app.services.integrations.components import IntegrationComponents
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.retention import RETENTION_EVERY
from app.services.integrations.waiting_backfill import BACKFILL_EVERY
from app.services.jobs.background import Background
from app.services.jobs.due_changes import DueChanges
from app.services.jobs.job import Job
from app.services.jobs.lease import LeaseHolder
from app.services.jobs.outbox_sweep import OutboxSweep
from app.services.live.catch_up import CatchUp
from app.services.live.presence import Presence
from app.services.live.subscribers import LocalSubscribers
from app.services.rates.client_limits import ClientLimits
from app.services.rates.request_limits import RequestRates
from app.services.states.changes import StateChanges
from app.services.states.committer import Committer
from app.services.states.conflicts import ConflictResolution
from app.services.states.deadlines import Deadlines
from app.services.states.endings import Endings
from app.services.states.erasure_keys import ErasureKeys
from app.services.states.executor import Executor
from app.services.states.explanations import Explanations
from app.services.states.history import HistoryReader
from app.services.states.idempotency import Idempotency, RequestFingerprints
from app.services.states.identification import Identification
from app.services.states.operations import StateOperations
from app.services.states.people import PeopleOperations
from app.services.states.recovery import Recovery


def always() -> bool:
    """Trust a clock that is not checked."""
    return True


class KeyPorts(Struct, frozen=True):
    """The encryption: stored keys, keys that wrap them, keys of users, and data still in the clear."""

    store: DataKeyStore
    wrapping: KeyWrapping
    users: UserKeys
    clear: ClearData


class Ports(Struct, frozen=True, kw_only=True):
    """The adapters that a service needs."""

    states: StateStore
    entities: EntityReservations
    history: HistoryStore
    definitions: DefinitionStore
    statistics: StatisticsSource
    leases: LeaseStore
    reports: CorruptionReports
    integrations: IntegrationPorts
    audit: AuditStore
    rates: RateCounters
    bus: EventBus
    clock: Clock
    keys: KeyPorts | None = None
    """None: stored data is not encrypted."""
    is_time_trusted: Callable[[], bool] = always
    """False while ``clock`` is too wrong to decide what only time decides."""


class Limits(Struct, frozen=True):
    """Bounds and times of a service.

    ``state_ttl`` None: states do not expire; ``history_retention`` None: history is retained for ever.
    ``rates`` are those of requests; the connections are those of one user and of one address on this worker.
    ``store_answers``: attempts to deliver events to services have the beginning of the answers.
    ``sends_events`` False: this process sends no events to services, since it may not reach them; others do.
    """

    definition_max_age: timedelta = timedelta(minutes=5)
    state_ttl: timedelta | None = None
    history_retention: timedelta | None = None
    max_payload_bytes: int = 65_536
    max_payload_depth: int = 32
    max_payload_fields: int = 10_000
    rates: RequestRates = RequestRates()
    user_connections: int = 100
    address_connections: int = 2_000
    store_answers: bool = False
    sends_events: bool = True

    def of_clients(self, counters: RateCounters) -> ClientLimits:
        """Create the limits of clients."""
        return ClientLimits(
            counters,
            self.rates,
            user_connections=self.user_connections,
            address_connections=self.address_connections,
        )

    @property
    def of_payloads(self) -> PayloadLimits:
        """The limits of payloads."""
        return PayloadLimits(self.max_payload_bytes, self.max_payload_depth, self.max_payload_fields)


class Components:
    """The components; each receives the few others that it needs."""

    def __init__(self, ports: Ports, limits: Limits) -> None:
        self._statistics, self._clock = ports.statistics, ports.clock
        states, history, bus, clock = ports.states, ports.history, ports.bus, ports.clock
        pruned = limits.history_retention is not None
        self.audit = AuditLog(ports.audit, ports.integrations.secrets, clock)
        self.clients, sizes = limits.of_clients(ports.rates), limits.of_payloads
        self.catalog = DefinitionCatalog(ports.definitions, limits.definition_max_age)
        bus.subscribe(self.catalog.on_event)
        bus.on_gap(self.catalog.on_gap)
        masks = FieldMasks(self.catalog, self._fields_of)
        self.history = HistoryReader(states, history, self.catalog, masks, clock, pruned=pruned)
        self.access = Visibility(self.catalog, states, masks, clock)
        self.erasure_keys = ErasureKeys(None if ports.keys is None else ports.keys.users, bus)
        self.integrations = self._integrations(ports, limits)
        self.identification = Identification(states, ports.entities, self.catalog, clock)
        self.updates = StateEvents(self.catalog, self.access)
        relay = self._relay(ports)
        commits = Committer(
            states, relay, self.catalog, state_ttl=limits.state_ttl, retention=limits.history_retention
        )
        recovery = Recovery(states, history, self.catalog, commits, ports.reports, clock, pruned=pruned)
        executor = self._executor(ports, commits, recovery, masks)
        endings, requests = Endings(states, history, self.erasure_keys, clock), self.clients.requests
        self.changes = StateChanges(
            executor, self.catalog, self.access, recovery, endings, requests, self.audit
        )
        self.catch_up = CatchUp(states, history, self.changes, self.access, self.updates, self.catalog, clock)
        self.subscribers = LocalSubscribers(bus, states, self.catch_up)
        self.presence = Presence(bus, self.subscribers.has_subscribers)
        self.subscribers.on_left(self.presence.forget_topic)
        self.operations = StateOperations(
            states, self.changes, self.catalog, self.access, self.history, self.identification, clock, sizes
        )
        self.explanations = Explanations(self.operations, states, self.catalog, clock)
        self.administration = Administration(
            states, self.changes, self.catalog, self.access, recovery, self.identification, self.audit, clock
        )
        self.search = StateSearch(states, self.catalog, self.access, clock)
        self.people = PeopleOperations(self.changes, self.catalog, self.identification)
        self.bulk = Bulk(self.operations, self.administration, self.audit)
        self.personal_data = self._personal_data(ports, commits, recovery, relay, endings)
        self._administer_definitions(ports)
        self.background = self._background(ports, limits, executor, relay, recovery)

    def _administer_definitions(self, ports: Ports) -> None:
        states, clock = ports.states, ports.clock
        checks = DefinitionChecks(self.integrations.registry.aliases)
        self.definitions = Definitions(
            ports.definitions, self.catalog, self.access, ports.bus, clock, checks, self.audit
        )
        self.exchange = DefinitionExchange(self.definitions)
        self.diagrams = FlowDiagrams(self.operations, self.definitions)
        self.tokens = StateTokens(self.operations, self.definitions)
        self.migration = Migration(states, self.changes, self.definitions, self.audit, clock)
        self.retirement = Retirement(
            states, self.definitions, ports.definitions, self.changes, self.audit, clock
        )
        keys = ports.keys
        self.key_rotation = None if keys is None else KeyRotation(keys.store, keys.wrapping, self.audit)
        self.clear_data = None if keys is None else ClearDataSealing(keys.clear, self.audit)

    def _executor(self, ports: Ports, commits: Committer, recovery: Recovery, masks: FieldMasks) -> Executor:
        # Digests of what users entered are keyed where the data itself is encrypted.
        keys = None if ports.keys is None else ports.keys.users
        return Executor(
            ports.states,
            commits,
            Idempotency(ports.history, RequestFingerprints(keys)),
            Deadlines(self.catalog, ports.is_time_trusted),
            recovery,
            ConflictResolution(self.catalog, masks, ports.history),
            ports.clock,
        )

    def _integrations(self, ports: Ports, limits: Limits) -> IntegrationComponents:
        return IntegrationComponents(
            ports.integrations,
            self.catalog,
            ports.bus,
            ports.clock,
            states=ports.states,
            history=ports.history,
            reader=self.history,
            definitions=ports.definitions,
            access=self.access,
            audit=self.audit,
            store_answers=limits.store_answers,
        )

    def _fields_of(self, alias: str) -> Sequence[str]:
        """Return the fields that the registration of an integration lists."""
        return self.integrations.registry.fields_of(alias)

    def _relay(self, ports: Ports) -> Relay:
        sinks: list[DeliverySink] = [
            HistorySink(ports.history),
            EventBusSink(ports.bus, ports.history, self.updates),
            self.integrations.sink,
        ]
        return Relay(ports.states, sinks, UndeliverableRecords(ports.reports, ports.clock))

    def _personal_data(
        self, ports: Ports, commits: Committer, recovery: Recovery, relay: Relay, endings: Endings
    ) -> PersonalDataRequests:
        states, history, clock = ports.states, ports.history, ports.clock
        return PersonalDataRequests(
            states,
            history,
            ports.definitions,
            self.history,
            commits,
            recovery,
            relay,
            ports.reports,
            ports.integrations.letters,
            Pseudonymisation(
                states, history, commits, recovery, relay, self.integrations.letter_events, clock
            ),
            self.erasure_keys,
            endings,
            self.audit,
            clock,
        )

    def _background(
        self, ports: Ports, limits: Limits, executor: Executor, relay: Relay, recovery: Recovery
    ) -> Background:
        states, clock, backfill = ports.states, ports.clock, self.integrations.waiting_backfill
        retention, dispatcher = self.integrations.retention, self.integrations.dispatcher(self.operations)
        sending = Job("deliveries to services", every=None, leased=False, work=dispatcher.run)
        return Background(
            relay,
            OutboxSweep(states, relay, clock),
            DueChanges(states, executor, clock),
            IntegrityCheck(states, recovery, relay, ports.reports, clock),
            LeaseHolder(ports.leases, clock, "background", ports.is_time_trusted),
            [
                Job("subscribers", every=None, leased=False, work=self.subscribers.run),
                Job("request rates", every=None, leased=False, work=self.clients.run),
                Job("presence", every=None, leased=False, work=self.presence.run),
                *([sending] if limits.sends_events else []),
                Job("registrations", every=None, leased=False, work=self.integrations.registry.run),
                Job("waiting states of services", BACKFILL_EVERY, leased=True, work=backfill.run),
                Job("old deliveries to services", RETENTION_EVERY, leased=True, work=retention.run),
                *self._key_jobs(),
            ],
        )

    def _key_jobs(self) -> list[Job]:
        rotation = self.key_rotation
        if rotation is None:
            return []
        return [
            Job("wrapping keys of data keys", LOOK_EVERY, leased=False, work=rotation.look),
            Job("rotation of wrapping keys", ROTATE_EVERY, leased=True, work=rotation.rotate_if_due),
        ]

    async def purge_expired(self, caller: Caller | None = None) -> int:
        """End all expired states for a caller, by default a program, and return their number."""
        async with self.audit.act("states.purge", "states", caller or "python") as act:
            act.details["ended"] = ended = await self.background.due_changes.purge_expired()
        return ended

    async def read_statistics(self) -> FlowStatistics:
        """Return statistics over all states and their history."""
        figures = await self._statistics.statistics(self._clock.now())
        return structs.replace(figures, services=await self.integrations.administration.statistics())
