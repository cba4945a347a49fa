"""Salts of the people of a state, from which records make pseudonyms (app.contracts.people)."""

from collections.abc import Callable, Iterator

from msgspec import UNSET, UnsetType

from app.contracts.callers import Caller
from app.contracts.people import PersonSalt, is_pseudonym
from app.contracts.state import FlowState

People = tuple[PersonSalt, ...]


def with_people(
    before: People | UnsetType, state: FlowState, caller: Caller, new_salt: Callable[[], str]
) -> People | UnsetType:
    """Return the people whom any record of a state names, with a salt for each; the owner has none.

    Args:
        before: The people up to the change, with the salts that they retain.
        state: The state after the change.
        caller: The caller that makes the change: one who acts by a role on the state is such a person.
        new_salt: Creates a salt.
    """
    named = dict.fromkeys(_named_users(state))
    if not caller.acts_for_all:
        named[caller.user_id] = None
    named.pop(state.user_id, None)
    if not named:
        return before
    known = set() if before is UNSET else {person.user_id for person in before}
    added = tuple(
        PersonSalt(user_id, new_salt())
        for user_id in named
        if user_id not in known and not is_pseudonym(user_id)
    )
    return (*(before or ()), *added) if added else before


def _named_users(state: FlowState) -> Iterator[str]:
    """Yield the ids of users in the members about people."""
    if state.participants is not UNSET:
        yield from (each.user_id for each in state.participants if each.user_id is not UNSET)
    for entries in (state.claims, state.votes, state.runs):
        if entries is not UNSET:
            yield from (each.user_id for each in entries)
