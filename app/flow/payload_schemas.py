"""JSON Schemas (2020-12) of the payloads that come with transitions.

A schema speaks for itself alone: nothing is fetched, whatever its ``$ref`` names. ``format`` is checked.
Patterns take time in proportion to the text (no look-around, no back-references).
"""

from functools import cache, lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

from app.contracts.errors import MAX_FAULTS, Fault
from app.contracts.state import Payload
from app.flow.deadline import require_time
from app.flow.faults import errors_of, escape
from app.flow.schema_cost import cost_faults
from app.flow.schema_weight import Weight, weight_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_BYTES = 16_384
MAX_STEPS = 2_000_000
MAX_TOLD_STEPS = 50_000
"""Beyond, to find all faults takes many times as long as the first."""
PATTERN_BYTES = 1_048_576
"""Of a pattern, compiled."""


def payload_faults(schema: dict[str, Any], payload: Payload) -> list[Fault]:
    """Everything in which a payload does not fit, by JSON pointers into it; at most ``MAX_FAULTS``, and the
    first alone where schema and payload are large."""
    validator, weight = _validator(_Schema(schema))
    if weight.steps(payload, MAX_STEPS) > MAX_STEPS:
        return [Fault("", "is larger than can be compared with its schema: bring less, or ask for less")]
    if validator.is_valid(payload):
        return []
    steps = weight.steps(payload, MAX_TOLD_STEPS)
    faults = []
    for error in errors_of(validator, payload, steps, first_alone=steps > MAX_TOLD_STEPS):
        faults.append(Fault(_pointer(error.instance_path), error.message))
        if len(faults) == MAX_FAULTS:
            break
    return faults


def faults_of_schema(schema: dict[str, Any]) -> list[Fault]:
    """Everything wrong with a schema as it is written, by JSON pointers into it."""
    require_time()
    if len(msgspec.json.encode(schema)) > MAX_BYTES:
        return [Fault("", f"is larger than {MAX_BYTES} bytes")]
    named = schema.get("$schema", DIALECT)
    if not isinstance(named, str) or named.rstrip("#") != DIALECT:
        return [Fault("/$schema", f"is not {DIALECT}")]
    told = (Fault(_pointer(error.instance_path), error.message) for error in errors_of(_meta(), schema))
    faults = list(dict.fromkeys(islice(told, MAX_FAULTS))) or cost_faults(schema) or _compile_fault(schema)
    return faults[:MAX_FAULTS]


def _compile_fault(schema: dict[str, Any]) -> list[Fault]:
    try:
        _compile(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as refusal:
        message = str(getattr(refusal, "message", refusal)).partition("\n")[0]
        at = _pointer(getattr(refusal, "instance_path", ()))
        if at.endswith("/pattern") or "/patternProperties" in at:
            message += (
                " that is taken here: it is none at all, has look-around or a back-reference, or is too large"
            )
        return [Fault(at, message)]
    return []


class _Schema:
    """A schema by its identity: those of published definitions never change. It is kept alive with what is
    compiled of it, so that no other one can take its place."""

    __slots__ = ("schema",)

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Schema) and other.schema is self.schema


@lru_cache(maxsize=4096)
def _validator(of: _Schema) -> tuple[jsonschema_rs.Draft202012Validator, Weight]:
    return _compile(of.schema), weight_of(of.schema)


@cache
def _meta() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": DIALECT}, validate_formats=False)


def _compile(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        retriever=_refuse,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES),
    )


def _refuse(uri: str) -> Any:
    raise ValueError("a $ref leads to a place in the same schema, such as #/$defs/name")


def _pointer(path: Any) -> str:
    return "".join(f"/{escape(segment)}" for segment in path)
