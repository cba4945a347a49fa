"""Derives the declarations of documents from the structs that they store."""

import types
from datetime import datetime
from typing import Any, Literal, Union, get_args, get_origin

from msgspec import UNSET, Struct, UnsetType, structs
from pydantic import Field, create_model

from models.codec import PAYLOAD_TEXTS, document_fields
from models.stored_definition import CamelModel


def stored_model(name: str, shape: type[Struct]) -> type[CamelModel]:
    """Make a model with a field for each stored member of a struct, with its type in MongoDB.

    Args:
        name: The name of the model.
        shape: FlowState or HistoryRecord.
    """
    stored = document_fields(shape)
    fields: dict[str, Any] = {}
    for member in structs.fields(shape):
        if member.name not in stored:
            continue
        alias = stored[member.name]
        kind = str if member.name in PAYLOAD_TEXTS else _stored_type(member.type)
        if member.default is UNSET:
            fields[member.name] = (kind | None, Field(default=None, alias=alias))
        else:
            fields[member.name] = (kind, Field(alias=alias))
    return create_model(name, __base__=CamelModel, **fields)


def _stored_type(annotation: Any) -> Any:
    """Return the type that a member has in a document: structs are documents."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    choices = get_args(annotation) if is_union else (annotation,)
    (present,) = (choice for choice in choices if choice not in (UnsetType, types.NoneType))
    origin = get_origin(present)
    if origin is Literal:
        return str
    if origin is tuple:
        return list[_stored_type(get_args(present)[0])]  # type: ignore[misc]
    if present in (str, int, float, bool, datetime):
        return present
    if issubclass(present, Struct):
        return dict[str, Any]
    raise TypeError(f"documents have no type for {present}")
