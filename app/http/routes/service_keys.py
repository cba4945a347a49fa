"""The routes of API keys of services: for administrators, and for each service about its own."""

from app.auth.policy import Access, Permission
from app.contracts.errors import ApiKeyNotFoundError, InsufficientPermissionsError, ServiceNotFoundError
from app.contracts.integration_commands import ApiKeyCommand
from app.contracts.wire.api_keys import ApiKeyList, NewApiKeyView, api_key_view, new_api_key_view
from app.http.endpoint import Answer, Call, Endpoint


async def _create(call: Call) -> Answer:
    made = await call.service.integrations.keys.create(call.path["alias"], call.body, call.caller)
    return Answer(new_api_key_view(made.key, made.text), 201)


async def _list(call: Call) -> Answer:
    found = await call.service.integrations.keys.list_keys(call.path["alias"], call.caller)
    return Answer(ApiKeyList([api_key_view(key) for key in found]))


async def _revoke(call: Call) -> Answer:
    await call.service.integrations.keys.revoke(call.path["alias"], call.path["key_id"], call.caller)
    return Answer(status=204)


SERVICE_KEY_ENDPOINTS = [
    Endpoint(
        method="POST",
        path="/api/admin/services/{alias}/keys",
        name="createServiceKey",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Create an API key of a service; the answer alone has the key",
        handle=_create,
        body=ApiKeyCommand,
        answers={201: NewApiKeyView},
        errors=(InsufficientPermissionsError, ServiceNotFoundError),
    ),
    Endpoint(
        method="GET",
        path="/api/admin/services/{alias}/keys",
        name="listServiceKeys",
        access=Access(Permission.SERVICE, for_services=True),
        summary="List the API keys of a service, also revoked and expired ones of the last 90 days",
        handle=_list,
        answers={200: ApiKeyList},
        errors=(InsufficientPermissionsError, ServiceNotFoundError),
    ),
    Endpoint(
        method="DELETE",
        path="/api/admin/services/{alias}/keys/{key_id}",
        name="revokeServiceKey",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Revoke an API key; its connections end within seconds",
        handle=_revoke,
        answers={204: None},
        errors=(InsufficientPermissionsError, ApiKeyNotFoundError),
    ),
]
