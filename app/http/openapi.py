"""The OpenAPI document, derived from the endpoints and their msgspec types."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from app.contracts.errors import (
    AuthenticationRequiredError,
    FlowError,
    InvalidRequestError,
    KeysUnavailableError,
    StoreUnavailableError,
)
from app.contracts.flow import Flow, FlowPatch
from app.http.endpoint import Endpoint

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457, with a stable code and whether the same request may succeed later.",
    "required": ["type", "title", "status", "detail", "instance", "code", "retryable", "details"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "retryable": {"type": "boolean"},
        "details": {"type": "object"},
    },
}

_TAGS = {
    "States": "Where a user stands in a flow, what may happen next, and what happened.",
    "Definitions": "Flows and their versions.",
    "Administration": "States of all users.",
    "Health": "For load balancers and tools.",
}


def openapi(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    types = [Flow, FlowPatch]
    for endpoint in endpoints:
        types += [t for t in (endpoint.body, *endpoint.answers.values()) if t is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = {repr(t): schema for t, schema in zip(types, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = _camel_parameters(endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "server-flow", "version": version, "license": {"name": "MIT"}},
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _operation(endpoint: Endpoint, schema_of: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [_tag_of(endpoint.path)],
        "summary": endpoint.summary,
        "responses": {},
        "security": [] if endpoint.public else [{"bearer": []}],
    }
    if endpoint.scope:
        operation["description"] = f"Needs the scope `{endpoint.scope}`."
    parameters = [
        {"name": _camel(name), "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    for field in msgspec.structs.fields(endpoint.query):
        schema = msgspec.json.schema(field.type)
        parameters.append(
            {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
        )
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        body = schema_of[repr(endpoint.body)]
        operation["requestBody"] = {
            "required": endpoint.body_of != "state",
            "content": {"application/json": {"schema": body}},
        }
    for status, shape in endpoint.answers.items():
        unchanged = "It is still what the If-None-Match names"
        answer: dict[str, Any] = {"description": unchanged if status == 304 else endpoint.summary}
        if shape is not None:
            media_types = (endpoint.media_type, *endpoint.other_media_types)
            answer["content"] = {media: {"schema": schema_of[repr(shape)]} for media in media_types}
        operation["responses"][str(status)] = answer
    for status, codes in _refusals(endpoint).items():
        operation["responses"].setdefault(
            str(status),
            {
                "description": " or ".join(codes),
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        )
    return operation


def _tag_of(path: str) -> str:
    """Return the group in which the reference lists a route."""
    if path.startswith("/api/admin/"):
        return "Administration"
    if path.startswith("/api/flows"):
        return "Definitions"
    return "States" if path.startswith("/api/") else "Health"


def _refusals(endpoint: Endpoint) -> dict[int, list[str]]:
    errors: list[type[FlowError]] = list(endpoint.errors)
    if not endpoint.public:
        errors += [
            AuthenticationRequiredError,
            InvalidRequestError,
            KeysUnavailableError,
            StoreUnavailableError,
        ]
    by_status: dict[int, list[str]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(error.code)
    return by_status


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _camel_parameters(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: "{" + _camel(match[1]) + "}", path)
