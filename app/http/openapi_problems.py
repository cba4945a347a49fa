"""Errors in the OpenAPI document: one schema for each (RFC 9457), distinguished by ``code``.

Each schema has all members itself: generators do not agree on what ``allOf`` with a common part means.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType

from app.contracts import errors
from app.contracts.errors import Fault, FlowError
from app.contracts.wire.states import StateView
from app.http.openapi_schemas import Schemas, reference

PROBLEM = "application/problem+json"
_ERROR_CODE = "ErrorCode"
_Text = str | UnsetType
_ENDED = {"expiredAt": _Text, "clearedAt": _Text, "erasedAt": _Text}
_FAULTS = {"errors": list[Fault]}
_DETAILS: Mapping[type[FlowError], Mapping[str, Any]] = {
    errors.AuthenticationRequiredError: {"reason": _Text},
    errors.InsufficientPermissionsError: {
        "scope": _Text,
        "flowId": _Text,
        "transition": _Text,
        "step": _Text,
        "roles": list[str] | UnsetType,
        "steps": list[str] | UnsetType,
        "service": _Text,
    },
    errors.FlowNotFoundError: {"flowId": str, "version": int | UnsetType},
    errors.FlowNotStartedError: {"flowId": str, **_ENDED},
    errors.UserErasedError: {"flowId": str, "erasedAt": str, "erasedBy": str},
    errors.InvalidTransitionError: {"fromStep": str, "transition": str, "allowed": list[str]},
    errors.GuardRefusedError: {"transition": str, "guard": str, "values": dict[str, Any], "reason": _Text},
    errors.StatePausedError: {"flowId": str, "reason": str},
    errors.RevisionConflictError: {"state": StateView | None, "fields": list[str] | UnsetType, **_ENDED},
    errors.StateBusyError: {"flowId": str},
    errors.FlowExistsError: {"flowId": str, "version": int},
    errors.VersionConflictError: {"flowId": str, "version": int},
    errors.InvalidRequestError: _FAULTS,
    errors.InvalidPayloadError: _FAULTS,
    errors.InvalidDefinitionError: _FAULTS,
    errors.PayloadTooLargeError: {"limit": int},
    errors.RateLimitedError: {"retryAfterMs": int},
    errors.FlowStateCorruptionError: {
        "userId": _Text,
        "flowId": str,
        "reason": str,
        "recover": dict[str, Any] | UnsetType,
    },
}
"""The members of ``details`` by error; later versions may add some. Other errors promise none."""


@cache
def details_types() -> dict[type[FlowError], type[Struct]]:
    """Return the types of ``details``, by error."""
    return {
        error: msgspec.defstruct(
            f"{_stem(error)}Details",
            [(name, kind, UNSET) if _is_optional(kind) else (name, kind) for name, kind in members.items()],
            kw_only=True,
        )
        for error, members in _DETAILS.items()
    }


def problem_components(schemas: Schemas, refused: Iterable[type[FlowError]]) -> dict[str, Any]:
    """Return the schemas of the errors that operations refuse with, and of all codes."""
    return {
        _ERROR_CODE: {
            "title": _ERROR_CODE,
            "description": "What went wrong. A code keeps its meaning; later versions may add codes.",
            "type": "string",
            "enum": sorted({error.code for error in _known_errors()}),
        },
        **{_name(error): _problem(error, schemas) for error in refused},
    }


def problem_schema(refused: Sequence[type[FlowError]]) -> dict[str, Any]:
    """Return the schema of an answer that is one of several errors."""
    references = {error.code: reference(_name(error)) for error in refused}
    if len(references) == 1:
        return next(iter(references.values()))
    mapping = {code: schema["$ref"] for code, schema in references.items()}
    return {
        "oneOf": list(references.values()),
        "discriminator": {"propertyName": "code", "mapping": mapping},
    }


def error_code() -> dict[str, Any]:
    """Refer to the enumeration of codes."""
    return reference(_ERROR_CODE)


def _problem(error: type[FlowError], schemas: Schemas) -> dict[str, Any]:
    details = details_types().get(error)
    members: dict[str, Any] = {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"const": error.status},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "instance": {"type": "string", "description": "The path of the request."},
        "code": {"type": "string", "enum": [error.code]},
        "retryable": {"type": "boolean", "description": "The same request may succeed later."},
        "details": {"type": "object", "additionalProperties": True}
        if details is None
        else schemas.of(details),
    }
    return {
        "title": _name(error),
        "description": inspect.cleandoc(error.__doc__ or ""),
        "type": "object",
        "required": list(members),
        "properties": members,
    }


def _known_errors() -> Iterable[type[FlowError]]:
    """List the errors that have a code of their own."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, FlowError) and "code" in vars(kind):
            yield kind


def _is_optional(kind: Any) -> bool:
    return UnsetType in get_args(kind)


def _stem(error: type[FlowError]) -> str:
    return error.__name__.removesuffix("Error")


def _name(error: type[FlowError]) -> str:
    return f"{_stem(error)}Problem"
