"""The fields of a state document by which states are listed: those of an owner, those that wait, and terms.

They follow from the state. All are sparse in their indexes: a state that is not listed costs nothing.
"""

from msgspec import UNSET

from app.contracts.people import Participant
from app.contracts.state import TERMINAL_STATUSES, FlowState
from models.codec import Document

LISTING_FIELDS = ("listed", "waitsFor")
TERMS = "terms"
"""The values of searchable fields, in the clear."""


def listing_of(state: FlowState) -> Document:
    """Return the fields of a state that is listed, none for other states."""
    if state.status in TERMINAL_STATUSES:
        return {}
    document: Document = {}
    if state.instance_id is not UNSET:
        document["listed"] = state.place_in_list
    if state.awaits is not UNSET and state.participants is not UNSET and state.status == "active":
        waiting = {waiting_place(one) for one in state.participants if one.role in state.awaits}
        if waiting:
            document["waitsFor"] = sorted(waiting)
    if state.search_terms:
        document[TERMS] = list(state.search_terms)
    return document


def waiting_place(participant: Participant) -> str:
    """Return a text for a role and who has it; different ones have different texts."""
    role = participant.role.replace("%", "%25").replace(";", "%3B")
    kind, name = ("user", participant.user_id) if participant.group is UNSET else ("group", participant.group)
    return f"{role};{kind};{name}"
