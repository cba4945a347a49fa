"""Checks of the members and types of a definition, against the types of the contract."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec
from msgspec import Struct

from app.contracts.definition import Finding
from app.contracts.errors import Fault
from app.contracts.flow import (
    Flow,
    FlowApprovals,
    FlowAssignment,
    FlowConfig,
    FlowMerge,
    FlowParticipant,
    FlowStep,
    FlowTimeout,
    FlowTransition,
)
from app.flow.lint.findings import error
from app.flow.lint.pointers import value_at
from app.flow.lint.spelling import nearest
from app.flow.values.struct_errors import faults_of

_SHAPES_BY_POINTER: list[tuple[re.Pattern[str], type[Struct]]] = [
    (re.compile(r"\Z"), Flow),
    (re.compile(r"/config\Z"), FlowConfig),
    (re.compile(r"/steps/[^/]*\Z"), FlowStep),
    (re.compile(r"/steps/[^/]*/timeout\Z"), FlowTimeout),
    (re.compile(r"/steps/[^/]*/transitions/[^/]*\Z"), FlowTransition),
    (re.compile(r"/steps/[^/]*/transitions/[^/]*/approvals\Z"), FlowApprovals),
    (re.compile(r"/steps/[^/]*/transitions/[^/]*/assign/[^/]*\Z"), FlowAssignment),
    (re.compile(r"/steps/[^/]*/transitions/[^/]*/conflict\Z"), FlowMerge),
    (re.compile(r"/participants/[^/]*\Z"), FlowParticipant),
]
_MAX_COMPARED = 20
_TEXT, _SWITCH, _INTEGER = "a text in quotes", "true or false", "a whole number from 0"
_ROLES = 'a list of roles such as ["approver"]'
_ROLES_OR_SWITCH = f"true, false, or {_ROLES}"
_EXPECTED: dict[type[Struct], dict[str, str]] = {
    Flow: {
        "flow": "the slug of the flow",
        "initialStep": "the name of the step that it begins with",
        "steps": "an object of steps by their names",
        "config": "an object with queryParam, services, modules, pathes, defaultFlow",
        "prefabs": "an object of tokens by the names of steps",
        "ttl": 'an ISO 8601 duration such as "P30D"',
        "resettable": _ROLES_OR_SWITCH,
        "clearable": _ROLES_OR_SWITCH,
        "instances": '"one" or "many"',
        "participants": "an object of the roles that people have on a state, by their names",
        "sensitive": 'an object of roles by fields such as {"/iban": ["clerk"]}',
        "visible": 'an object of fields by roles such as {"clerk": ["/amount"]}',
        "searchable": 'a list of JSON pointers such as ["/orderNumber"]',
    },
    FlowParticipant: {
        "group": "the name of a group of users, as tokens list it",
        "assignable": _ROLES_OR_SWITCH,
        "claim": 'an ISO 8601 duration such as "PT15M"',
        "takeOver": _ROLES,
    },
    FlowConfig: {
        "queryParam": "the name of a URL parameter",
        "services": "an object of texts by the names that steps refer to",
        "modules": "an object of texts by the names that steps refer to",
        "pathes": "an object of texts by the names that steps refer to",
        "defaultFlow": "the slug of a flow",
    },
    FlowStep: {
        "index": f"{_INTEGER} that no other step has",
        "step": "the name of the step, the same as its key",
        "service": "the name of the service that hosts the step",
        "transitions": "an object of transitions by their names, {} for a step that ends the flow",
        "initial": _SWITCH,
        "payloadMap": "an object of positions by keys of the payload",
        "timeout": 'an object such as {"after": "P2D", "transition": "remind"}',
    },
    FlowTimeout: {
        "after": 'an ISO 8601 duration such as "PT15M"',
        "transition": "the name of a transition of the step",
        "resume": '"absolute", "remaining" or "restart"',
    },
    FlowTransition: {
        "transition": "the name of the transition, the same as its key",
        "step": "the name of the step that it leads to",
        "explicit": _SWITCH,
        "reversible": _SWITCH,
        "guard": "a condition in CEL, as a text in quotes",
        "payloadSchema": "a JSON Schema, as an object",
        "assign": 'a list such as [{"role": "approver", "from": "payload.approver"}]',
        "notBy": 'a list of names of transitions such as ["submit"]',
        "approvals": 'an object such as {"of": "approver", "count": 2}',
        "conflict": '"retry", "reject", or an object such as {"merge": ["/amount"]}',
    },
    FlowApprovals: {
        "of": "the role of the people who vote, as in `participants`",
        "count": "the number of votes that move the state, from 2",
    },
    FlowMerge: {
        "merge": 'a list of JSON pointers to fields of the payload such as ["/amount", "/address/street"]',
    },
    FlowAssignment: {
        "role": "the role that people get, as in `participants`",
        "from": "the member of the payload that has their ids, such as payload.approver",
    },
}
_EXPECTED_ANYWHERE = {"meta": "an object", "roles": _ROLES}
_EXPECTED_WITHIN = {
    "sensitive": _ROLES,
    "visible": 'a list of JSON pointers such as ["/amount", "/items/*/price"]',
    "searchable": 'a JSON pointer to a field of the payload such as "/orderNumber"',
    "merge": 'a JSON pointer to a field of the payload such as "/amount"',
    "steps": "an object with index, step, service and transitions",
    "transitions": "an object with transition and step",
    "payloadMap": _INTEGER,
    "participants": 'an object such as {"assignable": true}',
    "assign": "an object with role and from",
}
"""The types of members whose names are chosen by the author."""
_MISSING = re.compile(r'"(\w+)" is a required property\Z')
_UNKNOWN = "Additional properties are not allowed"


def schema_findings(raw: object, others: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the faults of members and types, except those at the place of ``others``, the known errors."""
    faults = faults_of(raw, Flow)
    reported = {finding.pointer for finding in others}
    for fault in faults:
        missing = _MISSING.match(fault.message)
        if missing:
            if missing[1] not in _misspelt(raw, fault.pointer).values():
                expected = _expected(f"{fault.pointer}/{missing[1]}")
                yield error(fault.pointer, fault.message, f"add {missing[1]!r}: {expected}")
        elif fault.message.startswith(_UNKNOWN):
            yield error(fault.pointer, fault.message, _advice_about_unknown(raw, fault.pointer))
        elif fault.pointer not in reported and not (reported and _is_placeless(raw, fault)):
            yield error(fault.pointer, fault.message, _advice_about_type(fault))


def _is_placeless(raw: object, fault: Fault) -> bool:
    """True for a fault whose place could not be determined."""
    return fault.pointer == "" and isinstance(raw, dict)


def _advice_about_type(fault: Fault) -> str:
    give = f"give {_expected(fault.pointer)}"
    parent, _, member = fault.pointer.rpartition("/")
    is_optional = any(field.encode_name == member and not field.required for field in _fields(parent))
    return f"leave it out, or {give}" if is_optional else give


def _advice_about_unknown(raw: object, pointer: str) -> str:
    renamed = [f"write {known!r} for {given!r}" for given, known in _misspelt(raw, pointer).items()]
    if renamed:
        return ", ".join(renamed)
    known = _known_members(pointer)
    meta_hint = "; data of your own goes into 'meta'" if "meta" in known else ""
    return f"leave it out; there is {', '.join(known)}{meta_hint}"


def _misspelt(raw: object, pointer: str) -> dict[str, str]:
    """Return the unknown members of the object at a pointer that resemble a missing one."""
    given, known = value_at(raw, pointer), _known_members(pointer)
    missing = [name for name in known if name not in given]
    unknown = (name for name in given if name not in known)
    found = {name: nearest(name, missing) for name in islice(unknown, _MAX_COMPARED)}
    return {name: known for name, known in found.items() if known is not None}


def _expected(pointer: str) -> str:
    parent, _, member = pointer.rpartition("/")
    shape = _shape_at(parent)
    if pointer == "":
        return "a flow: an object with flow, initialStep and steps"
    if shape is not None:
        return _EXPECTED[shape].get(member) or _EXPECTED_ANYWHERE.get(member, _TEXT)
    return _EXPECTED_WITHIN.get(parent.rpartition("/")[2], _TEXT)


def _shape_at(pointer: str) -> type[Struct] | None:
    return next((shape for place, shape in _SHAPES_BY_POINTER if place.match(pointer)), None)


def _fields(pointer: str) -> tuple[msgspec.structs.FieldInfo, ...]:
    shape = _shape_at(pointer)
    return () if shape is None else msgspec.structs.fields(shape)


def _known_members(pointer: str) -> list[str]:
    return [field.encode_name for field in _fields(pointer)]
