"""A state machine of XState v5 as a flow: what to_xstate made of a flow comes back exactly, of any other
machine what a flow can say.

A state without states in it is a step; what it inherits from the states around it, it has itself. A
transition that is carried leads where XState's leads; one that cannot be is left out and listed. A guard that
is code is listed, and its transition is without it.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from msgspec import Struct, to_builtins

from app.contracts.errors import Fault, InvalidDefinitionError
from app.exchange.conversion_report import KEY, ConversionReport, Imported
from app.exchange.names import Names, slug_of
from app.exchange.xstate_machine import (
    INTERNAL,
    WILDCARD,
    Choice,
    Machine,
    Node,
    actor_event,
    done_event,
    is_wildcard,
)
from app.exchange.xstate_reading import read_machine
from app.flow.lint.steps import MAX_STEPS
from app.flow.lint.timeouts import MIN_TIMEOUT
from app.kit.durations import MAX_DURATION

Raw = dict[str, Any]

MAX_TRANSITIONS = 20_000
"""Of one machine, with those that states inherit: events of states and the ways that these may take."""
ANY_SERVICE = "-"
"""The service that a state targets, whatever it is."""

_MILLISECOND = timedelta(milliseconds=1)
_TIMEOUTS = range(MIN_TIMEOUT // _MILLISECOND, MAX_DURATION // _MILLISECOND + 1)
_TIMER = "timeout"
_SERVICE = f"XState names no service: the steps have {ANY_SERVICE!r}, the service that a state targets"
_OUTER = "a step is in no other; what is said of the outer state is not carried"
_OUTER_TIME = "its time goes on over several steps; a timeout is of one step"
_NO_TIMEOUT = "a timeout is of 1 second to 100 years, leads to a step and asks no condition"
_DELAY_OF_CODE = "the delay is code of your program"
_ONE_TIMEOUT = "a step has one timeout; the earliest is carried"
_OTHER_TIMEOUT = f"the timeout in meta.{KEY} does not count beside it"
_BEGINS_ANEW = "XState goes on with the time of the state; here its timeout begins anew"
_NO_WAY_OUT = "XState rests here without being done; a step without transitions ends the flow"
_SAYS = {"done": "has ended", "error": "has failed", "snapshot": "says how it is"}
_LEFT_OUT = "JSON.stringify leaves always out; where a state has one, import machine.config"
_MAYBE_LEFT_OUT = (
    "nothing leads out of it, but JSON.stringify, which wrote this, leaves always out: import "
    "machine.config, or make it final"
)
_DONE = "XState takes no more events at a final state"


def from_xstate(machine: object) -> Imported:
    """The definition that a machine comes to; check it with parse_flow, whose pointers are into it. Raises
    InvalidDefinitionError with every fault of what is no machine, or has parallel or history states."""
    notes = ConversionReport()
    flow = _Import(read_machine(machine, notes), notes).flow()
    return Imported(flow, notes.all)


class _Import:
    """One import of one machine."""

    def __init__(self, machine: Machine, notes: ConversionReport) -> None:
        self._machine = machine
        self._notes = notes
        self._leaves = list(machine.root.leaves())
        if len(self._leaves) > MAX_STEPS:
            raise InvalidDefinitionError([Fault("/states", f"a flow has at most {MAX_STEPS} steps")])
        nodes = dict.fromkeys(node for leaf in self._leaves for node in leaf.lineage())
        self._outer = [node for node in nodes if node.children and node.parent is not None]
        self._steps = Names(".".join(leaf.path) for leaf in self._leaves)
        self._transitions = Names(event for node in nodes for event in node.on)
        self._faults: list[Fault] = []
        self._rests: dict[Node, Node] = {}
        self._left = MAX_TRANSITIONS

    def flow(self) -> Raw:
        root = self._machine.root
        slug = slug_of(root.id)
        if slug != root.id:
            self._notes.kept("/id", f"the flow is {slug}: a slug is letters, digits, '_', '-' and '.'")
        steps = {}
        for leaf in self._leaves:
            onward = self._machine.onward(leaf)
            if onward is None:
                steps[self._name(leaf)] = self._step(leaf)
            else:
                to = self._name(self._rest(onward))
                self._notes.lost(
                    leaf.pointer, f"XState leaves it at once, being done; what leads here leads to {to}"
                )
        if self._faults:
            raise InvalidDefinitionError(self._faults)
        if self._machine.is_written and not any(leaf.ours for leaf in self._leaves):
            self._notes.lost("", _LEFT_OUT)
        self._complete(steps)
        for node in self._outer:
            if node.description is not None or node.meta or node.ours:
                self._notes.lost(node.pointer, _OUTER)
        ours = dict(root.ours)
        order = ours.pop("steps", None)
        return {
            "flow": slug,
            **ours,
            **_texts(root),
            "initialStep": self._name(self._rest(root)),
            "steps": _arranged(steps, order),
        }

    def _complete(self, steps: dict[str, Raw]) -> None:
        """Give each step the index and the service that it has not."""
        indexes = {index for step in steps.values() if isinstance(index := step.get("index"), int)}
        free = (index for index in range(2 * MAX_STEPS) if index not in indexes)
        for step in steps.values():
            if "index" not in step:
                step["index"] = next(free)
            if "service" not in step:
                step["service"] = ANY_SERVICE
                self._notes.kept("/states", _SERVICE)

    def _step(self, leaf: Node) -> Raw:
        name = self._name(leaf)
        if leaf.path != (name,):
            self._notes.kept(leaf.pointer, f"the state {'.'.join(leaf.path)} is the step {name}")
        ours = dict(leaf.ours)
        order = ours.pop("transitions", None)
        step = {**ours, **_texts(leaf), "step": name, "transitions": {}}
        if leaf.final and leaf.parent is self._machine.root:
            if leaf.on or leaf.after:
                self._notes.lost(leaf.pointer, _DONE)
            return step
        delayed, others = self._delayed(leaf)
        transitions = self._events(leaf, timed=delayed is not None or "timeout" in step)
        self._add(leaf, transitions, others)
        if delayed is not None:
            if "timeout" in step:
                self._notes.lost(leaf.pointer, _OTHER_TIMEOUT)
            step["timeout"] = self._timeout(leaf, *delayed, transitions)
        if not transitions:
            self._add(leaf, transitions, self._last_ways(leaf), wild=True)
        if not transitions:
            self._notes.kept(leaf.pointer, _NO_WAY_OUT)
            if self._machine.is_written and not leaf.final:
                self._faults.append(Fault(leaf.pointer, _MAYBE_LEFT_OUT))
        step["transitions"] = _arranged(transitions, order)
        return step

    def _events(self, leaf: Node, *, timed: bool) -> dict[str, Raw]:
        transitions: dict[str, Raw] = {}
        for event in _names(leaf):
            self._count()
            number = 0
            for source, choice in self._machine.choices(leaf, event):
                self._count()
                target = self._target(leaf, source, choice)
                if target is None or choice.wild:
                    continue
                number += 1
                name = self._transition_name(event, number, choice)
                transitions[name] = self._transition(name, target, choice, choice.ours)
                if timed and self._stays(leaf, source, choice):
                    self._notes.kept(choice.pointer, _BEGINS_ANEW)
        self._add(leaf, transitions, self._unasked(leaf))
        return transitions

    def _unasked(self, leaf: Node) -> Iterator["_Way"]:
        """The transitions that XState takes without an event; here a caller has to run them."""
        actors = {event: node for node in leaf.lineage() for event in node.on if actor_event(event)}
        for event, node in actors.items():
            says, actor = actor_event(event) or ("", "")
            when = f"when the actor {node.actors.get(actor, actor)} {_SAYS[says]}"
            for source, choice in self._machine.choices(leaf, event):
                yield _Way(says, when, source, choice)
        done = leaf.parent if leaf.final and leaf.parent is not None else leaf
        for source, choice in self._machine.choices(leaf, done_event(done.id)):
            yield _Way("done", "when the state is done, which XState does by itself", source, choice)
        for source, choice in self._machine.eventless(leaf):
            if choice.target is not None:
                when = "as soon as its guard holds" if choice.conditional else "at once"
                yield _Way("always", f"{when}, as XState does by itself", source, choice)

    def _last_ways(self, leaf: Node) -> Iterator["_Way"]:
        """The ways out of a state that has no other way out, and would be an end: time of outer states, and
        wildcards."""
        for node in leaf.lineage():
            for delayed in node.after if node is not leaf else ():
                for choice in _up_to_certain(delayed.choices):
                    yield _Way(f"after-{delayed.label}", _over(delayed.label), node, choice)
        for node in leaf.lineage():
            for event in filter(is_wildcard, node.on):
                name = "any" if event == WILDCARD else f"any-{event.removesuffix('.*')}"
                for choice in _up_to_certain(node.on[event]):
                    yield _Way(name, f"when there is an event {event}", node, choice)

    def _add(
        self, leaf: Node, transitions: dict[str, Raw], ways: Iterable["_Way"], *, wild: bool = False
    ) -> None:
        """Give a step the transitions that a program has to run. ``wild``: also those of wildcards."""
        numbers: dict[str, int] = {}
        for way in ways:
            self._count()
            target = self._target(leaf, way.source, way.choice)
            if target is None or (way.choice.wild and not wild):
                continue
            number = numbers[way.name] = numbers.get(way.name, 0) + 1
            wanted = way.name if number == 1 else f"{way.name}-{number}"
            name = self._transitions.of(wanted, "of xstate")
            self._notes.kept(way.choice.pointer, f"your program runs the transition {name} {way.when}")
            transitions[name] = self._transition(name, target, way.choice, way.choice.ours)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            message = f"its states have more than {MAX_TRANSITIONS} transitions in all"
            raise InvalidDefinitionError([Fault("/states", message)])

    def _target(self, leaf: Node, source: Node, choice: Choice) -> Node | None:
        """Where a choice leads: to the same state when it has no target and does something; nowhere when it
        does nothing, as it only forbids the event."""
        if choice.target is None:
            return leaf if choice.acts else None
        named = self._machine.target(source, choice.target)
        return None if named is None else self._rest(named)

    def _stays(self, leaf: Node, source: Node, choice: Choice) -> bool:
        """True if XState does not leave the state, so that its time goes on."""
        if choice.target is None:
            return True
        return leaf is source is self._machine.target(source, choice.target) and not choice.reenter

    def _transition_name(self, event: str, number: int, choice: Choice) -> str:
        if number > 1:
            name = self._transitions.of(f"{event}-{number}", "choice")
            reason = (
                f"XState takes the first of {event} whose guard holds; here the caller chooses: it is {name}"
            )
            self._notes.kept(choice.pointer, reason)
            return name
        name = self._transitions.of(event)
        if name != event:
            self._notes.kept(choice.pointer, f"the event {event} is the transition {name}")
        return name

    def _transition(self, name: str, target: Node, choice: Choice, ours: Raw) -> Raw:
        return {
            **ours,
            **({} if choice.guard is None else {"guard": choice.guard}),
            **_texts(choice),
            "transition": name,
            "step": self._name(target),
        }

    def _delayed(self, leaf: Node) -> tuple[tuple[int, Choice] | None, list["_Way"]]:
        """The delayed transition of a state that a timeout can be, and the others that leave it."""
        for node in leaf.lineage():
            for delayed in node.after if node is not leaf else ():
                for choice in delayed.choices:
                    self._notes.lost(choice.pointer, _OUTER_TIME)
        chosen, others = None, []
        for delayed in leaf.after:
            first = delayed.choices[0] if delayed.choices else None
            usable = first is not None and first.target is not None and not first.conditional
            delay = delayed.delay
            if first is not None and usable and delay is not None and delay in _TIMEOUTS and chosen is None:
                chosen = (delay, first)
                continue
            why = _DELAY_OF_CODE if delay is None else _ONE_TIMEOUT if chosen else _NO_TIMEOUT
            for choice in _up_to_certain(delayed.choices):
                if choice.target is not None or choice.acts:
                    self._notes.lost(choice.pointer, why)
                if choice.target is not None:
                    others.append(_Way(f"after-{delayed.label}", _over(delayed.label), leaf, choice))
        return chosen, others

    def _timeout(self, leaf: Node, delay: int, choice: Choice, transitions: dict[str, Raw]) -> Raw:
        """The timeout of a step; the transition that it runs is put into ``transitions`` where it is none of
        those. It is the timer's alone, as it is in XState."""
        target = self._target(leaf, leaf, choice) or leaf
        ours = {"roles": [], **choice.ours}
        name = ours.pop("transition", None)
        resume = {"resume": ours.pop("resume")} if "resume" in ours else {}
        if not isinstance(name, str) or not _is_the_same(transitions.get(name, {}), self._name(target)):
            if not isinstance(name, str) or name in transitions:
                name = self._transitions.of(_TIMER, "after")
            transitions[name] = self._transition(name, target, choice, ours)
        return {"after": to_builtins(delay * _MILLISECOND), "transition": name, **resume}

    def _rest(self, node: Node) -> Node:
        if node not in self._rests:
            self._rests[node] = self._machine.rest(node)
        return self._rests[node]

    def _name(self, leaf: Node) -> str:
        return self._steps.of(".".join(leaf.path), None if len(leaf.path) == 1 else leaf.path)


class _Way(Struct, frozen=True):
    """A transition that XState takes by itself: its name here, when it is to be run, the state that has it,
    and what it does."""

    name: str
    when: str
    source: Node
    choice: Choice


def _up_to_certain(choices: list[Choice]) -> list[Choice]:
    """The choices that XState may come to: up to the first without a guard."""
    certain = next((number for number, choice in enumerate(choices) if not choice.conditional), len(choices))
    return choices[: certain + 1]


def _over(label: str) -> str:
    return f"{label} ms after the state began" if label.isdecimal() else f"when the delay {label} is over"


def _is_the_same(transition: Raw, step: str) -> bool:
    """True if a timeout that leads to ``step`` can run a transition: it has no condition."""
    return transition.get("step") == step and "guard" not in transition


def _arranged(members: dict[str, Raw], order: object) -> dict[str, Raw]:
    """The members in a listed order; those that are not listed come last, as they were. JavaScript puts
    names that are numbers first."""
    if not isinstance(order, list):
        return members
    listed = [name for name in order if isinstance(name, str) and name in members]
    return {name: members[name] for name in [*listed, *members]}


def _names(leaf: Node) -> Iterator[str]:
    """The events that mean something at a state."""
    named = dict.fromkeys(event for node in leaf.lineage() for event in node.on)
    return (event for event in named if not event.startswith(INTERNAL) and not is_wildcard(event))


def _texts(of: Node | Choice) -> Raw:
    return {
        **({} if of.description is None else {"description": of.description}),
        **({} if of.meta is None else {"meta": of.meta}),
    }
