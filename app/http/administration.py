"""The routes of those who operate the service."""

from msgspec import Struct

from app.auth.permissions import ADMIN
from app.contracts.errors import InsufficientPermissionsError
from app.contracts.statistics import FlowStatistics
from app.http.endpoint import Answer, Call, Endpoint


class PurgeReport(Struct, frozen=True, rename="camel"):
    """How many expired states were ended."""

    purged: int


async def _purge(call: Call) -> Answer:
    return Answer(PurgeReport(await call.service.purge_expired_flows()))


async def _statistics(call: Call) -> Answer:
    return Answer(await call.service.get_flow_statistics())


ADMINISTRATION_ENDPOINTS = [
    Endpoint(
        method="POST",
        path="/api/admin/purge",
        name="purgeExpiredFlows",
        summary="End all states that are past their time now",
        handle=_purge,
        answers={200: PurgeReport},
        errors=(InsufficientPermissionsError,),
        scope=ADMIN,
    ),
    Endpoint(
        method="GET",
        path="/api/admin/statistics",
        name="getFlowStatistics",
        summary="Figures over all states and their history",
        handle=_statistics,
        answers={200: FlowStatistics},
        errors=(InsufficientPermissionsError,),
        scope=ADMIN,
    ),
]
