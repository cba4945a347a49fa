"""Validation of a definition before it is stored, with every finding at once."""

from collections.abc import Iterator
from typing import Any

import msgspec

from app.contracts.definition import Finding
from app.contracts.errors import Fault, InvalidDefinitionError
from app.contracts.flow import Flow
from app.flow.lint.common import as_object, objects
from app.flow.lint.conflicts import conflict_findings
from app.flow.lint.fields import field_findings
from app.flow.lint.findings import arranged, error
from app.flow.lint.flow import flow_findings
from app.flow.lint.people import people_findings
from app.flow.lint.permissions import permission_findings
from app.flow.lint.reachability import reachability_findings
from app.flow.lint.schema import schema_findings
from app.flow.lint.steps import step_findings
from app.flow.lint.timeouts import timeout_cycle_findings
from app.flow.values.canonical import canonical, with_free_doubles
from app.flow.values.storable_json import storage_errors
from app.kit.integers import convert_json

MAX_BYTES = 1_048_576
"""Size of a definition as compact JSON."""
MAX_GUARDS = 300
"""Different guards in a definition: each is compiled."""
MAX_REFERENCES = 500
MAX_PATTERNS = 200
MAX_SCHEMA_BYTES = 262_144
"""Limits of all schemas of a definition together: each ``$ref`` is followed, each pattern compiled."""
_STORABLE_ADVICE = (
    "write JSON that every program reads alike: integers of 64 bits or doubles, finite numbers, Unicode, "
    "at most 32 levels"
)


def parse_flow(raw: object) -> tuple[Flow, list[Finding]]:
    """Return the flow and its findings, which are warnings.

    Raises:
        InvalidDefinitionError: The definition has errors; it lists all of them.
    """
    findings = check_flow(raw)
    errors = [Fault(f.pointer, f"{f.message}; {f.advice}") for f in findings if f.severity == "error"]
    if errors:
        raise InvalidDefinitionError(errors)
    return convert_json(canonical(with_free_doubles(raw)), Flow), findings


def check_flow(raw: object) -> list[Finding]:
    """Return the findings about a definition as decoded from JSON, in the order of the document.

    There are at most 100; if there are more, errors are listed before warnings.
    """
    raw = with_free_doubles(raw)
    found = [error(fault.pointer, fault.message, _STORABLE_ADVICE) for fault in storage_errors(raw, "")]
    found = found or list(_excess_findings(raw))
    if not found:
        found = list(_semantic_findings(raw)) if isinstance(raw, dict) else []
        errors = [finding for finding in found if finding.severity == "error"]
        found = [*schema_findings(canonical(raw), errors), *found]
    return arranged(raw, found)


def _excess_findings(raw: object) -> Iterator[Finding]:
    """Yield the limits of size that a definition exceeds, with which it is not checked further."""
    if len(msgspec.json.encode(raw)) > MAX_BYTES:
        yield error(
            "", f"The definition is larger than {MAX_BYTES} bytes as JSON", "split it into several flows"
        )
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
            f"The definition has more than {MAX_REFERENCES} $ref or {MAX_PATTERNS} patterns in its schemas",
            "replace short references by their schemas, or simplify the schemas",
        )
    if len(text) > MAX_SCHEMA_BYTES:
        yield error(
            "/steps",
            f"The definition has more than {MAX_SCHEMA_BYTES} bytes of schemas",
            "simplify the schemas",
        )
    guards = {each["guard"] for each in transitions if isinstance(each.get("guard"), str)}
    if len(guards) > MAX_GUARDS:
        yield error(
            "/steps",
            f"The definition has more than {MAX_GUARDS} different guards",
            "let transitions share conditions",
        )


def _semantic_findings(raw: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about members that have the right type."""
    yield from flow_findings(raw)
    steps = raw.get("steps")
    if not isinstance(steps, dict):
        return
    yield from step_findings(raw, steps)
    yield from timeout_cycle_findings(steps)
    yield from reachability_findings(raw, steps)
    yield from permission_findings(raw, steps)
    yield from people_findings(raw, steps)
    yield from conflict_findings(steps)
    yield from field_findings(raw, steps)
