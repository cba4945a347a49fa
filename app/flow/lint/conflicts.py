"""Checks of how transitions resolve conflicts (``conflict``)."""

from collections.abc import Collection, Iterator
from typing import Any

from app.contracts.definition import Finding
from app.flow.lint.common import as_object, objects
from app.flow.lint.findings import error, warning
from app.flow.lint.spelling import instead, quoted
from app.flow.values.removal import pointer_faults
from app.flow.values.struct_errors import escape

MAX_FIELDS = 100
"""Fields of one transition."""
MAX_POINTER = 1000
"""Characters of a pointer."""
_RULES = ("retry", "reject", "merge")
OPEN_KEYWORDS = (
    "$ref",
    "$dynamicRef",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "dependentSchemas",
    "patternProperties",
)
"""Keywords by which a schema may allow members that it does not list itself."""


def conflict_findings(steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about the conflicts of all transitions."""
    for step, each in objects(steps):
        timed = as_object(each.get("timeout")).get("transition")
        for name, transition in objects(each.get("transitions")):
            at = f"/steps/{escape(step)}/transitions/{escape(name)}/conflict"
            rule = transition.get("conflict")
            if isinstance(rule, str) and rule not in ("retry", "reject"):
                yield error(at, f"{quoted(rule)} is no rule for conflicts", _advice_about_rule(rule))
            elif rule is not None and name == timed and transition.get("roles") == []:
                yield warning(
                    at,
                    "The rule has no effect: only the timeout of the step runs this transition",
                    "leave it out, or list the roles that may run the transition",
                )
            listed = as_object(rule).get("merge")
            if isinstance(listed, list):
                yield from _check_fields(f"{at}/merge", listed, as_object(transition.get("payloadSchema")))


def _advice_about_rule(rule: str) -> str:
    if rule == "merge":
        return 'list the fields that may be merged, as in {"merge": ["/amount"]}'
    return instead(rule, _RULES, "write one of")


def _check_fields(at: str, listed: list[Any], schema: dict[str, Any]) -> Iterator[Finding]:
    if not listed:
        yield error(at, "No field is listed, so that nothing can be merged", 'list fields, or write "reject"')
    if len(listed) > MAX_FIELDS:
        yield error(at, f"The list has more than {MAX_FIELDS} fields", "list the objects around the fields")
        return
    fields = {field for field in listed if isinstance(field, str)}
    seen: set[str] = set()
    for position, field in enumerate(listed):
        if not isinstance(field, str):
            continue
        here = f"{at}/{position}"
        fault = next(iter(pointer_faults([field])), None)
        if fault is not None:
            yield error(here, fault.message, advice_about_pointer(field))
        elif len(field) > MAX_POINTER:
            yield error(here, f"The pointer is longer than {MAX_POINTER} characters", "shorten it")
        elif field in seen:
            yield warning(here, f"The field {quoted(field)} is listed twice", "list it once")
        elif (around := listed_around(field, fields)) is not None:
            yield warning(
                here, f"{quoted(around)} is listed too, with all that is in it", "list only one of them"
            )
        else:
            yield from _check_schema(here, field, schema)
        seen.add(field)


def advice_about_pointer(field: str) -> str:
    """Return the advice about a text that is no pointer to a member."""
    if field and not field.startswith("/") and not pointer_faults([f"/{field}"]):
        return f"did you mean {quoted('/' + field.replace('.', '/'))}?"
    return "write a JSON pointer such as /amount or /address/street"


def listed_around(field: str, fields: Collection[str]) -> str | None:
    """Return a listed field that has ``field`` in it; None if there is none."""
    end = field.rfind("/")
    while end > 0:
        if field[:end] in fields:
            return field[:end]
        end = field.rfind("/", 0, end)
    return None


def _check_schema(at: str, field: str, schema: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about a field that the payload schema of the transition rules out."""
    for segment in field.split("/")[1:]:
        name = segment.replace("~1", "/").replace("~0", "~")
        if any(keyword in schema for keyword in OPEN_KEYWORDS):
            return
        if schema.get("type") == "array":
            yield warning(
                at,
                f"{quoted(field)} is never merged: it leads into a list, and lists are compared as wholes",
                "point to the list",
            )
            return
        known = as_object(schema.get("properties"))
        if name not in known:
            if schema.get("additionalProperties") is False:
                yield warning(
                    at,
                    f"{quoted(field)} is never sent: the payload schema allows no {quoted(name)}",
                    instead(name, known, "point to a member that the schema allows"),
                )
            return
        schema = as_object(known[name])
