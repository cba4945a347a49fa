"""Later versions of flows, for tests."""

import copy
from typing import Any


def edited(flow: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A copy with other members. Members of steps by ``a__index=1``, of transitions by ``a__go__step="c"``;
    None takes one away."""
    later = copy.deepcopy(flow)
    for path, value in members.items():
        *names, member = path.split("__")
        place = later
        if names:
            place = place["steps"][names[0]]
        if len(names) == 2:
            place = place["transitions"][names[1]]
        if value is None:
            place.pop(member)
        else:
            place[member] = value
    return later


def renamed(flow: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """A copy in which a step has another name, wherever it is named."""
    later = copy.deepcopy(flow)
    later["steps"] = {new if name == old else name: step for name, step in later["steps"].items()}
    later["steps"][new]["step"] = new
    for step in later["steps"].values():
        for transition in step["transitions"].values():
            if transition["step"] == old:
                transition["step"] = new
    if later["initialStep"] == old:
        later["initialStep"] = new
    return later


def without(flow: dict[str, Any], gone: str, instead: str) -> dict[str, Any]:
    """A copy without a step; what led there leads ``instead`` elsewhere."""
    later = copy.deepcopy(flow)
    del later["steps"][gone]
    for step in later["steps"].values():
        for transition in step["transitions"].values():
            if transition["step"] == gone:
                transition["step"] = instead
    return later
