"""Definitions with faults of all kinds, made from sound and broken ones."""

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from tests.support.corpus import BROKEN, SOUND, read

DEFINITIONS = [read(file) for file in (*SOUND, *BROKEN)]
SOUND_ONES = [read(file) for file in SOUND]
VALUES: list[Any] = [
    *("", "a", "b", "go", "$x", "-", "P1D", "PT1S", "now", "state.ok", "payload.a > 1", "false"),
    *("\0", "\ud800", "~1/"),
    *(None, True, False, 0, 1, -1, 2**63, 0.0, 1.5, float("nan"), [], {}, [""], {"": None}, ["a", "a"]),
    *({"type": "object"}, {"required": ["a"]}, {"$ref": "#"}, {"after": "PT1S", "transition": "go"}),
    *({"go": {"transition": "go", "step": "a"}}, {"a": 0, "b": 0}, {"a": 10**9}, (1,), b"x", {1: 2}),
    *("many", "payload.a", ["go"], ["approver"], {"approver": {}}, {"": {"claim": "PT1H"}}, {"a": None}),
    *([{"role": "approver", "from": "payload.a"}], {"of": "approver", "count": 2}, {"group": "finance"}),
]  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def paths(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside a value."""
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    return [path for name, member in members for path in ((*at, name), *paths(member, (*at, name)))]


def inside(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


@st.composite
def spoilt(draw: st.DrawFn, of: list[Any], most: int = 6) -> Any:
    """A definition with some values replaced, removed, or put in the place of others."""
    raw = deepcopy(draw(st.sampled_from(of)))
    for _ in range(draw(st.integers(1, most))):
        ways = paths(raw)
        if not ways:
            break
        path = draw(st.sampled_from(ways))
        around, name = inside(raw, path[:-1]), path[-1]
        match draw(st.sampled_from(["value", "random", "out", "other", "renamed"])):
            case "value":
                around[name] = deepcopy(draw(st.sampled_from(VALUES)))
            case "random":
                around[name] = draw(json_values)
            case "out":
                del around[name]
            case "other":
                around[name] = deepcopy(inside(raw, draw(st.sampled_from(ways))))
            case "renamed" if isinstance(around, dict):
                around[draw(st.sampled_from(["a", "", "go", "/", "x" * 99]))] = around.pop(name)
    return raw
