"""The OpenAPI document, derived from the endpoints and their msgspec types."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from app.auth.policy import ADMIN, READ, SERVICE, Permission
from app.contracts.errors import (
    AddressTooLongError,
    AuthenticationRequiredError,
    FlowError,
    InsufficientPermissionsError,
    InternalError,
    InvalidRequestError,
    KeysUnavailableError,
    PayloadTooLargeError,
    RateLimitedError,
    StoreUnavailableError,
)
from app.http.endpoint import Endpoint, UserQuery
from app.http.openapi_headers import (
    answer_header_components,
    answer_headers,
    request_headers,
)
from app.http.openapi_problems import (
    PROBLEM,
    details_types,
    error_code,
    problem_components,
    problem_schema,
)
from app.http.openapi_schemas import Schemas, query_parameters
from app.kit.casing import camel_case

_DESCRIPTION = (
    "Stores people's progress through multi-step flows: definitions with versions, each user's state, "
    "transitions that are validated and committed exactly once, and a history of every change.\n\n"
    "Every refusal is `application/problem+json` with a stable `code`. A state is followed live by "
    "Server-Sent Events (`streamFlowState`) or by Socket.IO, which this document does not describe."
)
_TAGS = {
    "States": "The position of a user in a flow, the transitions from there, and the history.",
    "Definitions": "Flows and their versions.",
    "Services": "Programs that own steps of flows: their registrations, keys, and events.",
    "Administration": "States of all users.",
    "Health": "For load balancers and tools.",
}
_SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A JWT with `sub` and `exp`. Its `scope` may have `flow:use` (states of the token's "
        "user; a token without any scope `flow:…` has it), `flow:service` (acts for any user), `flow:read` "
        "(reads states of all users) and `flow:admin`. If `FLOW_ED25519_KEYS` is set, `Authorization: "
        "ED25519-BASIC-TOKEN …` with an envelope token is accepted, too.",
    },
    "serviceKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "The API key of a registered service (`sfk_…`), or a JWT that is limited to one: it "
        "may read states of flows with a step of the service, and run transitions of these steps.",
    },
}
_VERSION = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
_PATH_PARAMETERS: dict[str, dict[str, Any]] = {"version": _VERSION, "earlier": _VERSION, "later": _VERSION}
"""Schemas of the path parameters that are not free text."""


def openapi(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document.

    Args:
        endpoints: The endpoints to describe.
        version: The version of the service.
    """
    answered = [shape for one in endpoints for shape in _answered_types(one)]
    schemas = Schemas(
        requested=[body for one in endpoints if (body := _body_type(one)) is not None],
        answered=[*answered, *details_types().values()],
    )
    if "ErrorView" in schemas.components:
        schemas.components["ErrorView"]["properties"]["code"] = error_code()
    refused = {error: None for one in endpoints for errors in _refusals(one).values() for error in errors}
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = _camel_parameters(endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "server-flow",
            "version": version,
            "summary": "People's progress through multi-step flows.",
            "description": _DESCRIPTION,
            "contact": {"name": "The operator of this server"},
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The server that this document comes from."}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {**schemas.components, **problem_components(schemas, refused)},
            "headers": answer_header_components(),
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _answered_types(endpoint: Endpoint) -> list[Any]:
    shapes = (*endpoint.answers.values(), *endpoint.other_media_types.values())
    return [shape for shape in shapes if shape is not None]


def _body_type(endpoint: Endpoint) -> Any:
    """Return the type of the body; None where there is none, or only an empty object."""
    body = endpoint.body if endpoint.described_body is None else endpoint.described_body
    return None if _is_struct(body) and not msgspec.structs.fields(body) else body


def _operation(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [_tag_of(endpoint.path)],
        "summary": endpoint.summary,
        "description": _permission(endpoint),
        "security": _security(endpoint),
        "parameters": _parameters(endpoint),
    }
    body = _body_type(endpoint)
    if body is not None:
        operation["requestBody"] = {
            "required": endpoint.body_of != "state" or _has_required_members(body),
            "content": {"application/json": {"schema": schemas.of(body)}},
        }
    answers = {
        status: _response(endpoint, status, shape, schemas) for status, shape in endpoint.answers.items()
    }
    refusals = {status: _refusal(errors) for status, errors in _refusals(endpoint).items()}
    responses = {**refusals, **answers}
    operation["responses"] = {str(status): responses[status] for status in sorted(responses)}
    return operation


def _security(endpoint: Endpoint) -> list[dict[str, list[str]]]:
    """Return the credentials of which an operation needs one."""
    credentials = [{"bearer": [scope]} for scope in endpoint.access.scopes]
    return [*credentials, {"serviceKey": []}] if endpoint.access.for_services else credentials


def _permission(endpoint: Endpoint) -> str:
    """Describe the token that an operation requires."""
    if endpoint.access.is_public:
        return "Needs no token."
    described = f"Needs one of the scopes {_listed(endpoint.access.scopes)}."
    if len(endpoint.access.scopes) == 1:
        described = f"Needs the scope {_listed(endpoint.access.scopes)}."
    if issubclass(endpoint.query, UserQuery):
        is_reading = endpoint.access.permission is Permission.READ_STATES
        others = (READ, SERVICE, ADMIN) if is_reading else (SERVICE, ADMIN)
        described += (
            f" For the user of the token; `userId` names another, with the scope {_listed(others)}, or as "
            "a participant of the state."
        )
    if endpoint.access.for_services:
        return f"{described} Credentials of a service are accepted, within their limits."
    return described


def _listed(scopes: Sequence[str]) -> str:
    *others, last = [f"`{scope}`" for scope in scopes]
    return f"{', '.join(others)} or {last}" if others else last


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    used = [*endpoint.request_headers, *(["If-None-Match"] if 304 in endpoint.answers else [])]
    return [
        *(
            {
                "name": camel_case(name),
                "in": "path",
                "required": True,
                "schema": _PATH_PARAMETERS.get(name, {"type": "string"}),
            }
            for name in re.findall(r"\{(\w+)\}", endpoint.path)
        ),
        *query_parameters(endpoint.query),
        *request_headers(used),
    ]


def _has_required_members(body: Any) -> bool:
    return _is_struct(body) and any(field.required for field in msgspec.structs.fields(body))


def _is_struct(body: Any) -> bool:
    return isinstance(body, type) and issubclass(body, Struct)


def _response(endpoint: Endpoint, status: int, shape: Any, schemas: Schemas) -> dict[str, Any]:
    unchanged = "Unchanged since the version that If-None-Match names"
    names = [
        *(["ETag"] if 304 in endpoint.answers and "ETag" not in endpoint.answer_headers else []),
        *(name for name in endpoint.answer_headers if name != "Location" or status == 201),
    ]
    answer: dict[str, Any] = {
        "description": unchanged if status == 304 else endpoint.summary,
        "headers": answer_headers(names),
    }
    if shape is not None:
        content = {endpoint.media_type: shape, **endpoint.other_media_types}
        answer["content"] = {media: {"schema": schemas.of(one)} for media, one in content.items()}
    return answer


def _refusal(errors: Sequence[type[FlowError]]) -> dict[str, Any]:
    names = [
        *(["WWW-Authenticate"] if AuthenticationRequiredError in errors else []),
        *(["RateLimit", "RateLimit-Policy"] if RateLimitedError in errors else []),
        *(["Retry-After"] if any(error.retry_after is not None for error in errors) else []),
    ]
    return {
        "description": " or ".join(error.code for error in errors),
        "headers": answer_headers(names),
        "content": {PROBLEM: {"schema": problem_schema(errors)}},
    }


def _tag_of(path: str) -> str:
    """Return the group in which the reference lists a route."""
    if path.startswith(("/api/services/", "/api/admin/services", "/api/admin/dead-letters")):
        return "Services"
    if path.startswith("/api/admin/"):
        return "Administration"
    if path.startswith("/api/flows"):
        return "Definitions"
    return "States" if path.startswith("/api/") else "Health"


def _refusals(endpoint: Endpoint) -> dict[int, list[type[FlowError]]]:
    """Return the errors of an endpoint by status: its own, and those of reading and checking any request."""
    errors: list[type[FlowError]] = [
        *endpoint.errors,
        InvalidRequestError,
        AddressTooLongError,
        PayloadTooLargeError,
        InternalError,
    ]
    if not endpoint.access.is_public:
        # API keys are refused at most routes, and an unknown one is not always read.
        errors += [AuthenticationRequiredError, KeysUnavailableError, StoreUnavailableError]
        errors += [InsufficientPermissionsError, RateLimitedError]
    by_status: dict[int, list[type[FlowError]]] = {}
    for error in dict.fromkeys(errors):
        if error.status not in endpoint.answers:
            by_status.setdefault(error.status, []).append(error)
    return by_status


def _camel_parameters(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: "{" + camel_case(match[1]) + "}", path)
