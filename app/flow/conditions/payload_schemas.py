"""JSON Schemas (2020-12) of the payloads of transitions.

A schema is self-contained: no ``$ref`` is fetched. ``format`` is checked. Patterns take time in proportion to
the text (no look-around, no back-references).
"""

import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

from app.contracts.errors import MAX_FAULTS, Fault
from app.contracts.state import Payload
from app.flow.conditions import evaluation_breaker
from app.flow.conditions.evaluation_breaker import Place, Subject
from app.flow.conditions.schema_cost import DATA, LISTS_OF_SCHEMAS, MAPS_OF_SCHEMAS, cost_faults
from app.flow.conditions.schema_weight import Weight, weight_of
from app.flow.values.struct_errors import errors_of, escape
from app.kit.deadline import require_time

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_BYTES = 16_384
MAX_STEPS = 2_000_000
STEP_SECONDS = 25e-9
MAX_ALL_FAULTS_STEPS = 50_000
"""Steps of a validation up to which all faults are reported, not only the first."""
MAX_REPORT_STEPS = 4_000_000
"""Steps to make the errors of all faults: the library makes all, and those of each branch of ``anyOf``."""
MAX_SHOWN_BYTES = 200
MAX_PATTERN_BYTES = 1_048_576
"""Of a compiled pattern."""


_SIMPLER = "send a smaller payload, or simplify the schema"


def payload_faults(schema: dict[str, Any], payload: Payload, place: Place | None = None) -> list[Fault]:
    """Return the faults of a payload against a schema.

    Args:
        schema: A schema without faults (``faults_of_schema``).
        payload: The payload of the transition.
        place: The transition, for the log.

    Returns:
        At most ``MAX_FAULTS`` faults, by JSON pointers into the payload; only the first where schema and
        payload are large.
    """
    validator, weight, fingerprint = _validator(_Schema(schema))
    if weight.steps(payload, MAX_STEPS) > MAX_STEPS:
        return [Fault("", f"The payload is too large to be validated: {_SIMPLER}")]
    size = len(msgspec.json.encode(payload))
    subject = Subject("payloadSchema", fingerprint, size, MAX_STEPS * STEP_SECONDS, place)

    def compare() -> list[Fault]:
        return [] if validator.is_valid(payload) else _faults(schema, payload, validator, weight)

    faults = evaluation_breaker.breaker.evaluate(subject, compare)
    if faults is None:
        return [Fault("", f"The validation of the payload may take too long: {_SIMPLER}")]
    return faults


def _faults(
    schema: dict[str, Any], payload: Payload, validator: jsonschema_rs.Draft202012Validator, weight: Weight
) -> list[Fault]:
    # Finding all faults takes many times as long as finding the first.
    steps = weight.steps(payload, MAX_ALL_FAULTS_STEPS)
    if weight.report_steps(payload) > MAX_REPORT_STEPS or steps > MAX_ALL_FAULTS_STEPS:
        return [_first_fault(schema, payload)]
    faults = []
    for error in errors_of(validator, payload, steps):
        faults.append(Fault(_pointer(error.instance_path), error.message))
        if len(faults) == MAX_FAULTS:
            break
    return faults


def faults_of_schema(schema: dict[str, Any]) -> list[Fault]:
    """Return the faults of a schema as it is written, by JSON pointers into it."""
    require_time()
    if len(msgspec.json.encode(schema)) > MAX_BYTES:
        return [Fault("", f"The schema is larger than {MAX_BYTES} bytes")]
    named = schema.get("$schema", DIALECT)
    if not isinstance(named, str) or named.rstrip("#") != DIALECT:
        return [Fault("/$schema", f"The dialect must be {DIALECT}")]
    misplaced = list(islice(_misplaced(schema), MAX_FAULTS + 1))
    if len(misplaced) > MAX_FAULTS:  # the library makes errors of all of them, at every level
        return misplaced[:MAX_FAULTS]
    errors = (Fault(_pointer(error.instance_path), error.message) for error in errors_of(_meta(), schema))
    faults = list(dict.fromkeys(islice(errors, MAX_FAULTS))) or cost_faults(schema) or _compile_fault(schema)
    return faults[:MAX_FAULTS]


def _misplaced(schema: dict[str, Any]) -> Iterator[Fault]:
    """Find values that are not schemas, in the places of schemas."""
    waiting: list[tuple[str, dict[str, Any]]] = [("", schema)]
    while waiting:
        at, part = waiting.pop()
        for name in (*LISTS_OF_SCHEMAS, *MAPS_OF_SCHEMAS):
            members = part.get(name)
            if not isinstance(members, list if name in LISTS_OF_SCHEMAS else dict):
                continue
            for key, member in enumerate(members) if isinstance(members, list) else members.items():
                place = f"{at}/{name}/{escape(str(key))}"
                if isinstance(member, dict):
                    waiting.append((place, member))
                elif not isinstance(member, bool):
                    shown = msgspec.json.encode(member).decode()
                    yield Fault(place, f'{shown} is not of types "boolean", "object"')


def _compile_fault(schema: dict[str, Any]) -> list[Fault]:
    try:
        _compile(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as refusal:
        message = str(getattr(refusal, "message", refusal)).partition("\n")[0]
        at = _pointer(getattr(refusal, "instance_path", ()))
        if at.endswith("/pattern") or "/patternProperties" in at:
            message += ": it is malformed, has look-around or a back-reference, or is too large"
        return [Fault(at, message)]
    return []


class _Schema:
    """A schema by its identity, as those of published definitions never change.

    The cache holds a reference to it, so that no other schema can have the same identity.
    """

    __slots__ = ("schema",)

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Schema) and other.schema is self.schema


@lru_cache(maxsize=4096)
def _validator(of: _Schema) -> tuple[jsonschema_rs.Draft202012Validator, Weight, str]:
    fingerprint = hashlib.sha256(msgspec.json.encode(of.schema)).hexdigest()
    return _compile(of.schema), weight_of(of.schema), fingerprint


def _first_fault(schema: dict[str, Any], payload: Payload) -> Fault:
    """Return the first fault of a payload, found without the errors of each branch of ``anyOf``."""
    locator = _locator(_Schema(schema))
    if locator is None:
        message = (
            "The payload does not match its schema, and is too large to locate the fault: "
            "send a smaller one to see it"
        )
        return Fault("", message)
    try:
        locator.validate(payload)
    except jsonschema_rs.ValidationError as first:
        message = first.message
        if list(getattr(first.kind, "schema", ())) == ["not"]:
            shown = msgspec.json.encode(first.instance)[:MAX_SHOWN_BYTES].decode(errors="ignore")
            message = (
                f"{shown} is not valid under any branch of 'anyOf', or under several branches of 'oneOf'"
            )
        return Fault(_pointer(first.instance_path), message)
    return Fault("", "The payload does not match its schema")


@lru_cache(maxsize=256)
def _locator(of: _Schema) -> jsonschema_rs.Draft202012Validator | None:
    """Return a validator that makes one error of each ``anyOf`` and ``oneOf``.

    It refuses the same payloads as the schema. None if the schema cannot be rewritten.
    """
    try:
        return _compile(_without_branches(of.schema))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        return None  # a $ref leads into a branch


def _without_branches(part: Any) -> Any:
    """Put each ``anyOf`` and ``oneOf`` of a schema in a double negation, which makes one error of them."""
    if not isinstance(part, dict):
        return part
    if "unevaluatedProperties" in part or "unevaluatedItems" in part:
        raise ValueError("a double negation hides what is evaluated")
    changed: dict[str, Any] = {}
    branches: list[dict[str, Any]] = []
    for name, member in part.items():
        if name in ("anyOf", "oneOf"):
            branches.append({"not": {"not": {name: member}}})
        elif name in DATA:
            changed[name] = member
        elif name in MAPS_OF_SCHEMAS:
            changed[name] = {key: _without_branches(inner) for key, inner in member.items()}
        elif isinstance(member, list):
            changed[name] = [_without_branches(inner) for inner in member]
        else:
            changed[name] = _without_branches(member)
    if branches:
        changed["allOf"] = [*changed.get("allOf", ()), *branches]
    return changed


@cache
def _meta() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": DIALECT}, validate_formats=False)


def _compile(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        retriever=_refuse,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
    )


def _refuse(uri: str) -> Any:
    raise ValueError("a $ref must lead to a place in the same schema, such as #/$defs/name")


def _pointer(path: Any) -> str:
    return "".join(f"/{escape(segment)}" for segment in path)
