"""Pseudonyms of people whom states and records name beside the owner (docs/decisions/0022).

The hash of a record covers the pseudonym of a person instead of the id. So an erasure can put the pseudonym
in the place of the id, in every record and in the state, and the chain still verifies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, UnsetType, structs

from app.contracts.people import PersonSalt, pseudonym
from app.contracts.record import HistoryRecord
from app.contracts.state import FlowState

NAMING = ("participants", "claims", "votes", "runs")
"""Members of a state whose entries name a person by ``user_id``."""


def pseudonyms_of(people: Sequence[PersonSalt] | UnsetType) -> dict[str, str]:
    """Return the pseudonyms of people by their ids."""
    if people is UNSET:
        return {}
    return {person.user_id: pseudonym(person.salt, person.user_id) for person in people}


def named_people(record: HistoryRecord) -> list[str]:
    """Return the ids in a record that can be replaced by pseudonyms, without repetitions."""
    people = () if record.after is UNSET or record.after.people is UNSET else record.after.people
    ids = [person.user_id for person in people]
    if record.actor_salt is not UNSET:
        ids.append(record.actor)
    return list(dict.fromkeys(ids))


def state_without_person(state: FlowState, user_id: str) -> FlowState:
    """Return a state with the pseudonym of a person in the place of the id, and without the salt.

    A state that does not have the person's salt is returned as it is. ``people`` stays, though it may be
    empty: a state that ever had people is stored with more care than others.
    """
    if state.people is UNSET:
        return state
    theirs = tuple(person for person in state.people if person.user_id == user_id)
    if not theirs:
        return state
    others = tuple(person for person in state.people if person.user_id != user_id)
    changes: dict[str, Any] = {"people": others}
    names = pseudonyms_of(theirs)
    for member in NAMING:
        entries = getattr(state, member)
        if entries is not UNSET:
            changes[member] = tuple(_renamed(entry, names) for entry in entries)
    return structs.replace(state, **changes)


def without_person(record: HistoryRecord, user_id: str) -> HistoryRecord:
    """Return a record with the pseudonym of a person in the place of the id, and without the salt.

    A record that does not have the person's salt is returned as it is. The hash stays valid.
    """
    if record.after is not UNSET:
        after = state_without_person(record.after, user_id)
        if after is not record.after:
            record = structs.replace(record, after=after)
    if record.actor != user_id or record.actor_salt is UNSET:
        return record
    return structs.replace(record, actor=pseudonym(record.actor_salt, user_id), actor_salt=UNSET)


def _renamed(entry: Any, names: Mapping[str, str]) -> Any:
    name = names.get(entry.user_id)
    return entry if name is None else structs.replace(entry, user_id=name)
