"""Faults of a decoded value against a msgspec type, each with its JSON pointer."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec

from app.contracts.errors import MAX_FAULTS, Fault
from app.kit.integers import convert_json

MAX_SHOWN_CHARACTERS = 80
ERROR_BYTES = 2500
"""Memory of an error of the library, without the parts of the value that it repeats."""
MAX_ERRORS_BYTES = 33_554_432
"""Memory of all errors of a value together."""
HALF_PAIR = "is not Unicode: it has half of a surrogate pair, such as \\ud83d; send whole characters"


def escape(segment: object) -> str:
    """Return a segment of a JSON pointer (RFC 6901) for a name or a position."""
    return str(segment).replace("~", "~0").replace("/", "~1")


def faults_of(value: object, shape: type) -> list[Fault]:
    """Return the faults of a value, at most ``MAX_FAULTS``; only the first of a large value.

    msgspec stops at the first fault; the JSON Schema that it derives from the same type does not.
    """
    faults = []
    try:
        for error in errors_of(_validator(shape), value):
            pointer = "".join(f"/{escape(segment)}" for segment in error.instance_path)
            faults.append(Fault(pointer, _message(error)))
            if len(faults) == MAX_FAULTS:
                return faults
    except ValueError:  # not JSON, or nested too deep for the library: msgspec reports what it can
        faults.clear()
    if not faults:
        try:
            convert_json(value, shape)
        except msgspec.ValidationError as refusal:
            faults.append(_fault_of(refusal))
        except UnicodeEncodeError:
            faults.append(Fault("", "The value has text with lone surrogates"))
        except RecursionError:
            faults.append(Fault("", "The value is nested too deep"))
    return faults


def errors_of(
    validator: Any, value: object, visits: int | None = None
) -> Iterator[jsonschema_rs.ValidationError]:
    """Yield all errors of a value, or only the first where all might take too much memory.

    The library collects all errors first, and each repeats the path to a part of the value, and the part.

    Args:
        validator: A validator of jsonschema-rs.
        value: The value to validate.
        visits: The number of visits of schemas to parts of the value; one for each part by default.
    """
    if _errors_bytes(value, visits) <= MAX_ERRORS_BYTES:
        yield from validator.iter_errors(value)
        return
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as first:
        yield first


def _errors_bytes(value: object, visits: int | None) -> float:
    """Estimate the memory of all errors: one at each part of a value, and what each visit repeats."""
    repeated = count = 0
    pending = [(value, 0, 1)]
    while pending:
        part, path_length, depth = pending.pop()
        count += 1
        repeated += path_length
        if isinstance(part, str):
            repeated += len(part) * depth  # each value around it repeats it
        elif isinstance(part, dict):
            repeated += sum(map(len, part)) * depth
            pending += [(member, path_length + len(name), depth + 1) for name, member in part.items()]
        elif isinstance(part, list):
            pending += [(member, path_length, depth + 1) for member in part]
    return count * ERROR_BYTES + repeated * (1 if visits is None else visits / count)


def _message(error: jsonschema_rs.ValidationError) -> str:
    if isinstance(
        error.kind, jsonschema_rs.ValidationErrorKind.Enum
    ):  # the message of the library names only two of them
        choices = ", ".join(json.dumps(option, ensure_ascii=False) for option in error.kind.options)
        return (
            f"{json.dumps(error.instance, ensure_ascii=False)[:MAX_SHOWN_CHARACTERS]} is not one of {choices}"
        )
    return error.message


def _fault_of(refusal: msgspec.ValidationError) -> Fault:
    """Convert an error of msgspec, whose message ends in `` - at `$.a.b` ``."""
    message, _, path = str(refusal).partition(" - at `$")
    plain = re.sub(r"\[(\d+)\]", r".\1", path.rstrip("`"))
    # For a member of a map the message has [...] instead of its name.
    return Fault("" if "[" in plain else plain.replace(".", "/"), message)


@cache
def _validator(shape: type) -> Any:
    (schema,), definitions = msgspec.json.schema_components([shape], ref_template="#/$defs/{name}")
    return jsonschema_rs.Draft202012Validator(_with_own_pointers({**schema, "$defs": definitions}))


def _with_own_pointers(schema: Any) -> Any:
    """Rewrite ``anyOf`` of null, or of other values than objects, and X as if/else.

    So errors in X have their own pointer.
    """
    if isinstance(schema, list):
        return [_with_own_pointers(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _with_own_pointers(member) for name, member in schema.items()}
    options = schema.get("anyOf", [])
    structs = [option for option in options if "$ref" in option]
    others = [option for option in options if "$ref" not in option]
    if len(structs) == 1 and len(others) > 1:
        del schema["anyOf"]
        rest = _with_own_pointers({"anyOf": others})
        return {**schema, "if": {"type": "object"}, "then": structs[0], "else": rest}
    others = [option for option in options if option != {"type": "null"}]
    if len(others) != 1 or len(options) != 2:
        return schema
    del schema["anyOf"]
    return {**schema, "if": {"type": "null"}, "else": others[0]}


def surrogate_faults(raw: bytes) -> list[Fault]:
    """Return the faults of JSON with halves of surrogate pairs, which the decoder does not locate."""
    if rb"\ud" not in raw.lower():
        return []
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return []
    faults: list[Fault] = []
    pending = [("", value)]
    while pending and len(faults) < MAX_FAULTS:
        at, part = pending.pop()
        members: list[tuple[str, Any]] = []
        if isinstance(part, str) and not _is_unicode(part):
            faults.append(Fault(at, f"The text {HALF_PAIR}"))
        elif isinstance(part, list):
            members = [(f"{at}/{index}", member) for index, member in enumerate(part)]
        elif isinstance(part, dict):
            for name, member in part.items():
                place = f"{at}/{escape(name).encode('utf-8', 'backslashreplace').decode()}"
                if not _is_unicode(name):
                    faults.append(Fault(place, f"The name {HALF_PAIR}"))
                members.append((place, member))
        pending += reversed(members)
    return faults[:MAX_FAULTS]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
