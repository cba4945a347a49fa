"""The routes for the differences of versions, and for moving states between them."""

import re

from app.auth.policy import Access, Permission
from app.contracts.errors import (
    Fault,
    FlowNotFoundError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from app.contracts.migration import FlowDiff, MigrateCommand, MigrationReport
from app.http.endpoint import Answer, Call, Endpoint


async def _diff(call: Call) -> Answer:
    faults = [
        Fault(f"/{name}", "must be a whole number from 1")
        for name in ("earlier", "later")
        if not re.fullmatch(r"[0-9]{1,9}", call.path[name])
    ]
    if faults:
        raise InvalidRequestError(faults)
    earlier, later = int(call.path["earlier"]), int(call.path["later"])
    return Answer(await call.service.migration.diff(call.path["flow_id"], earlier, later, call.caller))


async def _migrate(call: Call) -> Answer:
    faults = [
        Fault(
            f"/{name}",
            "must not be sent with a migration, which can be repeated as it is: no state is moved twice",
        )
        for name in ("Idempotency-Key", "If-Match")
        if call.header(name) is not None
    ]
    if faults:
        raise InvalidRequestError(faults)
    return Answer(await call.service.migration.migrate(call.path["flow_id"], call.body, origin=call.origin))


MIGRATION_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/versions/{earlier}/diff/{later}",
        name="diffFlowVersions",
        access=Access(Permission.READ_FLOWS, for_services=True),
        summary="Compare a version with an earlier one, with the effect on running states",
        handle=_diff,
        answers={200: FlowDiff},
        errors=(InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError),
    ),
    Endpoint(
        method="POST",
        path="/api/flows/{flow_id}/migrate",
        name="migrateFlowStates",
        access=Access(Permission.ADMIN),
        summary="Move running states to another version, or rehearse it; repeat while some remain",
        handle=_migrate,
        body=MigrateCommand,
        body_of="batch",
        answers={200: MigrationReport},
        errors=(
            InsufficientPermissionsError,
            FlowNotFoundError,
            FlowStateCorruptionError,
            PayloadTooLargeError,
        ),
    ),
]
