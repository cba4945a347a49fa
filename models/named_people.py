"""Updates of stored records that put the pseudonym of a person in the place of the id."""

from typing import Any

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.pseudonyms import NAMING, without_person
from models.codec import Document, record_from_document, record_to_document

_OF_RECORD = ("actor", "actorSalt", "named")
_OF_STATE = (*NAMING, "people")


def person_update(document: Document, user_id: str) -> Document:
    """Return the update of a stored record that removes a person from it.

    Args:
        document: The record, with or without its payloads.
        user_id: The person.

    Returns:
        An update of the fields about people alone. Those of an unreadable record are removed.
    """
    try:
        changed = record_to_document(without_person(record_from_document(document), user_id))
    except FlowStateCorruptionError:
        changed = {"actor": "" if document.get("actor") == user_id else document.get("actor")}
    values: dict[str, Any] = {name: changed.get(name) for name in _OF_RECORD}
    if isinstance(document.get("after"), dict):
        after = changed.get("after", {})
        values |= {f"after.{name}": after.get(name) for name in _OF_STATE}
    present = {field: value for field, value in values.items() if value is not None}
    absent = {field: "" for field, value in values.items() if value is None}
    return {**({"$set": present} if present else {}), **({"$unset": absent} if absent else {})}
