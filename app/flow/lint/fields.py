"""Checks of the fields that readers see, and by which states are found."""

from collections.abc import Collection, Iterator
from typing import Any

from app.contracts.callers import READ
from app.contracts.definition import Finding
from app.flow.lint.common import MAX_ROLES, as_object, check_roles, objects
from app.flow.lint.conflicts import MAX_POINTER, OPEN_KEYWORDS, advice_about_pointer, listed_around
from app.flow.lint.findings import error, warning
from app.flow.lint.participants import texts_in, token_roles
from app.flow.lint.permissions import transitions_of
from app.flow.lint.spelling import instead, quoted
from app.flow.people.field_access import OWNER
from app.flow.values.masking import WILDCARD, covers
from app.flow.values.removal import pointer_faults
from app.flow.values.search_terms import MAX_SEARCHABLE, MAX_SEARCHABLE_POINTER
from app.flow.values.struct_errors import escape
from app.kit.deadline import require_time

MAX_FIELDS = 100
"""Pointers in one list, and sensitive fields of one flow."""
MAX_VISIBLE = 500
"""Visible fields of all roles."""


def field_findings(raw: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about ``sensitive``, ``visible`` and ``searchable``."""
    sensitive, visible = as_object(raw.get("sensitive")), as_object(raw.get("visible"))
    schemas = _schemas(steps)
    known = dict.fromkeys([*as_object(raw.get("participants")), *token_roles(raw, steps)])
    if (sensitive or visible) and OWNER in known:
        yield _taken_name(raw)
    yield from _check_sensitive(sensitive, dict.fromkeys([*known, OWNER, READ]), schemas)
    sensitive = {
        pointer: roles
        for pointer, roles in sensitive.items()
        if isinstance(roles, list) and not pointer_faults([pointer])
    }
    yield from _check_carried(sensitive, steps)
    yield from _check_visible(raw.get("visible"), dict.fromkeys([*known, READ]), sensitive, schemas)
    yield from _check_searchable(raw.get("searchable"), sensitive, schemas)


def _taken_name(raw: dict[str, Any]) -> Finding:
    is_declared = OWNER in as_object(raw.get("participants"))
    return error(
        f"/participants/{OWNER}" if is_declared else "",
        f"The role {quoted(OWNER)} has the name by which `sensitive` means the owner of a state",
        "rename the role",
    )


def _check_sensitive(
    sensitive: dict[str, Any], known: Collection[str], schemas: list[dict[str, Any]]
) -> Iterator[Finding]:
    if len(sensitive) > MAX_FIELDS:
        advice = "name the objects around the fields"
        yield error("/sensitive", f"The flow has more than {MAX_FIELDS} sensitive fields", advice)
        return
    for pointer, roles in sensitive.items():
        at = f"/sensitive/{escape(pointer)}"
        yield from _check_pointer(at, pointer, schemas)
        yield from check_roles(at, roles)
        for position, role in texts_in(roles):
            if role not in known:
                yield warning(
                    f"{at}/{position}",
                    f"No participant and no transition of the flow has the role {quoted(role)}",
                    instead(role, known, "it must be a role of tokens; the known ones are"),
                )


def _check_carried(sensitive: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about sensitive fields that tokens carry."""
    for name, step in objects(steps):
        for key in as_object(step.get("payloadMap")):
            pointer = f"/{escape(key)}"
            if any(covers(each, pointer) or covers(pointer, each) for each in sensitive):
                yield warning(
                    f"/steps/{escape(name)}/payloadMap/{escape(key)}",
                    f"The field {quoted(pointer)} is sensitive, but state tokens carry it in addresses",
                    "leave it out of `payloadMap`: addresses are logged, and stored by browsers",
                )


def _check_visible(
    visible: object, known: Collection[str], sensitive: dict[str, Any], schemas: list[dict[str, Any]]
) -> Iterator[Finding]:
    if not isinstance(visible, dict):
        return
    if not visible:
        yield warning(
            "/visible",
            "People with roles on a state see no field of its payload",
            "list the fields by role, or leave `visible` out so that they see all",
        )
    if len(visible) > MAX_ROLES:
        yield error("/visible", f"The object has more than {MAX_ROLES} roles", "let people share a role")
        return
    if sum(len(listed) for listed in visible.values() if isinstance(listed, list)) > MAX_VISIBLE:
        advice = "name the objects around the fields"
        yield error("/visible", f"The object has more than {MAX_VISIBLE} fields of all roles", advice)
        return
    for role, listed in visible.items():
        at = f"/visible/{escape(role)}"
        if role == OWNER:
            yield error(
                at,
                "The owner of a state sees all fields but sensitive ones",
                "leave it out, and list the others in `sensitive`",
            )
        elif role not in known:
            yield warning(
                at,
                f"No participant and no transition of the flow has the role {quoted(role)}",
                instead(
                    role, known, "it must be a role on the state, or of support staff; the known ones are"
                ),
            )
        if isinstance(listed, list):
            yield from _check_list(at, listed, schemas)
            yield from _check_overlap(at, role, listed, sensitive)


def _check_overlap(at: str, role: str, listed: list[Any], sensitive: dict[str, Any]) -> Iterator[Finding]:
    for position, pointer in texts_in(listed):
        for hiding, roles in sensitive.items():
            if covers(hiding, pointer) and role not in {name for _, name in texts_in(roles)}:
                yield warning(
                    f"{at}/{position}",
                    f"{quoted(pointer)} is not shown to {quoted(role)}, as it is sensitive",
                    f"add the role to {quoted('/sensitive/' + escape(hiding))}, or leave the field out here",
                )


def _check_searchable(
    searchable: object, sensitive: dict[str, Any], schemas: list[dict[str, Any]]
) -> Iterator[Finding]:
    if not isinstance(searchable, list):
        return
    at = "/searchable"
    if not searchable:
        yield warning(at, "No field is listed", "list fields, or leave `searchable` out")
    if len(searchable) > MAX_SEARCHABLE:
        yield error(
            at,
            f"The list has more than {MAX_SEARCHABLE} fields",
            "list those by which people look for states",
        )
        return
    yield from _check_list(at, searchable, schemas)
    for position, pointer in texts_in(searchable):
        if len(pointer) > MAX_SEARCHABLE_POINTER:
            yield error(
                f"{at}/{position}",
                f"The pointer is longer than {MAX_SEARCHABLE_POINTER} characters",
                "give the field a shorter name",
            )
        if any(covers(each, pointer) or covers(pointer, each) for each in sensitive):
            yield warning(
                f"{at}/{position}",
                f"{quoted(pointer)} is sensitive, but values of searchable fields are not encrypted",
                "leave it out, or search by a field that tells nothing about people, such as an order number",
            )


def _check_list(at: str, listed: list[Any], schemas: list[dict[str, Any]]) -> Iterator[Finding]:
    if len(listed) > MAX_FIELDS:
        yield error(at, f"The list has more than {MAX_FIELDS} fields", "list the objects around the fields")
        return
    fields = {field for _, field in texts_in(listed)}
    seen: set[str] = set()
    for position, field in texts_in(listed):
        here = f"{at}/{position}"
        if field in seen:
            yield warning(here, f"The field {quoted(field)} is listed twice", "list it once")
        elif (around := listed_around(field, fields)) is not None:
            yield warning(
                here, f"{quoted(around)} is listed too, with all that is in it", "list only one of them"
            )
        else:
            yield from _check_pointer(here, field, schemas)
        seen.add(field)


def _check_pointer(at: str, pointer: str, schemas: list[dict[str, Any]]) -> Iterator[Finding]:
    fault = next(iter(pointer_faults([pointer])), None)
    if fault is not None:
        yield error(at, fault.message, advice_about_pointer(pointer))
    elif len(pointer) > MAX_POINTER:
        yield error(at, f"The pointer is longer than {MAX_POINTER} characters", "shorten it")
    elif any(WILDCARD in segment != WILDCARD for segment in pointer.split("/")):
        yield warning(
            at,
            f"The '*' in {quoted(pointer)} is a part of a name: only by itself it stands for every member",
            "write it as a segment of its own, as in /items/*/price",
        )
    elif schemas and not any(_may_describe(schema, pointer.split("/")[1:]) for schema in schemas):
        yield warning(
            at,
            f"No payload schema of the flow allows {quoted(pointer)}",
            "correct the pointer, or add the field to the schema of a transition",
        )


def _schemas(steps: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the payload schemas of all transitions."""
    found = [transition.get("payloadSchema") for _, transition in transitions_of(steps)]
    return [schema for schema in found if isinstance(schema, dict)]


def _may_describe(schema: object, segments: list[str]) -> bool:
    """Return whether a schema has a member, or may have one by a keyword that is not followed here."""
    require_time()
    if not isinstance(schema, dict):
        return schema is not False
    if not segments or any(keyword in schema for keyword in OPEN_KEYWORDS):
        return True
    name = segments[0].replace("~1", "/").replace("~0", "~")
    known = as_object(schema.get("properties"))
    inner = [member for key, member in known.items() if name in (key, WILDCARD)]
    if schema.get("additionalProperties") not in (None, True, False):
        inner.append(schema["additionalProperties"])
    if name == WILDCARD or name.isdecimal():
        inner += [each for each in (schema.get("items"), *_prefix(schema)) if each is not None]
    return any(_may_describe(each, segments[1:]) for each in inner)


def _prefix(schema: dict[str, Any]) -> list[Any]:
    listed = schema.get("prefixItems")
    return listed if isinstance(listed, list) else []
