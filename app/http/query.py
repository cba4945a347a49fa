"""Decoding of query parameters."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct
from starlette.requests import Request

from app.contracts.errors import MAX_FAULTS, Fault


class QueryDecoder:
    """Decodes queries into structs of one type. What depends on the type alone is computed once.

    Args:
        shape: The type.
    """

    def __init__(self, shape: type[Struct]) -> None:
        self._shape = shape
        self._parameters = {field.encode_name: field for field in msgspec.structs.fields(shape)}
        self._required = [name for name, field in self._parameters.items() if field.required]
        self._known = f"; the parameters are {', '.join(self._parameters)}" if self._parameters else ""

    def decode(self, request: Request, faults: list[Fault]) -> Struct | None:
        """Decode the query of a request; add its faults and return None if there are any."""
        given = self._given(request, faults)
        if given is None:
            return None
        values: dict[str, Any] = {}
        for name, value in given:
            if len(faults) == MAX_FAULTS:
                break
            field = self._parameters.get(name)
            if field is None:
                faults.append(Fault(f"/{name}", f"unknown query parameter{self._known}"))
                continue
            if field.name in values:  # of two, a proxy may have checked the other one
                faults.append(Fault(f"/{name}", "must be given once"))
                continue
            try:
                values[field.name] = _convert(value, field.type)
            except OverflowError:
                faults.append(Fault(f"/{name}", "must be a time of the years 1 to 9999, in UTC"))
            except msgspec.ValidationError as refusal:
                choices = _choices(field.type)
                faults.append(Fault(f"/{name}", f"must be one of {choices}" if choices else str(refusal)))
        if self._required:
            named = {name for name, _ in given}
            faults += [Fault(f"/{name}", "is required") for name in self._required if name not in named]
        return None if faults else self._shape(**values)

    @staticmethod
    def _given(request: Request, faults: list[Fault]) -> Sequence[tuple[str, str]] | None:
        raw: bytes = request.scope["query_string"]
        if not raw:
            return ()
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:  # decoding would put "�" for it, so that different users were the same
            faults.append(Fault("", "the query is not UTF-8; encode the UTF-8 bytes of a text with %"))
            return None
        return request.query_params.multi_items()


def _convert(value: str, kind: Any) -> Any:
    converted = msgspec.convert(value, kind, strict=not _is_unquoted(kind))
    if isinstance(converted, datetime):
        converted.astimezone(UTC)  # raises OverflowError
    return converted


def _choices(kind: Any) -> str:
    """List the values of a parameter that has few of them."""
    return ", ".join(str(choice) for option in _options(kind) for choice in option.get("enum", ()))


@cache
def _is_unquoted(kind: Any) -> bool:
    """Return true if JSON writes the values without quotes: numbers, true and false."""
    return any(option.get("type") in ("integer", "number", "boolean") for option in _options(kind))


def _options(kind: Any) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(kind)
    options: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return options
