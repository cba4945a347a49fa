"""Conflicts of transitions in the model of one user's state, written from the documents."""

from typing import Any

State = dict[str, Any]
DECLARED = ("a",)
"""The fields that transitions with the mark ``merge`` may merge."""


def merge(history: list[State], present: State, expected: tuple[int, int | None], given: State) -> Any:
    """Return the merged fields of a request that names a revision; None if it is refused.

    The payloads of the model have no objects as members, so that fields are members.
    """
    revision, life = expected
    if not 0 <= revision < present["revision"] or life not in (None, present["epoch"]):
        return None
    known = [
        record["after"]
        for record in history
        if record["success"] and (record["epoch"], record["revision"]) == (present["epoch"], revision)
    ]
    sent = given.get("payload", {})
    if not sent:
        return []
    if not known:
        return None
    base, now = known[0].get("payload", {}), present.get("payload", {})
    changed = [
        name
        for name, value in sent.items()
        if (name in base, base.get(name)) != (name in now, now.get(name))
        and (name not in now or now[name] != value)
    ]
    if any(name not in DECLARED for name in changed):
        return None
    return [
        {"pointer": f"/{name}", **({"theirs": now[name]} if name in now else {}), "ours": sent[name]}
        for name in changed
    ]
