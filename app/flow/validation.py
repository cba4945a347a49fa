"""Checks a definition whole, before it is stored: every finding at once."""

from collections.abc import Iterator
from typing import Any

import msgspec

from app.contracts.definition import Finding
from app.contracts.errors import Fault, InvalidDefinitionError
from app.contracts.flow import Flow
from app.flow.lint.common import as_object, objects
from app.flow.lint.findings import arranged, error
from app.flow.lint.flow import whole_findings
from app.flow.lint.permissions import permission_findings
from app.flow.lint.reachability import way_findings
from app.flow.lint.schema import shape_findings
from app.flow.lint.steps import step_findings
from app.flow.lint.timeouts import round_findings
from app.flow.values.canonical import canonical, with_free_doubles
from app.flow.values.storable_json import storage_errors
from app.kit.integers import convert_json

MAX_BYTES = 1_048_576
"""Of a definition as compact JSON."""
MAX_GUARDS = 300
"""Of different ones in a definition: each is compiled."""
MAX_REFERENCES = 500
MAX_PATTERNS = 200
MAX_SCHEMA_BYTES = 262_144
"""Of all schemas of a definition: each ``$ref`` is followed, each pattern compiled."""
_KEEPABLE = (
    "keep to JSON as everybody reads it: integers of 64 bits or doubles, finite numbers, Unicode, 32 levels"
)


def parse_flow(raw: object) -> tuple[Flow, list[Finding]]:
    """The flow and its warnings. Raises InvalidDefinitionError with every error in it."""
    findings = check_flow(raw)
    errors = [Fault(f.pointer, f"{f.message}; {f.advice}") for f in findings if f.severity == "error"]
    if errors:
        raise InvalidDefinitionError(errors)
    return convert_json(canonical(with_free_doubles(raw)), Flow), findings


def check_flow(raw: object) -> list[Finding]:
    """Everything wrong with a definition as decoded from JSON, in the order of the document; at most
    100 findings, errors before warnings where there are more."""
    raw = with_free_doubles(raw)
    found = [error(fault.pointer, fault.message, _KEEPABLE) for fault in storage_errors(raw, "")]
    found = found or list(_excess(raw))
    if not found:
        found = list(_semantic(raw)) if isinstance(raw, dict) else []
        errors = [finding for finding in found if finding.severity == "error"]
        found = [*shape_findings(canonical(raw), errors), *found]
    return arranged(raw, found)


def _excess(raw: object) -> Iterator[Finding]:
    """Find what makes a definition too large to be checked."""
    if len(msgspec.json.encode(raw)) > MAX_BYTES:
        yield error("", f"is larger than {MAX_BYTES} bytes as JSON", "split it into several flows")
    transitions = [
        transition
        for _, step in objects(as_object(raw).get("steps"))
        for _, transition in objects(step.get("transitions"))
    ]
    schemas = [each.get("payloadSchema") for each in transitions]
    text = msgspec.json.encode(schemas)
    if text.count(b'"$ref"') > MAX_REFERENCES or text.count(b'"pattern') > MAX_PATTERNS:
        yield error(
            "/steps",
            f"has more than {MAX_REFERENCES} $ref or {MAX_PATTERNS} patterns in its schemas",
            "write out what is short, or ask for less",
        )
    if len(text) > MAX_SCHEMA_BYTES:
        yield error("/steps", f"has more than {MAX_SCHEMA_BYTES} bytes of schemas", "ask for less")
    guards = {guard for each in transitions if isinstance(guard := each.get("guard"), str)}
    if len(guards) > MAX_GUARDS:
        yield error(
            "/steps", f"has more than {MAX_GUARDS} different guards", "let transitions share conditions"
        )


def _semantic(raw: dict[str, Any]) -> Iterator[Finding]:
    """Find contradictions of members that have the right type."""
    yield from whole_findings(raw)
    steps = raw.get("steps")
    if not isinstance(steps, dict):
        return
    yield from step_findings(raw, steps)
    yield from round_findings(steps)
    yield from way_findings(raw, steps)
    yield from permission_findings(raw, steps)
