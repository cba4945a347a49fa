"""Inputs of the guards of one read, and the budget that they share."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from cel_expr_python import cel
from msgspec import UNSET

from app.contracts.callers import Caller
from app.contracts.state import FlowState, Payload
from app.flow.conditions.cel_environment import CelEnvironment
from app.flow.conditions.evaluation_breaker import Place
from app.flow.conditions.value_sizes import Size, SizeOfObject, size_of, work_of
from app.flow.values.storable_json import count_nodes

MAX_LOOPED_BYTES = 16_384
MAX_LOOPED_MEMBERS = 500
"""Limits of both payloads together for a guard that loops or matches: their size as JSON, and the members of
all lists and objects in them. Lists are copied at each step, and a pattern visits each character."""
MAX_GUARD_COST = 25_000_000
MAX_READ_COST = 50_000_000
"""The largest cost of one guard, and of all guards of one read together, in nanoseconds (``guard_cost``)."""
MAX_READ_SECONDS = 0.25
"""Time of all guards of one read together: after it no further guard is evaluated."""
MANY_STATES_FACTOR = 4
"""Factor of the budget of a read of many states."""

Reads = Mapping[str, set[str] | None]
"""The variables that a guard reads, with the members of them that it names (None: any)."""


class GuardBudget:
    """The budget of the guards that share it.

    ``skipped`` counts the guards that were not evaluated because they cost too much. ``seconds`` is the time
    spent on counting the cost of all guards and on evaluating the others.

    Args:
        limit: Cost of all guards together, in nanoseconds.
        max_seconds: Time after which no further guard is evaluated.
    """

    def __init__(self, limit: float = MAX_READ_COST, max_seconds: float = MAX_READ_SECONDS) -> None:
        self._left = limit
        self._max_seconds = max_seconds
        self.seconds = 0.0
        self.skipped = 0

    @classmethod
    def of_many(cls) -> "GuardBudget":
        """Return the budget of a read of many states."""
        return cls(MANY_STATES_FACTOR * MAX_READ_COST, MANY_STATES_FACTOR * MAX_READ_SECONDS)

    def evaluate(
        self, cost: Callable[[], float], evaluate: Callable[[], cel.Value | None]
    ) -> cel.Value | None:
        """Count the cost of a guard, and evaluate it if the budget allows.

        The clock also runs while the cost is counted.

        Returns:
            The value; None if the guard costs more than one guard may or than is left, or if ``evaluate``
            returned None.
        """
        if self.seconds >= self._max_seconds:
            self.skipped += 1
            return None
        found = None
        began = time.perf_counter()
        try:
            counted = cost()
            if counted <= min(self._left, MAX_GUARD_COST):
                self._left -= counted
                found = evaluate()
        finally:
            self.seconds += time.perf_counter() - began
        self.skipped += found is None
        return found


class GuardInputs:
    """The values that the guards of one read can use.

    Args:
        state: The state before the transition; None for a guard that reads nothing.
        payload: The payload of the transition.
        caller: The effective caller that runs it.
        now: The time that guards see.
    """

    def __init__(
        self, state: FlowState | None, payload: Payload, caller: Caller | None, now: datetime | None
    ) -> None:
        self.values: dict[str, Any] = {"payload": payload, "state.payload": {}}
        if state is not None and caller is not None:
            self.values = _values(state, payload, caller, now)
        self._activations: dict[str, cel.Activation] = {}
        self._seen: set[str] = set()
        self._works: dict[tuple[str, str | None], float] = {}
        self._sizes: dict[tuple[str, str | None], Size] = {}
        self._too_much: str | None = None

    def place(self, transition: str) -> Place:
        """Return the place of a transition of the state's step, for the log."""
        return Place(self.values.get("state.flow", ""), self.values.get("state.step", ""), transition)

    def arguments(self, key: str, reads: Reads, environment: CelEnvironment) -> dict[str, Any]:
        """Return the values that a guard reads, as arguments of the library's ``eval``.

        An activation converts values to CEL once, but costs as much as a small guard by itself: it is made
        for the second guard that reads the same values.

        Args:
            key: A text that identifies ``reads``.
            reads: The variables and members that the guard reads.
            environment: The environment in which the guard was compiled.
        """
        activation = self._activations.get(key)
        if activation is not None:
            return {"activation": activation}
        sent = {name: self._read_value(name, members) for name, members in reads.items()}
        if key not in self._seen:
            self._seen.add(key)
            return {"data": sent}
        activation = self._activations[key] = environment.activation(sent)
        return {"activation": activation}

    def knows(self, key: str) -> bool:
        """True if the values of a key are converted to CEL already."""
        return key in self._activations

    def work(self, reads: Reads) -> float:
        """Return the cost of converting the values to CEL, in nanoseconds."""
        total = 0.0
        for name, members in reads.items():
            value = self.values.get(name)
            if members is None or type(value) is not dict:
                total += self._work_of(name, None, value)
                continue
            for member in members:
                total += self._work_of(name, member, value.get(member))
        return total

    def _work_of(self, name: str, member: str | None, value: Any) -> float:
        kind = type(value)
        if kind is not list and kind is not dict:
            return work_of(value) if kind is str else 0.0
        found = self._works.get((name, member))
        if found is None:
            found = self._works[name, member] = work_of(value)
        return found

    def sizes(self, reads: Reads) -> dict[str, Size]:
        """Return the sizes of the variables that are read."""
        return {name: self._size_of_variable(name, members) for name, members in reads.items()}

    def _size_of_variable(self, name: str, members: set[str] | None) -> Size:
        value = self._read_value(name, members)
        if members is None or not isinstance(value, dict):
            return self._size_of(name, None, value)
        return SizeOfObject({member: self._size_of(name, member, value[member]) for member in value})

    def payloads(self, reads: Reads) -> dict[str, Any]:
        """Return the parts of payloads that are read."""
        return {name: self._read_value(name, members) for name, members in reads.items()}

    def too_much(self) -> str | None:
        """Return the reason why a guard that loops or matches cannot be evaluated; None if it can."""
        if self._too_much is None:
            self._too_much = _too_much(self.values["payload"], self.values["state.payload"])
        return self._too_much or None

    def _read_value(self, name: str, members: set[str] | None) -> Any:
        """Return the value of a variable with the members that can be read, as converting each has a cost."""
        value = self.values.get(name)
        if members is None or not isinstance(value, dict):
            return value
        return {member: value[member] for member in members if member in value}

    def _size_of(self, name: str, member: str | None, value: Any) -> Size:
        found = self._sizes.get((name, member))
        if found is None:
            found = self._sizes[name, member] = size_of(value)
        return found


def _too_much(*payloads: Payload) -> str:
    if sum(count_nodes(payload) for payload in payloads) > MAX_LOOPED_MEMBERS:
        return f"it loops or matches, and the payloads have more than {MAX_LOOPED_MEMBERS} members"
    if sum(len(msgspec.json.encode(payload)) for payload in payloads) > MAX_LOOPED_BYTES:
        return f"it loops or matches, and the payloads have more than {MAX_LOOPED_BYTES} bytes"
    return ""


def _values(state: FlowState, payload: Payload, caller: Caller, now: datetime | None) -> dict[str, Any]:
    return {
        "payload": payload,
        "user.id": caller.user_id,
        "user.roles": sorted(caller.roles),
        "state.flow": state.flow,
        "state.userId": state.user_id,
        "state.step": state.step,
        "state.previous": state.previous or "",
        "state.service": state.service,
        "state.entityId": state.entity or "",
        "state.message": state.message or "",
        "state.status": state.status,
        "state.ok": state.ok,
        "state.version": state.version,
        "state.revision": state.revision,
        "state.createdAt": state.created_at,
        "state.updatedAt": state.updated_at,
        "state.payload": {} if state.payload is UNSET else state.payload,
        "now": now,
    }
