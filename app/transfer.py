"""``data export`` and ``data import``."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from app.contracts.errors import DataTransferError, StoreUnavailableError, WrappingKeyMissingError
from app.contracts.transfer import Progress, TransferReport
from app.contracts.wire.times import iso
from app.crypto.encryption import Encryption
from app.kit.clock import SystemClock
from app.outbound.key_services.opening import open_service_key
from app.process.embedded import EmbeddedServers
from app.services.audit.log import AuditLog, OpenAct
from config.settings import Settings
from models.audit_store import MongoAuditStore
from models.data_export import export_data
from models.data_file import FORMAT, FORMAT_VERSION, DataFileWriter, Header, created_file, verify_file
from models.data_import import import_data
from models.data_keys import MongoDataKeyStore
from models.database import Database, connect
from models.secret_store import MongoSecretStore


async def export_directory(
    settings: Settings,
    data_dir: Path,
    file: Path,
    *,
    replace: bool,
    progress: Progress,
    say: Callable[[str], None],
) -> TransferReport:
    """Write all data of a data directory to a file.

    Starts the embedded servers over the directory, or uses those that run there.

    Args:
        settings: The name of the database.
        data_dir: Written by the installed database server, which is started over it.
        file: Created, readable only by its owner.
        replace: Whether an existing file may be replaced.
        progress: Called repeatedly.
        say: Called with progress messages.

    Raises:
        DataTransferError: There is no data, or the file cannot be written.
        EmbeddedError: The servers cannot start.
        StoreUnavailableError: The database became unavailable.
    """
    if not (data_dir / "mongodb").is_dir():
        raise DataTransferError(f"There is no data directory of embedded servers at {data_dir}")
    header = Header(FORMAT, FORMAT_VERSION, version("server-flow"), iso(datetime.now(UTC)))
    with created_file(file, replace=replace) as out:  # first, as the servers take seconds to start
        async with _open_database(settings, EmbeddedServers(data_dir, say), join=True) as (database, _):
            async with _recorded(database, "data.export") as act:
                report = await export_data(database, DataFileWriter(out, header), progress)
                out.flush()  # so that a full disk is a failure of the act
                _add_report(act, report)
            return report


async def import_file(
    settings: Settings,
    file: Path,
    *,
    replace_definitions: bool,
    create: bool,
    progress: Progress,
    say: Callable[[str], None],
) -> TransferReport:
    """Load a file into the database of the settings, or into embedded servers over its data directory.

    Args:
        settings: The database, or the data directory.
        file: Written by ``export_directory``.
        replace_definitions: Whether existing definitions may be removed.
        create: Whether a data directory may be created.
        progress: Called repeatedly.
        say: Called with progress messages, and if the settings lack encryption keys of the data.

    Raises:
        DataTransferError: The file or the database cannot be used.
        EmbeddedError: The servers cannot start, or another process runs them.
        StoreUnavailableError: The database is unavailable.
    """
    verified = verify_file(file)  # before servers are started and a data directory is created
    servers = EmbeddedServers(settings.data_dir, say) if settings.embedded else None
    async with _open_database(settings, servers, create=create) as (database, named):
        async with _recorded(database, "data.import") as act:
            report = await import_data(
                database,
                file,
                replace_definitions=replace_definitions,
                progress=progress,
                verified=verified,
            )
            _add_report(act, report)
        try:
            store = MongoDataKeyStore(database)
            encryption = Encryption(named.wrapping_keys, store, SystemClock(), open_service_key)
            await encryption.require_wrapping_keys()
        except WrappingKeyMissingError as missing:
            say(str(missing))
        return report


@asynccontextmanager
async def _recorded(database: Database, action: str) -> AsyncIterator[OpenAct]:
    """Record an act in the audit log of a database, which a file does not have."""
    log = AuditLog(MongoAuditStore(database), MongoSecretStore(database), SystemClock())
    try:
        async with log.act(action, "database", "python") as act:
            yield act
    finally:
        await log.close()


def _add_report(act: OpenAct, report: TransferReport) -> None:
    act.details.update(sha256=report.sha256, documents=sum(report.documents.values()))


@asynccontextmanager
async def _open_database(
    settings: Settings, servers: EmbeddedServers | None, *, join: bool = False, create: bool = False
) -> AsyncIterator[tuple[Database, Settings]]:
    """Connect to the database of the settings, or to that of ``servers``, which run until the end.

    The settings that are returned name it.

    ``join``: for reading; running servers are used. ``create``: a database is created if there is none.
    """
    try:
        named = settings if servers is None else servers.start(settings, join=join, create=create)
        if named.mongo_url is None:
            raise ValueError("the settings name no database")
        database = connect(named.mongo_url.get_secret_value(), named.mongo_database)
        try:
            yield database, named
        except StoreUnavailableError as error:
            if servers is None:
                raise
            raise servers.explain(error) from None
        finally:
            await database.close()
    finally:
        if servers is not None:
            servers.stop(flush=not join)
