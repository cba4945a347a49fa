"""People of a state other than its owner: their roles, claims, votes and transitions."""

import re
from datetime import datetime
from hashlib import sha256

from msgspec import UNSET, Struct, UnsetType

_PSEUDONYM = re.compile(r"person:[0-9a-f]{32}\Z")


class Participant(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """A role on a state, and who has it: a user, or every user whose token lists the ``group``."""

    role: str
    user_id: str | UnsetType = UNSET
    group: str | UnsetType = UNSET


class Claim(Struct, frozen=True, rename="camel"):
    """A lease on the tasks of a role: ``user_id`` alone of those with ``role`` may act, until ``until``."""

    role: str
    user_id: str
    until: datetime


class TransitionBy(Struct, frozen=True, rename="camel"):
    """A transition and who ran it, or voted for it."""

    transition: str
    user_id: str


class PersonSalt(Struct, frozen=True, rename="camel"):
    """A person whom records of a state name, and the salt of the commitment to the id in their hashes."""

    user_id: str
    salt: str


def pseudonym(salt: str, user_id: str) -> str:
    """Return the text that hashes cover instead of the id of a person, and that an erasure leaves."""
    return f"person:{sha256(f'{salt}{user_id}'.encode()).hexdigest()[:32]}"


def is_pseudonym(text: str) -> bool:
    """Return whether a text has the form of a pseudonym, which no user id may have."""
    return text.startswith("person:") and _PSEUDONYM.match(text) is not None
