"""Reads the JSON of a state machine of XState v5.

The JSON is a configuration, as ``createMachine`` accepts it, or a definition, as ``JSON.stringify(machine)``
writes it. Faults are values that XState refuses, and kinds of states that a flow cannot have; other parts
that a flow does not support are added to the report.
"""

import math
import re
from typing import Any

from app.contracts.errors import Fault, InvalidDefinitionError
from app.exchange.conversion_report import CEL, KEY, ConversionReport
from app.exchange.names import slug_of
from app.exchange.xstate_machine import (
    ACTOR_EVENTS,
    INTERNAL,
    Choice,
    Delayed,
    Machine,
    StateNode,
    actor_event,
    done_event,
    is_wildcard,
)
from app.flow.values.storable_json import storage_errors
from app.flow.values.struct_errors import escape
from app.kit.numbers import with_doubles

Raw = dict[str, Any]

_NAMELESS = "(machine)"  # the id that XState gives to a machine without one
MAX_EVENT_CHARACTERS = 256
_DELAY = re.compile(r"\d{1,15}(?:\.0*)?\Z")
_AFTER = f"{INTERNAL}after."
_KNOWN = {
    *("id", "type", "initial", "states", "on", "always", "after", "onDone", "invoke", "history"),
    *("description", "meta"),
}
_ACTOR_MEMBERS = {f"{INTERNAL}{name}.actor.": f"on{name.title()}" for name in ACTOR_EVENTS.values()}
_KNOWN_OF_A_TRANSITION = {"target", "guard", "reenter", "actions", "description", "meta"}
_DERIVED = {"key", "order", "transitions", "$schema"}
_DERIVED_OF_A_TRANSITION = {"source", "event", "eventType", "delay"}
_CODE = "actions are code of your program; a flow has none"
_REASONS = {
    "context": "a flow has no data of its own; a state has its payload",
    "output": "a flow has no output; a state has its payload",
    "tags": "a step has no tags; use its meta",
    "version": "the service counts the versions of a flow",
}
_UNKNOWN = "a flow has no such member"
_WILDCARD = "a transition has one name; a wildcard has none"
_INTERNAL = "it is an event of XState itself; a transition is run by name"
_HISTORY = "a flow has no history states; name the step, or make the transition to here reversible"
_PARALLEL = "a flow is at one step at a time; make a flow of each parallel state"
_KINDS = "is one of atomic, compound, final, history, parallel"
_NEVER = "XState never reaches it: the one before it has no guard"
_V4 = "is a member of XState v4; v5 calls it guard"


def read_machine(raw: object, report: ConversionReport) -> Machine:
    """Read a machine. Raises InvalidDefinitionError with every fault."""
    raw = with_doubles(raw)
    faults = storage_errors(raw, "")
    if faults:
        raise InvalidDefinitionError(faults)
    reading = _Reading(raw, report)
    if reading.faults:
        raise InvalidDefinitionError(reading.faults)
    return reading.machine


class _Reading:
    """One reading of one machine; ``machine`` is complete if there are no ``faults``."""

    def __init__(self, raw: object, report: ConversionReport) -> None:
        self.faults: list[Fault] = []
        self._report = report
        self._ids: dict[str, StateNode] = {}
        given = self._object(raw, "")
        if isinstance(raw, dict) and not raw.get("states"):
            self._fault("/states", "a machine needs at least one state")
        root = self._node(given, "", None, ())
        named = given.get("id", "")
        if isinstance(raw, dict) and isinstance(named, str) and not slug_of(named.replace(_NAMELESS, "")):
            self._fault("/id", "a machine needs an id: it becomes the name of the flow")
        self.machine = Machine(root, self._ids, is_stringified=isinstance(given.get("transitions"), list))
        if not self.faults:
            self._check_targets(root)

    def _node(self, raw: Raw, at: str, parent: StateNode | None, path: tuple[str, ...]) -> StateNode:
        states = self._object(raw.get("states", {}), f"{at}/states")
        kind = self._kind(raw, states, at)
        own_meta, meta = self._meta(raw, at)
        machine_id = next(iter(self._ids), _NAMELESS)
        node = StateNode(
            pointer=at,
            path=path,
            id=self._optional_text(raw, "id", at) or ".".join([machine_id, *path]),
            final=kind == "final",
            parent=parent,
            description=self._optional_text(raw, "description", at),
            meta=meta,
            own_meta=own_meta,
            initial=self._initial(raw, at) if states else None,
        )
        if node.id in self._ids and "id" in raw:
            self._fault(f"{at}/id", f"another state has the id {node.id!r}")
        self._ids[node.id] = node
        node.children = {
            key: self._node(
                self._object(state, f"{at}/states/{escape(key)}"),
                f"{at}/states/{escape(key)}",
                node,
                (*path, key),
            )
            for key, state in states.items()
        }
        self._events(raw, node)
        self._actors(raw.get("invoke"), node)
        if raw.get("always") is not None:
            node.always = self._choices(raw["always"], f"{at}/always")
        self._delayed(raw, node)
        self._report_unknown(raw, _KNOWN | _DERIVED, at)
        return node

    def _kind(self, raw: Raw, states: Raw, at: str) -> str:
        history = raw.get("history") not in (None, False)
        kind = raw.get("type")
        if kind is None:
            kind = "compound" if states else "history" if history else "atomic"
        if kind == "parallel":
            self._fault(f"{at}/type", _PARALLEL)
        elif kind == "history":
            self._fault(f"{at}/type" if "type" in raw else f"{at}/history", _HISTORY)
        elif kind not in ("atomic", "compound", "final"):
            self._fault(f"{at}/type", _KINDS)
        elif (kind == "compound") != bool(states):
            self._fault(f"{at}/type", f"is {kind}, and there are {'' if states else 'no '}states in it")
        return str(kind)

    def _initial(self, raw: Raw, at: str) -> str | None:
        given = raw.get("initial")
        if isinstance(given, dict):
            self._report_unknown(
                given, {"target", "description", "meta", *_DERIVED_OF_A_TRANSITION}, f"{at}/initial"
            )
            given = self._target(given, f"{at}/initial")
        if not isinstance(given, str) or not given:
            self._fault(f"{at}/initial", f"names the state to begin with, one of {', '.join(raw['states'])}")
            return None
        return given

    def _events(self, raw: Raw, node: StateNode) -> None:
        at = f"{node.pointer}/on"
        for event, value in self._object(raw.get("on", {}), at).items():
            here = f"{at}/{escape(event)}"
            choices = self._choices(value, here, wild=is_wildcard(event))
            if event.startswith(_AFTER):
                node.after.append(_delayed(self._delay_of(value, event), choices))
                continue
            if not event:
                self._fault(here, "an event needs a name; transitions without an event belong into always")
            elif len(event) > MAX_EVENT_CHARACTERS:
                self._fault(here, f"the name of an event is longer than {MAX_EVENT_CHARACTERS} characters")
            elif is_wildcard(event):
                self._report.dropped(here, _WILDCARD)
            elif event.startswith(INTERNAL) and event != done_event(node.id) and not actor_event(event):
                self._report.dropped(here, _INTERNAL)
            node.on[event] = choices
        if raw.get("onDone") is not None:
            node.on[done_event(node.id)] = self._choices(raw["onDone"], f"{node.pointer}/onDone")

    def _actors(self, invoked: Any, node: StateNode) -> None:
        at = f"{node.pointer}/invoke"
        many = isinstance(invoked, list)
        for number, given in enumerate(invoked if many else [] if invoked is None else [invoked]):
            here = f"{at}/{number}" if many else at
            actor = {"src": given} if isinstance(given, str) else self._object(given, here)
            name = self._optional_text(actor, "id", here) or f"{number}.{node.id}"
            runs = actor.get("src")
            runs = runs.get("type") if isinstance(runs, dict) else runs
            node.actors[name] = runs if isinstance(runs, str) and runs else name
            self._report.dropped(
                here, f"the actor {node.actors[name]} is code of your program, which runs it"
            )
            for prefix, member in _ACTOR_MEMBERS.items():
                if actor.get(member) is not None:
                    choices = self._choices(actor[member], f"{here}/{member}")
                    node.on[f"{prefix}{name}"] = choices

    def _delayed(self, raw: Raw, node: StateNode) -> None:
        at = f"{node.pointer}/after"
        for delay, value in self._object(raw.get("after", {}), at).items():
            node.after.append(_delayed(delay, self._choices(value, f"{at}/{escape(delay)}")))
        node.after.sort(key=lambda each: math.inf if each.delay is None else each.delay)

    def _delay_of(self, value: Any, event: str) -> str:
        """Return the delay of an event that XState derived from ``after``, as its name has it."""
        first = value[0] if isinstance(value, list) and value else value
        named = first.get("delay") if isinstance(first, dict) else None
        return str(named) if named is not None else event.removeprefix(_AFTER).partition(".")[0]

    def _choices(self, value: Any, at: str, *, wild: bool = False) -> list[Choice]:
        if not isinstance(value, list):
            return [self._choice(value, at, wild=wild)]
        found = [self._choice(member, f"{at}/{number}", wild=wild) for number, member in enumerate(value)]
        certain = next((number for number, choice in enumerate(found) if not choice.conditional), len(found))
        for choice in found[certain + 1 :]:
            self._report.dropped(choice.pointer, _NEVER)
        return found

    def _choice(self, value: Any, at: str, *, wild: bool) -> Choice:
        if isinstance(value, str):
            value = {"target": value}
        elif not isinstance(value, dict):
            self._fault(at, "a transition is the name of a state or an object; {} forbids the event")
            value = {}
        if "cond" in value:
            self._fault(f"{at}/cond", _V4)
        own_meta, meta = self._meta(value, at)
        guard = self._guard(value.get("guard"), f"{at}/guard")
        self._report_unknown(value, _KNOWN_OF_A_TRANSITION | _DERIVED_OF_A_TRANSITION | {"cond"}, at)
        acts = value.get("actions") not in (None, [], "")
        if acts:
            self._report_actions(value["actions"], f"{at}/actions")
        return Choice(
            pointer=at,
            target=self._target(value, at),
            acts=acts,
            conditional=value.get("guard") is not None,
            guard=guard,
            reenter=value.get("reenter") is True,
            wild=wild,
            description=self._optional_text(value, "description", at),
            meta=meta,
            own_meta=own_meta,
        )

    def _guard(self, guard: Any, at: str) -> str | None:
        """Return the CEL expression of a guard; None, with a report, if it is code."""
        if guard is None:
            return None
        name = guard
        if isinstance(guard, dict):
            name, params = guard.get("type"), guard.get("params")
            expression = params.get("expression") if isinstance(params, dict) else None
            if name == CEL and isinstance(expression, str):
                return expression
        if not isinstance(name, str):
            self._fault(at, "a guard is its name, or an object with its type")
        self._report.dropped(at, f"the guard {name} is code of your program; the transition has no guard")
        return None

    def _target(self, value: Raw, at: str) -> str | None:
        given = value.get("target", "")
        if isinstance(given, list):
            if len(given) > 1:
                self._fault(f"{at}/target", _PARALLEL)
            given = given[0] if given else ""
        if not isinstance(given, str):
            self._fault(f"{at}/target", "is the name of a state")
            return None
        return given or None

    def _meta(self, raw: Raw, at: str) -> tuple[Raw, Raw | None]:
        """Return the members of a flow that was exported before, and the author's own meta."""
        if raw.get("meta") is None:
            return {}, None
        meta = dict(self._object(raw["meta"], f"{at}/meta"))
        if KEY not in meta:
            return {}, meta
        own_meta = dict(self._object(meta.pop(KEY), f"{at}/meta/{KEY}"))
        own = own_meta.pop("meta", None)
        return own_meta, own if own is not None else meta or None

    def _check_targets(self, node: StateNode) -> None:
        """Add a fault for each target that names no state."""
        if node.children and self.machine.initial(node) is None:
            listed = ", ".join(node.children)
            self._fault(
                f"{node.pointer}/initial", f"there is no state {node.initial!r} in it; it has {listed}"
            )
        named = [*node.on.values(), node.always, *(delayed.choices for delayed in node.after)]
        for choice in (choice for choices in named for choice in choices):
            if choice.target is not None and self.machine.target(node, choice.target) is None:
                self._fault(choice.pointer, _missing_target(node, choice.target))
        for child in node.children.values():
            self._check_targets(child)

    def _report_unknown(self, raw: Raw, known: set[str], at: str) -> None:
        on = raw.get("on")
        delayed = isinstance(on, dict) and any(event.startswith(_AFTER) for event in on)
        for member, value in raw.items():
            if member in known or value in (None, "", [], {}) or value is False:
                continue
            if delayed and member in (
                "entry",
                "exit",
            ):  # JSON.stringify writes XState's own actions for delays
                own = {"type": f"{INTERNAL}{'raise' if member == 'entry' else 'cancel'}"}
                if isinstance(value, list) and all(action == own for action in value):
                    continue
            if member in ("entry", "exit"):
                self._report_actions(value, f"{at}/{member}")
            else:
                self._report.dropped(f"{at}/{escape(member)}", _REASONS.get(member, _UNKNOWN))

    def _report_actions(self, actions: Any, at: str) -> None:
        """Report actions, by name if they have one."""
        listed = actions if isinstance(actions, list) else [actions]
        types = [action.get("type") if isinstance(action, dict) else action for action in listed]
        names = ", ".join(dict.fromkeys(name for name in types if isinstance(name, str) and name))
        self._report.dropped(at, f"{_CODE}: {names}" if names else _CODE)

    def _object(self, value: object, at: str) -> Raw:
        if isinstance(value, dict):
            return value
        self._fault(at, "is an object, {} if it is empty" if at else "a machine is an object")
        return {}

    def _optional_text(self, raw: Raw, member: str, at: str) -> str | None:
        value = raw.get(member)
        if value is None or isinstance(value, str):
            return value
        self._fault(f"{at}/{member}", "is text")
        return None

    def _fault(self, pointer: str, message: str) -> None:
        self.faults.append(Fault(pointer, message))


def _delayed(label: str, choices: list[Choice]) -> Delayed:
    whole = int(label.partition(".")[0]) if _DELAY.match(label) else None
    return Delayed(label, whole, choices)


def _missing_target(node: StateNode, target: str) -> str:
    if node.parent is None and target[:1] not in "#.":
        return f"from the machine itself a state is named with a dot: .{target}"
    return f"there is no state {target!r}; a state is named by its key, as .child, or as #id"
