"""The routes of registered services."""

import re
from collections.abc import Collection

from msgspec import UNSET, Struct

from app.auth.policy import Access, Permission
from app.contracts.errors import (
    InsufficientPermissionsError,
    RateLimitedError,
    ServiceConflictError,
    ServiceNotFoundError,
    WebhookMissingError,
)
from app.contracts.integration_commands import (
    DisableCommand,
    EnableCommand,
    HeartbeatCommand,
    RegistrationCommand,
    RotateCommand,
    SampleCommand,
)
from app.contracts.wire.integrations import HeartbeatView, ServiceView, heartbeat_view, service_view
from app.http.endpoint import Answer, Call, Endpoint
from app.http.entity_tags import foreign_tag_error
from app.services.integrations.administration import RegisteredService
from app.services.integrations.probes import ProbeResult

_REVISION_TAG = re.compile(r"[0-9]{1,15}\Z")
_ANY_REVISION = range(2**53)


class ServicesList(Struct, frozen=True, rename="camel"):
    """All registered services, by alias."""

    items: list[ServiceView]


def _view(shown: RegisteredService) -> ServiceView:
    return service_view(
        shown.integration,
        shown.health,
        waiting=shown.waiting,
        secret=shown.secret,
        stream_key=shown.stream_key,
    )


def _answer(shown: RegisteredService, status: int = 200) -> Answer:
    headers = {"ETag": f'"{shown.integration.revision}"'}
    if status == 201:
        headers["Location"] = f"/api/admin/services/{shown.integration.alias}"
    return Answer(_view(shown), status, headers)


def _expected(call: Call) -> Collection[int] | None:
    tags = call.if_match
    if tags is None:
        return None
    if tags.any:
        return _ANY_REVISION
    found = [int(tag) for tag in tags.strong if _REVISION_TAG.match(tag)]
    if len(tags.strong) == 1 and not found and not tags.weak:
        raise foreign_tag_error("If-Match", '"<revision>"')
    return found


async def _list(call: Call) -> Answer:
    found = await call.service.integrations.administration.list_all(call.caller)
    return Answer(ServicesList([_view(each) for each in found]))


async def _read(call: Call) -> Answer:
    return _answer(await call.service.integrations.administration.read(call.path["alias"], call.caller))


async def _register(call: Call) -> Answer:
    shown = await call.service.integrations.administration.register(
        call.path["alias"], call.body, call.caller, expected=_expected(call)
    )
    return _answer(shown, 200 if shown.secret is UNSET else 201)


async def _remove(call: Call) -> Answer:
    administration = call.service.integrations.administration
    await administration.remove(call.path["alias"], call.caller, expected=_expected(call))
    return Answer(status=204)


async def _rotate(call: Call) -> Answer:
    administration = call.service.integrations.administration
    return _answer(await administration.rotate(call.path["alias"], call.body, call.caller))


async def _enable(call: Call) -> Answer:
    administration = call.service.integrations.administration
    return _answer(await administration.enable(call.path["alias"], call.body, call.caller))


async def _disable(call: Call) -> Answer:
    administration = call.service.integrations.administration
    return _answer(await administration.disable(call.path["alias"], call.body, call.caller))


async def _heartbeat(call: Call) -> Answer:
    administration = call.service.integrations.administration
    return Answer(heartbeat_view(await administration.report(call.path["alias"], call.body, call.caller)))


async def _ping(call: Call) -> Answer:
    return Answer(await call.service.integrations.probes.ping(call.path["alias"], call.caller))


async def _test(call: Call) -> Answer:
    probes = call.service.integrations.probes
    return Answer(await probes.test(call.path["alias"], call.body, call.caller))


_ERRORS = (InsufficientPermissionsError, ServiceNotFoundError)
_CHANGING = (*_ERRORS, ServiceConflictError)
_PROBING = (*_ERRORS, WebhookMissingError, RateLimitedError)
_PATH = "/api/admin/services/{alias}"

SERVICE_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/admin/services",
        name="listServices",
        access=Access(Permission.ADMIN),
        summary="List all registered services",
        handle=_list,
        answers={200: ServicesList},
        errors=(InsufficientPermissionsError,),
    ),
    Endpoint(
        method="GET",
        path=_PATH,
        name="getService",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Get a registered service, its health and its last heartbeat",
        handle=_read,
        answers={200: ServiceView},
        answer_headers=("ETag",),
        errors=_ERRORS,
    ),
    Endpoint(
        method="PUT",
        path=_PATH,
        name="registerService",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Register a service, or set members of its registration; the first answer has its secret",
        handle=_register,
        body=RegistrationCommand,
        answers={201: ServiceView, 200: ServiceView},
        request_headers=("If-Match",),
        answer_headers=("ETag", "Location"),
        errors=(InsufficientPermissionsError, ServiceConflictError, ServiceNotFoundError),
    ),
    Endpoint(
        method="DELETE",
        path=_PATH,
        name="removeService",
        access=Access(Permission.ADMIN),
        summary="Remove a service with its keys, undelivered events, log and dead letters",
        handle=_remove,
        answers={204: None},
        request_headers=("If-Match",),
        errors=_CHANGING,
    ),
    Endpoint(
        method="POST",
        path=f"{_PATH}/rotate",
        name="rotateServiceSecret",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Make a new secret; the older ones sign too until they expire",
        handle=_rotate,
        body=RotateCommand,
        answers={200: ServiceView},
        answer_headers=("ETag",),
        errors=_CHANGING,
    ),
    Endpoint(
        method="POST",
        path=f"{_PATH}/enable",
        name="enableService",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Deliver events again, all those that waited or some of them",
        handle=_enable,
        body=EnableCommand,
        answers={200: ServiceView},
        answer_headers=("ETag",),
        errors=_CHANGING,
    ),
    Endpoint(
        method="POST",
        path=f"{_PATH}/disable",
        name="disableService",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Deliver no events; they wait",
        handle=_disable,
        body=DisableCommand,
        answers={200: ServiceView},
        answer_headers=("ETag",),
        errors=_CHANGING,
    ),
    Endpoint(
        method="POST",
        path=f"{_PATH}/heartbeat",
        name="reportServiceHeartbeat",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Report the status of a service, which statistics show",
        handle=_heartbeat,
        body=HeartbeatCommand,
        answers={200: HeartbeatView},
        errors=_ERRORS,
    ),
    Endpoint(
        method="POST",
        path=f"{_PATH}/ping",
        name="pingService",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Send a signed event without data to the webhook, and report the answer",
        handle=_ping,
        answers={200: ProbeResult},
        errors=_PROBING,
    ),
    Endpoint(
        method="POST",
        path=f"{_PATH}/test",
        name="testService",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Send a sample event to the webhook, and report the answer",
        handle=_test,
        body=SampleCommand,
        answers={200: ProbeResult},
        errors=_PROBING,
    ),
]
