"""Versions of a flow, drawn commands, and damages, for the model of one user's state."""

from datetime import timedelta
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.model_conflicts import DECLARED
from tests.support.model_values import Command, Step, Version

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)

FIRST = {
    "form": Step(
        {
            "remind": ("form", "merge"),
            "send": ("review", "reversible merge"),
            "skip": ("done", "explicit reversible"),
        },
        (10 * MINUTE, "remind", "remaining"),
    ),
    "review": Step(
        {"accept": ("sign", ""), "send": ("form", "reversible"), "lapse": ("form", "reversible")},
        (20 * MINUTE, "lapse", "absolute"),
    ),
    "sign": Step({"accept": ("done", ""), "lapse": ("review", "")}, (5 * MINUTE, "lapse", "restart")),
    "done": Step({}),
}
SECOND = FIRST | {
    "form": Step({"send": ("sign", "explicit"), "remind": ("form", "reversible")}),
    "review": Step({"lapse": ("done", "")}, (40 * MINUTE, "lapse", "restart")),
    "done": Step({"send": ("form", "")}),
}
VERSIONS = [Version(FIRST, timedelta(days=2)), Version(SECOND, 6 * HOUR), Version(FIRST, 6 * HOUR)]

NAMES = st.sampled_from([*FIRST, "nowhere"])
WHY = st.sampled_from(["", "why"])
PAYLOADS = st.sampled_from([{}, {"a": 1}, {"a": "x", "b": [1, {"c": None}]}, {"b": 2.5}, {"c": "x" * 80}])
WHAT_FOR = {"service": st.sampled_from(["", "web"]), "entity_id": st.none() | WHY, "payload": PAYLOADS}


def _commands(name: str, given: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Command]:
    return st.builds(Command, st.just(name), st.fixed_dictionaries(given, optional=optional))


STARTS = _commands("start", {}, {"step": NAMES, **WHAT_FOR})
TRANSITIONS = _commands(
    "transition",
    {"transition": st.sampled_from(["remind", "send", "send", "skip", "accept", "lapse", "fly"])},
    {"payload": PAYLOADS, "message": WHY, "ok": st.booleans()},
)
EDITS = _commands(
    "transition",
    {
        "transition": st.sampled_from(["remind", "remind", "remind", "send"]),
        "payload": st.dictionaries(st.sampled_from("aaab"), st.integers(0, 9), min_size=1),
    },
    {},
)
"""Transitions whose payloads often meet."""
BACKS = _commands("back", {}, {})
RESETS = _commands("reset", {}, {"step": NAMES})
SETS = _commands("set", {"step": NAMES}, {"previous": NAMES, "message": WHY, "ok": st.booleans(), **WHAT_FOR})
CLEARS = _commands("clear", {}, {})
PAUSES = _commands("pause", {"reason": st.just("why")}, {})
RESUMES = _commands("resume", {}, {})
WORKERS = st.integers(0, 1)
BATCHED = ("transition", "reset", "set", "pause", "resume")


class How(NamedTuple):
    """The sender of a command, its worker, how often it is sent at once, and its conditions."""

    worker: int
    actor: str
    times: int
    request: str
    expected: str
    pick: int


HOW = st.builds(
    How,
    WORKERS,
    st.sampled_from(["ada", "boss"]),
    st.sampled_from([*[1] * 10, 2, 3]),
    st.sampled_from(["none", "new", "new", "new", "new", "new", "repeat", "clash"]),
    st.sampled_from([*["none"] * 10, "revision", "position", "stale", "older", "older", "other life"]),
    st.integers(0, 30),
)
UNREADABLE: list[dict[str, Any]] = [
    {"$unset": {"step": ""}},
    {"$unset": {"epoch": ""}},
    {"$set": {"revision": "seven"}},
    {"$set": {"status": "odd"}},
    {"$set": {"payload": 7}},
    {"$set": {"version": "1"}},
    {"$set": {"updatedAt": "yesterday"}},
    {"$set": {"head": 7}},
    {"$push": {"outbox": {"_id": "x"}}},
    {"$push": {"recent": {"k": "x"}}},
]
UNFIT: list[dict[str, Any]] = [{"step": "nowhere"}, {"version": 99}]
FORGED: list[dict[str, Any]] = [{"message": "forged"}, {"previous": "nowhere"}, {"head": "0" * 64}]


def _member(mark: str) -> tuple[str, Any]:
    """Return the member of a transition that a mark stands for."""
    return ("conflict", {"merge": [f"/{n}" for n in DECLARED]}) if mark == "merge" else (mark, True)


def definition_of(slug: str, steps: dict[str, Step]) -> dict[str, Any]:
    """Return a definition with these steps, which begins at the first one."""
    whole: dict[str, Any] = {"flow": slug, "initialStep": next(iter(steps)), "steps": {}}
    for index, (name, step) in enumerate(steps.items()):
        transitions = {
            key: {"transition": key, "step": target, **dict(map(_member, marks.split()))}
            for key, (target, marks) in step.transitions.items()
        }
        whole["steps"][name] = {"index": index, "step": name, "service": "s", "transitions": transitions}
        if step.timeout is not None:
            after, transition, resume = step.timeout
            due = {"after": f"PT{after // MINUTE}M", "transition": transition, "resume": resume}
            whole["steps"][name]["timeout"] = due
    return whole
