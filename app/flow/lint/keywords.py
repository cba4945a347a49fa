"""Checks of keywords and formats of payload schemas: unknown ones have no effect."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from app.contracts.definition import Finding
from app.flow.conditions.schema_cost import DATA, MAPS_OF_SCHEMAS
from app.flow.lint.common import objects
from app.flow.lint.findings import warning
from app.flow.lint.spelling import nearest, plain_spelling, quoted
from app.flow.values.struct_errors import escape

MAX_UNKNOWN = 20
"""Unknown keywords that are reported for one schema."""
_SCHEMAS = {
    *("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
}
_LISTS_OF_SCHEMAS = {"allOf", "anyOf", "oneOf", "prefixItems"}
KEYWORDS = (
    *("$schema", "$id", "$ref", "$anchor", "$defs", "$comment", "$vocabulary", "definitions"),
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),  # these are refused elsewhere
    *("type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties"),
    *("propertyNames", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas"),
    *("unevaluatedProperties", "minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains"),
    *("maxContains", "unevaluatedItems", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("contentEncoding", "contentMediaType", "contentSchema"),
)
"""The keywords of the dialect 2020-12."""
FORMATS = (
    *("date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4"),
    *("ipv6", "uri", "uri-reference", "iri", "iri-reference", "uri-template", "uuid", "json-pointer"),
    *("relative-json-pointer", "regex"),
)
"""The formats that payloads are checked against."""
_SUGGESTIONS = {
    "divisibleby": "multipleOf",
    "step": "multipleOf",
    "multiple": "multipleOf",
    "property": "properties",
    "requiredproperties": "required",
    "additionalproperty": "additionalProperties",
    "extends": "allOf",
    "all": "allOf",
    "any": "anyOf",
    "one": "oneOf",
    "disallow": "not",
    "additionalitems": "items",
    "dependencies": "dependentRequired",
    "id": "$id",
    "components": "$defs",
    "schemas": "$defs",
    "optional": "required",
    "mandatory": "required",
    "min": "minimum",
    "minvalue": "minimum",
    "max": "maximum",
    "maxvalue": "maximum",
    "greaterthan": "exclusiveMinimum",
    "exclusivemin": "exclusiveMinimum",
    "lessthan": "exclusiveMaximum",
    "exclusivemax": "exclusiveMaximum",
    "length": "maxLength",
    "minlen": "minLength",
    "maxlen": "maxLength",
    "size": "maxItems",
    "minsize": "minItems",
    "maxsize": "maxItems",
    "unique": "uniqueItems",
    "regex": "pattern",
    "regexp": "pattern",
    "match": "pattern",
    "values": "enum",
    "value": "const",
    "equals": "const",
    "fields": "properties",
    "props": "properties",
    "additionalprops": "additionalProperties",
    "example": "examples",
    "contenttype": "contentMediaType",
    "encoding": "contentEncoding",
}
"""Keywords for those of earlier dialects, of OpenAPI and of other schema languages."""
_FORMAT_SUGGESTIONS = {
    "url": "uri",
    "link": "uri",
    "guid": "uuid",
    "ip": "ipv4",
    "uriref": "uri-reference",
    "urlreference": "uri-reference",
    "ipaddress": "ipv4",
    "mail": "email",
    "host": "hostname",
    "domain": "hostname",
    "timestamp": "date-time",
    "iso8601": "date-time",
    "regexp": "regex",
    "pattern": "regex",
    "timespan": "duration",
}
_NEEDS = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}


def keyword_findings(at: str, schema: object) -> Iterator[Finding]:
    """Yield findings about members without effect in a schema, at any level.

    Data, such as ``default``, and extensions, whose names begin with ``x-``, are not checked.
    """
    if not isinstance(schema, dict):
        return
    unknown = (name for name in schema if name not in KEYWORDS and not name.startswith("x-"))
    for name in islice(unknown, MAX_UNKNOWN):
        yield warning(
            f"{at}/{escape(name)}",
            f"{quoted(name)} is not a keyword of JSON Schema 2020-12, and has no effect",
            _advice_about_keyword(name),
        )
    for name, other in _NEEDS.items():
        if name in schema and other not in schema:
            yield warning(
                f"{at}/{name}",
                f"The keyword has no effect without {other!r}",
                f"add {other!r}, or leave it out",
            )
    yield from _format_findings(f"{at}/format", schema.get("format"))
    for place, inner in _schemas_in(at, schema):
        yield from keyword_findings(place, inner)


def _advice_about_keyword(name: str) -> str:
    alike = nearest(name, KEYWORDS) or _SUGGESTIONS.get(plain_spelling(nearest(name, _SUGGESTIONS) or ""))
    if alike is not None:
        return f"did you mean {alike!r}?"
    if name == "nullable":
        return 'write a type with null, such as ["string", "null"]'
    return "leave it out, name it with 'x-' if it is for other programs, or put a property into 'properties'"


def _format_findings(at: str, given: object) -> Iterator[Finding]:
    if not isinstance(given, str) or given in FORMATS:
        return
    alike = nearest(given, FORMATS) or _FORMAT_SUGGESTIONS.get(
        plain_spelling(nearest(given, _FORMAT_SUGGESTIONS) or "")
    )
    yield warning(
        at,
        f"The format {quoted(given)} is unknown, and is not checked",
        f"did you mean {alike!r}?"
        if alike
        else f"describe it with 'pattern', 'minimum' or 'maximum'; the formats are {', '.join(FORMATS)}",
    )


def _schemas_in(at: str, schema: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for name, member in schema.items():
        here = f"{at}/{escape(name)}"
        if name in DATA:
            continue
        if name in MAPS_OF_SCHEMAS:
            yield from ((f"{here}/{escape(key)}", inner) for key, inner in objects(member))
        elif name in _LISTS_OF_SCHEMAS and isinstance(member, list):
            yield from ((f"{here}/{number}", inner) for number, inner in enumerate(member))
        elif name in _SCHEMAS:
            yield here, member
