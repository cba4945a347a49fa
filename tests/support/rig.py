"""A service over fakes."""

from typing import Any

from app.contracts.events import StateChanged
from app.services import FlowService
from app.services.integrations.ports import IntegrationPorts
from app.services.trusted import TrustedFlows
from app.services.wiring import KeyPorts, Limits, Ports
from tests.support.fake_api_keys import FakeApiKeyStore
from tests.support.fake_audit import FakeAuditStore
from tests.support.fake_deliveries import FakeDeadLetters, FakeDeliveryLanes, FakeDeliveryLog
from tests.support.fake_integrations import FakeIntegrationStore
from tests.support.fake_rates import FakeRateCounters
from tests.support.fake_transports import FakeEventStreams, FakeWebhooks
from tests.support.fakes import (
    FakeBus,
    FakeClock,
    FakeCorruptionReports,
    FakeDefinitionStore,
    FakeEntityReservations,
    FakeHistoryStore,
    FakeLeaseStore,
    FakeSecretStore,
    FakeStateStore,
    FakeStatistics,
)
from tests.support.samples import flow_dict


class Rig:
    """A service over fakes, and the state events that it published."""

    def __init__(self, **limits: Any) -> None:
        self.states = FakeStateStore()
        self.history = FakeHistoryStore()
        self.definitions = FakeDefinitionStore()
        self.leases = FakeLeaseStore()
        self.entities = FakeEntityReservations()
        self.reports = FakeCorruptionReports()
        self.registrations = FakeIntegrationStore()
        self.api_keys = FakeApiKeyStore()
        self.lanes = FakeDeliveryLanes()
        self.delivery_log = FakeDeliveryLog()
        self.letters = FakeDeadLetters()
        self.webhooks = FakeWebhooks()
        self.streams = FakeEventStreams()
        self.secrets = FakeSecretStore()
        self.audit_store = FakeAuditStore()
        self.rates = FakeRateCounters()
        self.bus = FakeBus(all_users=True)
        self.clock = FakeClock()
        self.keys: KeyPorts | None = None
        self.time_trusted = True
        self.settle_seconds = 0.0
        self.published: list[StateChanged] = []
        self.bus.subscribe(lambda _, e: self.published.append(e) if isinstance(e, StateChanged) else None)
        self.service = self.make(**limits)

    @property
    def flows(self) -> TrustedFlows:
        """The operations of the service without a caller."""
        return self.service.as_trusted()

    def make(self, **limits: Any) -> FlowService:
        """Build another service, as another worker, over the same fakes."""
        return FlowService(
            Ports(
                states=self.states,
                entities=self.entities,
                history=self.history,
                definitions=self.definitions,
                statistics=FakeStatistics(self.states, self.history, self.reports),
                leases=self.leases,
                reports=self.reports,
                integrations=IntegrationPorts(
                    registrations=self.registrations,
                    api_keys=self.api_keys,
                    lanes=self.lanes,
                    log=self.delivery_log,
                    letters=self.letters,
                    webhooks=self.webhooks,
                    streams=self.streams,
                    secrets=self.secrets,
                    settle_seconds=self.settle_seconds,
                ),
                audit=self.audit_store,
                rates=self.rates,
                bus=self.bus,
                clock=self.clock,
                keys=self.keys,
                is_time_trusted=lambda: self.time_trusted,
            ),
            Limits(**limits),
        )

    async def kinds(self, user: str = "ada") -> list[str]:
        """Return the kinds of a user's history records."""
        return [r.kind for r in await self.flows.get_flow_history(user, "loop")]


async def rig(**limits: Any) -> Rig:
    """Build a rig on which the flow ``loop`` is published."""
    made = Rig(**limits)
    await made.service.create_flow(flow_dict())
    return made
