"""Random sound flows, and random machines of XState as people write them."""

from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

from app.contracts.flow import Flow
from app.flow.validation import parse_flow

Json = dict[str, Any]

NAMES = ("a", "b", "next", "10", "2", "01", "4294967295", "__proto__", "constructor", "_", "A-b", "toString")
"""Some of which JavaScript takes for indexes, or for something else."""
LONG = timedelta(days=40)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts.map(lambda t: t.replace("\0", "")), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(["color", "server-flow", "meta", "2", "1"])
metas = st.dictionaries(
    keys,
    values | st.just({"index": 7, "meta": {}}),
    max_size=3,
)
plain_metas = st.dictionaries(keys, texts | st.just({"index": 7, "meta": {}}), max_size=3)
"""Without numbers that JavaScript changes."""
roles = st.lists(st.sampled_from(["clerk", "chief", "a b"]), max_size=2, unique=True)
durations = st.integers(1000, LONG // timedelta(milliseconds=1)).map(lambda ms: timedelta(milliseconds=ms))
guards = st.sampled_from(
    ["true", 'payload.n > 1 && user.id != "x"', "state.ok\n  || user.roles.exists(r, r == 'b')"]
)
schemas = st.sampled_from(
    [{}, {"type": "object"}, {"properties": {"n": {"type": "integer"}}, "required": ["n"]}]
)


def _optional(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=members)


@st.composite
def flows(draw: st.DrawFn, *, names: tuple[str, ...] = NAMES, metas: st.SearchStrategy[Json] = metas) -> Flow:
    """A flow that could be published."""
    steps = draw(st.lists(st.sampled_from(names), min_size=1, max_size=6, unique=True))
    indexes = draw(st.lists(st.integers(0, 2**40), min_size=len(steps), max_size=len(steps), unique=True))
    raw = {
        "flow": draw(st.sampled_from(["loop", "a.b", "_x-1"])),
        "initialStep": draw(st.sampled_from(steps)),
        "steps": {
            name: draw(_step(name, index, steps, names, metas))
            for name, index in zip(steps, indexes, strict=True)
        },
        **draw(
            _optional(
                title=texts,
                description=texts,
                meta=metas,
                ttl=durations,
                roles=st.lists(st.sampled_from(["clerk", "chief"]), min_size=1, max_size=2),
                resettable=st.booleans() | st.lists(st.sampled_from(["clerk", "chief"]), max_size=2),
                clearable=st.booleans() | st.lists(st.sampled_from(["clerk", "chief"]), max_size=2),
                config=_optional(
                    queryParam=texts,
                    services=st.dictionaries(st.sampled_from(NAMES), texts, max_size=2),
                    defaultFlow=st.just("loop"),
                ),
                prefabs=st.dictionaries(st.sampled_from(NAMES), texts, max_size=2),
            )
        ),
    }
    if draw(st.booleans()):
        _add_people(draw, raw)
    flow, _ = parse_flow(msgspec.to_builtins(raw))
    return flow


def _add_people(draw: st.DrawFn, raw: Json) -> None:
    """Add roles of participants and rules between people."""
    raw["instances"] = draw(st.sampled_from(["one", "many"]))
    roles = draw(st.lists(st.sampled_from(["clerk", "chief", "a b"]), min_size=1, unique=True))
    some_roles = st.lists(st.sampled_from(roles), max_size=2, unique=True)
    participant = _optional(
        group=st.just("finance"),
        assignable=st.booleans() | some_roles,
        claim=durations,
        takeOver=some_roles,
        title=texts,
    )
    raw["participants"] = {role: draw(participant) for role in roles}
    names = sorted({name for step in raw["steps"].values() for name in step["transitions"]})
    role = st.sampled_from(roles)
    assignment = st.fixed_dictionaries({"role": role, "from": st.just("payload.who")})
    votes = st.fixed_dictionaries({"of": role, "count": st.integers(1, 100)})
    rules = _optional(assign=st.lists(assignment, max_size=2))
    for step in raw["steps"].values():
        timed = step.get("timeout", {}).get("transition")
        for name, transition in step["transitions"].items():
            if draw(st.booleans()):
                transition["notBy"] = draw(st.lists(st.sampled_from(names), max_size=2))
            transition.update(draw(rules))
            if name != timed and draw(st.booleans()):
                transition["approvals"] = draw(votes)


@st.composite
def _step(
    draw: st.DrawFn,
    name: str,
    index: int,
    steps: list[str],
    names: tuple[str, ...],
    metas: st.SearchStrategy[Json],
) -> Json:
    ways: list[str] = draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    is_timed: bool = bool(ways) and draw(st.booleans())
    timed = draw(st.sampled_from(ways)) if is_timed else None
    timeout = {
        "after": draw(durations),
        "transition": timed,
        **draw(_optional(resume=st.sampled_from(["absolute", "remaining", "restart"]))),
    }
    return {
        "index": index,
        "step": name,
        "service": draw(texts),
        "transitions": {way: draw(_transition(way, steps, metas, is_timed=way == timed)) for way in ways},
        **({} if timed is None else {"timeout": timeout}),
        **draw(
            _optional(
                path=texts,
                module=texts,
                initial=st.booleans(),
                payloadMap=st.dictionaries(
                    texts.map(lambda t: t.replace("\0", "")), st.integers(0, 9), max_size=2
                ),
                title=texts,
                description=texts,
                meta=metas,
            )
        ),
    }


@st.composite
def _transition(
    draw: st.DrawFn, name: str, steps: list[str], metas: st.SearchStrategy[Json], *, is_timed: bool
) -> Json:
    conditions = {} if is_timed else {"guard": guards, "payloadSchema": schemas}
    return {
        "transition": name,
        "step": draw(st.sampled_from(steps)),
        **draw(
            _optional(
                explicit=st.booleans(),
                reversible=st.booleans(),
                roles=st.just([]) | roles,
                title=texts,
                description=texts,
                meta=metas,
                conflict=st.sampled_from(["retry", "reject", {"merge": ["/amount"]}]),
                **conditions,
            )
        ),
    }


EVENTS = ("GO", "BACK", "user.left", "user", "user.left.early")


@st.composite
def machines(draw: st.DrawFn, *, wildcards: bool) -> Json:
    """A machine with states in states, what they inherit, forbid and do when they are done, ids and delays;
    its guards are none, and it has no parallel and no history states."""
    tree: Json = {"id": "m", "initial": "", "states": {}}
    _grow(draw, tree, 0)
    paths = list(_paths(tree, ()))
    for path in draw(st.lists(st.sampled_from(paths), max_size=3)):
        _at(tree, path)["id"] = f"id-{'-'.join(path)}"
    for path in [(), *paths]:
        node = _at(tree, path)
        named = [*EVENTS, *(("*", "user.*") if wildcards else ())]
        on = draw(st.lists(st.sampled_from(named), max_size=3, unique=True))
        if on:
            node["on"] = {event: draw(_way(tree, path, paths)) for event in on}
        if "states" in node and path and draw(st.booleans()):
            node["onDone"] = draw(_way(tree, path, paths))
        if "states" not in node and draw(st.integers(0, 2)) == 0:
            delays = draw(st.lists(st.sampled_from([1000, 2500, 86_400_000]), min_size=1, unique=True))
            node["after"] = {str(delay): {"target": _named(draw, tree, path, paths)} for delay in delays}
    return tree


def _grow(draw: st.DrawFn, node: Json, depth: int) -> None:
    keys = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3 if depth else 4, unique=True))
    node["initial"] = draw(st.sampled_from(keys))
    node["states"] = {}
    for key in keys:
        child: Json = {}
        kind = draw(
            st.sampled_from(["atomic", "atomic", "final", "compound"] if depth < 2 else ["atomic", "final"])
        )
        if kind == "compound":
            _grow(draw, child, depth + 1)
        elif kind == "final":
            child["type"] = "final"
        node["states"][key] = child


def _paths(node: Json, path: tuple[str, ...]) -> Any:
    for key, child in node.get("states", {}).items():
        yield (*path, key)
        yield from _paths(child, (*path, key))


def _at(tree: Json, path: tuple[str, ...]) -> Json:
    for key in path:
        tree = tree["states"][key]
    return tree


@st.composite
def _way(draw: st.DrawFn, tree: Json, source: tuple[str, ...], paths: list[tuple[str, ...]]) -> Any:
    kind = draw(st.sampled_from(["name", "object", "object", "list", "forbidden", "acts"]))
    if kind == "forbidden":
        return {}
    if kind == "acts":
        return {"actions": draw(st.sampled_from(["note", [{"type": "note"}]]))}
    target = _named(draw, tree, source, paths)
    if kind == "name":
        return target
    way = {
        "target": target,
        **draw(_optional(reenter=st.booleans(), description=texts, meta=st.just({"color": "red"}))),
    }
    return way if kind == "object" else [way, target]


def _named(draw: st.DrawFn, tree: Json, source: tuple[str, ...], paths: list[tuple[str, ...]]) -> str:
    """A state as one may write it at ``source``."""
    target = draw(st.sampled_from(paths))
    ways = [f"#m.{'.'.join(target)}"]
    for length in range(1, len(target) + 1):
        at = _at(tree, target[:length])
        if "id" in at:
            ways.append(".".join([f"#{at['id']}", *target[length:]]))
    if len(target) > len(source) and target[: len(source)] == source:
        ways.append(f".{'.'.join(target[len(source) :])}")
    if source and len(target) >= len(source) and target[: len(source) - 1] == source[:-1]:
        ways.append(".".join(target[len(source) - 1 :]))
    return draw(st.sampled_from(ways))


_MEMBERS = (
    "id", "type", "initial", "states", "on", "after", "onDone", "history", "description", "meta", "always",
    "target", "guard", "actions", "cond", "delay", "1000", "xstate.after.5.m", "xstate.done.state.m", "*",
)  # fmt: skip
_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, 0, -1, 1.5, True, "", "x", "#", "#m", ".", "..", "a", "\\", 10**30),
        *([], [[]], [None], ["a", "b"], {}, {"type": 5}, {"target": None}, {"states": {}}, {"a": {}}),
        {"server-flow": {"index": [], "transitions": [1], "steps": {}, "timeout": 5, "roles": 5, "meta": 4}},
    ]
)


@st.composite
def spoiled(draw: st.DrawFn, machine: Json) -> Json:
    """A machine with something odd in it."""
    spoiled = deepcopy(machine)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([*_places(spoiled)]))
        odd = deepcopy(draw(_ODD))
        if isinstance(place, dict):
            place[draw(st.sampled_from([*_MEMBERS, *place]))] = odd
        else:
            place.append(odd)
    return spoiled


def _places(value: Any) -> Iterator[Any]:
    """All objects and lists in a value."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _places(inner)
