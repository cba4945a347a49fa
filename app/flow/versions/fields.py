"""Effects of changed rules about the fields that readers see, and by which states are found."""

from collections.abc import Iterator

from app.contracts.flow import Flow
from app.contracts.migration import Reason
from app.flow.values.struct_errors import escape

_MOVED = "on running states once they are moved; records of the earlier version stay as they were"
_REVEALED = f"Readers see the field, which was sensitive: {_MOVED}"
_MORE_READERS = f"Readers with {{}} see the sensitive field: {_MOVED}"
_FEWER_READERS = "Readers with {} do not see the sensitive field any more"
_HIDDEN = "The field is sensitive now: readers without one of its roles do not see it"
_ALL_VISIBLE = f"People with roles on a state see every field of its payload that is not sensitive: {_MOVED}"
_RESTRICTED = "People with roles on a state see the listed fields alone"
_OTHER_FIELDS = "Readers with the role see other fields"
_SEARCHABLE = "States are found by these fields after their next change on this version"


def field_reasons(old: Flow, new: Flow, member: str) -> Iterator[Reason]:
    """Yield the effects of a changed ``sensitive``, ``visible`` or ``searchable``."""
    if member == "searchable":
        yield Reason("/searchable", "compatible", _SEARCHABLE)
    elif member == "sensitive":
        yield from _sensitive_reasons(old.sensitive or {}, new.sensitive or {})
    else:
        yield from _visible_reasons(old.visible, new.visible)


def _sensitive_reasons(old: dict[str, list[str]], new: dict[str, list[str]]) -> Iterator[Reason]:
    if not old and not new:
        yield Reason("/sensitive", "safe", "No field is sensitive, as before")
    for pointer, roles in new.items():
        at = f"/sensitive/{escape(pointer)}"
        if pointer not in old:
            yield Reason(at, "compatible", _HIDDEN)
            continue
        more, fewer = (_listed(a, b) for a, b in ((roles, old[pointer]), (old[pointer], roles)))
        if more:
            yield Reason(at, "compatible", _MORE_READERS.format(more))
        if fewer:
            yield Reason(at, "compatible", _FEWER_READERS.format(fewer))
        if not more and not fewer and roles != old[pointer]:
            yield Reason(at, "safe", "The same roles see the field, as before")
    for pointer in old:
        if pointer not in new:
            yield Reason(f"/sensitive/{escape(pointer)}", "compatible", _REVEALED)


def _visible_reasons(old: dict[str, list[str]] | None, new: dict[str, list[str]] | None) -> Iterator[Reason]:
    if new is None or old is None:
        yield Reason("/visible", "compatible", _ALL_VISIBLE if new is None else _RESTRICTED)
        return
    for role in dict.fromkeys([*new, *old]):
        if new.get(role) != old.get(role):
            yield Reason(f"/visible/{escape(role)}", "compatible", _OTHER_FIELDS)
    if new == old:
        yield Reason("/visible", "safe", "The same fields are shown, as before")


def _listed(roles: list[str], without: list[str]) -> str:
    return ", ".join(repr(role) for role in dict.fromkeys(roles) if role not in without)
