"""JSON Schemas of the types of requests and answers, as generators of typed clients need them."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct

_REFERENCE = "#/components/schemas/{name}"


def reference(name: str) -> dict[str, Any]:
    """Refer to a schema of the components."""
    return {"$ref": _REFERENCE.format(name=name)}


class Schemas:
    """The schemas of types, and of the structs that they consist of.

    msgspec describes what may be decoded. What is encoded always has the members with a default, unless the
    struct omits them; and a ``default`` makes generators of clients treat a member of a request as
    required. So defaults are in the descriptions, and ``required`` is by direction.

    Args:
        requested: Types of bodies.
        answered: Types of answers. A tuple is one of several types.
    """

    def __init__(self, requested: Iterable[Any], answered: Iterable[Any]) -> None:
        requested, answered = list(_alternatives(requested)), list(_alternatives(answered))
        types = [*requested, *answered]
        schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
        self._of = {repr(t): schema for t, schema in zip(types, schemas, strict=True)}
        self.components: dict[str, Any] = components
        requests, answers = _structs_of(requested), _structs_of(answered)
        for name, struct in (requests | answers).items():
            if name not in requests:
                _describe_encoded(components[name], struct)
            _move_defaults(components[name], describe=name in requests)
        _open_objects([components, self._of])

    def of(self, shape: Any) -> dict[str, Any]:
        """Return the schema of a type, or of one of several."""
        if isinstance(shape, tuple):
            return {"anyOf": [self.of(one) for one in shape]}
        return self._of[repr(shape)]


def query_parameters(shape: type[Struct]) -> list[dict[str, Any]]:
    """Return the parameters of a query. A default of null is not sent as such: the parameter is left out."""
    parameters = []
    for field in msgspec.structs.fields(shape):
        schema = _without_null(msgspec.json.schema(field.type))
        parameter = {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        if field.default not in (None, msgspec.NODEFAULT):
            schema["default"] = field.default
        parameters.append(parameter)
    return parameters


def _alternatives(shapes: Iterable[Any]) -> Iterable[Any]:
    for shape in shapes:
        yield from _alternatives(shape) if isinstance(shape, tuple) else [shape]


def _structs_of(types: Iterable[Any]) -> dict[str, type[Struct]]:
    """Return the structs in types, by the names of their schemas."""
    found: dict[str, type[Struct]] = {}
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(types))
    while waiting:
        part = waiting.pop()
        if isinstance(part, msgspec.inspect.StructType):
            if part.cls.__name__ in found:
                continue
            found[part.cls.__name__] = part.cls
            waiting += [field.type for field in part.fields]
        elif isinstance(part, msgspec.inspect.UnionType):
            waiting += part.types
        elif isinstance(part, msgspec.inspect.Metadata):
            waiting.append(part.type)
        elif isinstance(part, msgspec.inspect.DictType):
            waiting.append(part.value_type)
        elif isinstance(part, msgspec.inspect.CollectionType):
            waiting.append(part.item_type)
    return found


def _describe_encoded(schema: dict[str, Any], struct: type[Struct]) -> None:
    """Mark the members of a struct that answers always have, and those that are never null."""
    properties, required = schema["properties"], []
    omits = struct.__struct_config__.omit_defaults
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        if field.required or (field.default is not UNSET and not omits):
            required.append(name)
        elif omits and field.default is None:
            properties[name] = _without_null(properties[name])
    schema["required"] = required


def _move_defaults(schema: dict[str, Any], *, describe: bool) -> None:
    """Move defaults of members from the schema into descriptions, where they matter to callers."""
    for name, member in schema["properties"].items():
        default = member.pop("default", None)
        if describe and default not in (None, "", {}):
            text = f"Default: `{msgspec.json.encode(default).decode()}`."
            described = " ".join(filter(None, [member.get("description"), text]))
            schema["properties"][name] = {**member, "description": described}


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of a value or null as one of the value."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    if "enum" in rest:
        rest["enum"] = [value for value in rest["enum"] if value is not None]
    if not options:
        return rest
    return {**rest, **options[0]} if len(options) == 1 else {**rest, "anyOf": options}


def _open_objects(node: Any) -> None:
    """Allow any members in objects without known ones: generators treat them as empty otherwise."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" not in node:
            node.setdefault("additionalProperties", True)
        for part in node.values():
            _open_objects(part)
    elif isinstance(node, list):
        for part in node:
            _open_objects(part)
