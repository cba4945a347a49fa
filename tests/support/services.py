"""The service over a database, as one worker has it, without a bus of its own."""

from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.kit.clock import SystemClock
from app.services import FlowService
from app.services.integrations.ports import IntegrationPorts
from app.services.wiring import Limits, Ports
from models.audit_store import MongoAuditStore
from models.corruption_store import MongoCorruptionReports
from models.database import Database
from models.definition_store import MongoDefinitionStore
from models.entity_reservations import MongoEntityReservations
from models.history_store import MongoHistoryStore
from models.integrations.api_keys import MongoApiKeyStore
from models.integrations.lanes import MongoDeliveryLanes
from models.integrations.letters import MongoDeadLetters
from models.integrations.log import MongoDeliveryLog
from models.integrations.registrations import MongoIntegrationStore
from models.lease_store import MongoLeaseStore
from models.secret_store import MongoSecretStore
from models.states.store import MongoStateStore
from models.statistics import MongoStatistics
from tests.support.fake_rates import FakeRateCounters
from tests.support.fake_transports import FakeEventStreams, FakeWebhooks
from tests.support.fakes import FakeBus


def service_on(
    database: Database,
    *,
    bus: EventBus | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
) -> FlowService:
    """Build the service on a database that is prepared."""
    ports = Ports(
        states=MongoStateStore(database),
        entities=MongoEntityReservations(database),
        history=MongoHistoryStore(database),
        definitions=MongoDefinitionStore(database),
        statistics=MongoStatistics(database),
        leases=MongoLeaseStore(database),
        reports=MongoCorruptionReports(database),
        integrations=IntegrationPorts(
            registrations=MongoIntegrationStore(database),
            api_keys=MongoApiKeyStore(database),
            lanes=MongoDeliveryLanes(database),
            log=MongoDeliveryLog(database),
            letters=MongoDeadLetters(database),
            webhooks=FakeWebhooks(),
            streams=FakeEventStreams(),
            secrets=MongoSecretStore(database),
        ),
        audit=MongoAuditStore(database),
        rates=FakeRateCounters(),
        bus=bus or FakeBus(),
        clock=clock or SystemClock(),
    )
    return FlowService(ports, limits or Limits())
