"""The composition root: the service on MongoDB and Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from app.contracts.errors import (
    BusUnavailableError,
    DatabaseRefusedError,
    DefinitionSourceError,
    StoreUnavailableError,
)
from app.contracts.ports.clock import Clock
from app.contracts.ports.sources import DefinitionSource
from app.crypto.encryption import Encryption
from app.kit.clock import SystemClock
from app.kit.tasks import end_tasks
from app.outbound.key_services.opening import open_service_key
from app.outbound.webhooks import AiohttpWebhooks
from app.process.embedded import EmbeddedServers
from app.services import FlowService
from app.services.definitions.source_mirror import SourceMirror, check_found
from app.services.definitions.source_sync import Sources
from app.services.integrations.ports import IntegrationPorts
from app.services.jobs.time_check import CheckedClock, TimeCheck
from app.services.rates.request_limits import RequestRates
from app.services.wiring import KeyPorts, Limits, Ports
from app.sources.files import FileSource
from config.log import IDENTITY, configure_own_logs
from config.settings import SHIPPED_FLOWS, Settings, load_settings
from config.sources import is_interceptable, shown_url
from models.audit_store import MongoAuditStore
from models.clear_data import MongoClearData
from models.corruption_store import MongoCorruptionReports
from models.data_keys import MongoDataKeyStore
from models.database import Database, connect
from models.definition_store import MongoDefinitionStore
from models.document_codec import DocumentCodec
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
from realtime.redis.bus import RedisBus
from realtime.redis.rate_limiter import RedisRateCounters
from realtime.redis.streams import RedisEventStreams

log = structlog.get_logger("main")

RETRY_AFTER_SECONDS = 1.0


class Backend:
    """The service with its adapters, created from settings that name both servers."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        listeners: Sequence[object] = (),
        *,
        sends_events: bool = True,
    ) -> None:
        """Create the parts on the servers that the settings name; nothing is sent yet.

        Args:
            settings: The settings.
            clock: The clock of this machine, by default the system's. It is compared with the servers'.
            listeners: Listeners of the driver, which receive every command to the database.
            sends_events: Send events to services.
        """
        if settings.mongo_url is None or settings.redis_url is None:
            raise ValueError("the settings name no servers")
        self._retention = settings.history_retention is not None
        IDENTITY.plain_users = settings.log_users == "plain"
        redis, name = settings.redis_url.get_secret_value(), settings.mongo_database
        self.database = connect(settings.mongo_url.get_secret_value(), name, listeners)
        self.bus = RedisBus(redis, name)
        self.time = CheckedClock(clock or SystemClock())
        self._time_check = TimeCheck(self.time, self.database.server_time, self.bus.server_time)
        self.encryption = _encryption(settings, self.database, self.time)
        self.codec = DocumentCodec(self.encryption.cipher, required=settings.encryption_required)
        self.secrets = MongoSecretStore(self.database, self.codec)
        self.streams = RedisEventStreams(redis, name)
        self.rates = RedisRateCounters(redis, name)
        self.webhooks = AiohttpWebhooks(settings.private_addresses, self.time)
        self.service = FlowService(
            Ports(
                states=MongoStateStore(self.database, self.codec),
                entities=MongoEntityReservations(self.database),
                history=MongoHistoryStore(self.database, settings.history_retention, self.codec),
                definitions=MongoDefinitionStore(self.database),
                statistics=MongoStatistics(self.database),
                leases=MongoLeaseStore(self.database),
                reports=MongoCorruptionReports(self.database),
                integrations=self._integration_ports(settings),
                audit=MongoAuditStore(self.database),
                rates=self.rates,
                bus=self.bus,
                clock=self.time,
                keys=_key_ports(self.encryption, MongoClearData(self.database, self.codec)),
                is_time_trusted=self.time.is_trusted,
            ),
            _limits(settings, sends_events=sends_events),
        )

    def _integration_ports(self, settings: Settings) -> IntegrationPorts:
        return IntegrationPorts(
            registrations=MongoIntegrationStore(self.database, self.codec),
            api_keys=MongoApiKeyStore(self.database, self.codec),
            lanes=MongoDeliveryLanes(self.database, self.codec, retention=settings.history_retention),
            log=MongoDeliveryLog(self.database),
            letters=MongoDeadLetters(self.database, self.codec),
            webhooks=self.webhooks,
            streams=self.streams,
            secrets=self.secrets,
            seals_streams=self.encryption.cipher is not None,
        )

    @asynccontextmanager
    async def running(self, *, patient: bool = False, prepared: bool = False) -> AsyncIterator[FlowService]:
        """Run the service with its connections and background work until the end of the block.

        Args:
            patient: Wait for unavailable servers, as a worker does that replaces one that died.
            prepared: The indexes exist already, as the process that started this one has created them.
        """
        try:
            key = await self._prepare(patient=patient, prepared=prepared)
            IDENTITY.set_key(key)
            self.rates.set_key(key)
            await self.bus.start(key, patient=patient)
            async with self._checked_time(), self.service:
                yield self.service
        finally:
            await self.bus.stop()
            await self.webhooks.close()
            await self.streams.close()
            await self.rates.close()
            await self.database.close()

    async def _prepare(self, *, patient: bool, prepared: bool) -> bytes:
        """Create indexes and shared secrets; return the key of the bus.

        Raises:
            StoreUnavailableError: The database does not answer.
            WrappingKeyMissingError: Stored data needs a wrapping key that the settings lack.
        """
        while True:
            try:
                if not prepared:
                    await self.database.prepare(retention=self._retention)
                    await self.encryption.require_wrapping_keys()
                return await self.secrets.secret("bus")
            except DatabaseRefusedError:
                raise
            except StoreUnavailableError:
                if not patient:
                    raise
                log.warning("waiting for MongoDB")
                await asyncio.sleep(RETRY_AFTER_SECONDS)

    @asynccontextmanager
    async def _checked_time(self) -> AsyncIterator[None]:
        """Compare the clock with those of the servers, now and until the end of the block."""
        await self._time_check.check()
        task = asyncio.create_task(self._time_check.run())
        try:
            yield
        finally:
            await end_tasks([task])

    async def check_subscribed(self) -> None:
        """Raise BusUnavailableError unless Redis answers and this worker receives the events of others."""
        await self.bus.ping()
        if not self.bus.subscribed:
            raise BusUnavailableError("this worker does not receive the events of others")


def _encryption(settings: Settings, database: Database, clock: Clock) -> Encryption:
    if settings.encryption_required and settings.encryption_keys is None:
        raise ValueError("FLOW_ENCRYPTION_REQUIRED needs FLOW_ENCRYPTION_KEYS")
    return Encryption(settings.wrapping_keys, MongoDataKeyStore(database), clock, open_service_key)


def _key_ports(encryption: Encryption, clear: MongoClearData) -> KeyPorts | None:
    """Return the keys of the encryption; None if it is off."""
    if encryption.wrapping is None or encryption.keys is None:
        return None
    return KeyPorts(encryption.store, encryption.wrapping, encryption.keys, clear)


def _limits(settings: Settings, *, sends_events: bool) -> Limits:
    return Limits(
        definition_max_age=timedelta(milliseconds=settings.definition_cache_ms),
        state_ttl=settings.state_ttl,
        history_retention=settings.history_retention,
        max_payload_bytes=settings.max_payload_bytes,
        max_payload_depth=settings.max_payload_depth,
        max_payload_fields=settings.max_payload_fields,
        rates=RequestRates(
            user=settings.user_requests_per_minute,
            service=settings.service_requests_per_minute,
            address=settings.address_requests_per_minute,
            failures=settings.address_failures_per_minute,
            changes=settings.user_changes_per_minute,
        ),
        user_connections=settings.user_connections,
        address_connections=settings.address_connections,
        store_answers=settings.services_store_answers,
        sends_events=sends_events,
    )


@asynccontextmanager
async def open_service(
    settings: Settings | None = None,
    *,
    create: bool = True,
    examples: bool = True,
    sends_events: bool = True,
) -> AsyncIterator[FlowService]:
    """Open the service for a Python program, without HTTP, with the same settings as ``serve``.

    It runs on the servers of ``FLOW_MONGO_URL`` and ``FLOW_REDIS_URL``, or on embedded ones in
    ``FLOW_DATA_DIR``: those of a ``serve`` that runs there, or its own.

    Args:
        settings: The settings, by default those of the environment.
        create: Create the database of embedded servers. False: it must exist.
        examples: Publish the flows that ship into a database that lacks them. False: only if
            FLOW_DEFINITIONS names them.
        sends_events: Send events to registered services, as the workers of ``serve`` do.

    Raises:
        SettingsError: The settings are wrong.
        EmbeddedError: The embedded servers cannot be started.
        StoreUnavailableError, BusUnavailableError: MongoDB or Redis cannot be reached.
        WrappingKeyMissingError: Stored data needs an encryption key that the settings lack.
        DefinitionSourceError: A file of definitions has faults.
    """
    settings = settings or load_settings()
    if not structlog.is_configured():
        configure_own_logs(settings.log_level, settings.log_format)
    servers = EmbeddedServers(settings.data_dir) if settings.embedded else None
    if servers is not None:
        settings = servers.start(settings, join=True, create=create)
        servers.watch(lambda failure: log.error("embedded server given up", reason=failure))
    opened = False
    try:
        async with Backend(settings, sends_events=sends_events).running() as service:
            sources = definition_sources(service, settings, examples=examples)
            await sources.publish_all()
            async with follow_sources(sources):
                opened = True
                yield service
    except StoreUnavailableError as error:
        if servers is None or opened:
            raise
        raise servers.explain(error) from None
    finally:
        if servers is not None:
            servers.stop()


def read_definitions(settings: Settings) -> None:
    """Check the definitions in files of ``FLOW_DEFINITIONS``, before anything is started.

    Raises:
        DefinitionSourceError: Names every fault with its file and place.
    """
    sources = [
        FileSource(setting.path) for setting in settings.definition_sources() if setting.kind == "file"
    ]
    try:
        faults = [check_found(found)[2] for source in sources for found in source.find()]
    except DefinitionSourceError as refusal:
        raise DefinitionSourceError(f"FLOW_DEFINITIONS: {refusal}") from None
    if any(faults):
        raise DefinitionSourceError("; ".join(fault for fault in faults if fault))


async def publish_definitions(service: FlowService, settings: Settings) -> list[str]:
    """Publish the flows of the sources of ``FLOW_DEFINITIONS`` that the database lacks, and return them.

    An unavailable remote source is logged.

    Raises:
        DefinitionSourceError: A file has faults.
    """
    return await definition_sources(service, settings).publish_all()


@asynccontextmanager
async def follow_sources(sources: Sources) -> AsyncIterator[None]:
    """Publish changes in sources of definitions until the end of the block."""
    task = asyncio.create_task(sources.follow())
    try:
        yield
    finally:
        await end_tasks([task])


def definition_sources(service: FlowService, settings: Settings, *, examples: bool = True) -> Sources:
    """Create the sources of ``FLOW_DEFINITIONS`` beside the database."""
    creates = examples or "definitions" in settings.model_fields_set
    auth = settings.definitions_auth.get_secret_value() if settings.definitions_auth else None
    mirrors = []
    for setting in settings.definition_sources():
        source: DefinitionSource = FileSource(setting.path)
        if setting.kind == "remote":
            if is_interceptable(setting.where):
                log.warning("definitions read over plain http", url=shown_url(setting.where))
            from app.sources.remote import RemoteSource  # noqa: PLC0415 - aiohttp, where there is one

            source = RemoteSource(
                setting.where,
                auth,
                interval=settings.definition_cache_ms / 1000,
                private_redirects=settings.definitions_private_redirects,
            )
        is_example = setting.where == str(SHIPPED_FLOWS)
        mirrors.append(SourceMirror(source, overrides=setting.overrides, creates=creates or not is_example))
    return Sources(service.definitions, mirrors)
