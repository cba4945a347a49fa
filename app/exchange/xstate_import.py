"""Converts a state machine of XState v5 to a flow.

The result of ``to_xstate`` is restored exactly; of other machines, the parts that a flow supports. A state
without inner states becomes a step, with everything that it inherits. A converted transition has the target
of the original; one that cannot be converted is omitted and reported. A guard that is code is reported, and
its transition has no guard.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from msgspec import to_builtins

from app.contracts.errors import Fault, InvalidDefinitionError
from app.exchange.conversion_report import KEY, ConversionReport, Imported
from app.exchange.names import Names, slug_of
from app.exchange.xstate_automatic import (
    ManualTransition,
    automatic_transitions,
    last_exits,
    up_to_unconditional,
    when_delay_ends,
)
from app.exchange.xstate_machine import INTERNAL, Choice, Machine, StateNode, is_wildcard
from app.exchange.xstate_reading import read_machine
from app.flow.lint.steps import MAX_STEPS
from app.flow.lint.timeouts import MIN_TIMEOUT
from app.kit.durations import MAX_DURATION

Raw = dict[str, Any]

MAX_TRANSITIONS = 20_000
"""Limit for one machine, with inherited transitions: events of states, and the choices of each event."""
ANY_SERVICE = "-"
"""The service of steps that name none: the one that a state targets."""

_MILLISECOND = timedelta(milliseconds=1)
_TIMEOUTS = range(MIN_TIMEOUT // _MILLISECOND, MAX_DURATION // _MILLISECOND + 1)
_TIMER = "timeout"
_NEEDS_A_PERSON = frozenset(["guard", "approvals"])
_SERVICE = f"XState names no service: the steps have {ANY_SERVICE!r}, the service that a state targets"
_OUTER = "a step has no outer step; the members of the outer state are not carried"
_OUTER_TIME = "its time goes on over several steps; a timeout is of one step"
_NO_TIMEOUT = "a timeout is of 1 second to 100 years, leads to a step and has no condition"
_DELAY_OF_CODE = "the delay is code of your program"
_ONE_TIMEOUT = "a step has one timeout; the earliest is carried"
_OTHER_TIMEOUT = f"the timeout in meta.{KEY} is ignored beside it"
_BEGINS_ANEW = "XState does not restart the timer of the state; here its timeout starts again"
_NO_WAY_OUT = "XState rests here without being done; a step without transitions ends the flow"
_LEFT_OUT = "JSON.stringify omits always; if a state has one, import machine.config"
_MAYBE_LEFT_OUT = (
    "nothing leads out of it, but JSON.stringify, which wrote this, omits always: import "
    "machine.config, or make it final"
)
_DONE = "XState accepts no events at a final state"


def from_xstate(machine: object) -> Imported:
    """Convert a machine to a definition, to be checked with ``parse_flow``.

    Raises:
        InvalidDefinitionError: With every fault: the value is not a machine, or has parallel or history
            states.
    """
    report = ConversionReport()
    flow = _Import(read_machine(machine, report), report).flow()
    return Imported(flow, report.all)


class _Import:
    """One conversion of one machine."""

    def __init__(self, machine: Machine, report: ConversionReport) -> None:
        self._machine = machine
        self._report = report
        self._leaves = list(machine.root.leaves())
        if len(self._leaves) > MAX_STEPS:
            raise InvalidDefinitionError([Fault("/states", f"a flow has at most {MAX_STEPS} steps")])
        nodes = dict.fromkeys(node for leaf in self._leaves for node in leaf.ancestry())
        self._outer = [node for node in nodes if node.children and node.parent is not None]
        self._steps = Names(".".join(leaf.path) for leaf in self._leaves)
        self._transitions = Names(event for node in nodes for event in node.on)
        self._faults: list[Fault] = []
        self._resting_states: dict[StateNode, StateNode] = {}
        self._left = MAX_TRANSITIONS

    def flow(self) -> Raw:
        root = self._machine.root
        slug = slug_of(root.id)
        if slug != root.id:
            self._report.converted("/id", f"the flow is {slug}: a slug is letters, digits, '_', '-' and '.'")
        steps = {}
        for leaf in self._leaves:
            done_target = self._machine.done_target(leaf)
            if done_target is None:
                steps[self._name(leaf)] = self._step(leaf)
            else:
                target = self._name(self._resting_state(done_target))
                self._report.dropped(
                    leaf.pointer,
                    f"XState leaves it at once, because it is done; transitions to it lead to {target}",
                )
        if self._faults:
            raise InvalidDefinitionError(self._faults)
        if self._machine.is_stringified and not any(leaf.own_meta for leaf in self._leaves):
            self._report.dropped("", _LEFT_OUT)
        self._complete(steps)
        for node in self._outer:
            if node.description is not None or node.meta or node.own_meta:
                self._report.dropped(node.pointer, _OUTER)
        own_meta = dict(root.own_meta)
        order = own_meta.pop("steps", None)
        return {
            "flow": slug,
            **own_meta,
            **_description_and_meta(root),
            "initialStep": self._name(self._resting_state(root)),
            "steps": _in_order(steps, order),
        }

    def _complete(self, steps: dict[str, Raw]) -> None:
        """Give each step an index and a service if it has none."""
        indexes = {index for step in steps.values() if isinstance(index := step.get("index"), int)}
        free = (index for index in range(2 * MAX_STEPS) if index not in indexes)
        for step in steps.values():
            if "index" not in step:
                step["index"] = next(free)
            if "service" not in step:
                step["service"] = ANY_SERVICE
                self._report.converted("/states", _SERVICE)

    def _step(self, leaf: StateNode) -> Raw:
        name = self._name(leaf)
        if leaf.path != (name,):
            self._report.converted(leaf.pointer, f"the state {'.'.join(leaf.path)} is the step {name}")
        own_meta = dict(leaf.own_meta)
        order = own_meta.pop("transitions", None)
        step = {**own_meta, **_description_and_meta(leaf), "step": name, "transitions": {}}
        if leaf.final and leaf.parent is self._machine.root:
            if leaf.on or leaf.after:
                self._report.dropped(leaf.pointer, _DONE)
            return step
        delayed, others = self._delayed(leaf)
        transitions = self._events(leaf, timed=delayed is not None or "timeout" in step)
        self._add(leaf, transitions, others)
        if delayed is not None:
            if "timeout" in step:
                self._report.dropped(leaf.pointer, _OTHER_TIMEOUT)
            step["timeout"] = self._timeout(leaf, *delayed, transitions)
        if not transitions:
            self._add(leaf, transitions, last_exits(leaf), wild=True)
        if not transitions:
            self._report.converted(leaf.pointer, _NO_WAY_OUT)
            if self._machine.is_stringified and not leaf.final:
                self._faults.append(Fault(leaf.pointer, _MAYBE_LEFT_OUT))
        step["transitions"] = _in_order(transitions, order)
        return step

    def _events(self, leaf: StateNode, *, timed: bool) -> dict[str, Raw]:
        transitions: dict[str, Raw] = {}
        for event in _named_events(leaf):
            self._count()
            number = 0
            for source, choice in self._machine.choices(leaf, event):
                self._count()
                target = self._target(leaf, source, choice)
                if target is None or choice.wild:
                    continue
                number += 1
                name = self._transition_name(event, number, choice)
                transitions[name] = self._transition(name, target, choice, choice.own_meta)
                if timed and self._stays_in_state(leaf, source, choice):
                    self._report.converted(choice.pointer, _BEGINS_ANEW)
        self._add(leaf, transitions, automatic_transitions(self._machine, leaf))
        return transitions

    def _add(
        self,
        leaf: StateNode,
        transitions: dict[str, Raw],
        found: Iterable[ManualTransition],
        *,
        wild: bool = False,
    ) -> None:
        """Add transitions that a program must run to a step. ``wild``: also those of wildcards."""
        numbers: dict[str, int] = {}
        for each in found:
            self._count()
            target = self._target(leaf, each.source, each.choice)
            if target is None or (each.choice.wild and not wild):
                continue
            number = numbers[each.name] = numbers.get(each.name, 0) + 1
            wanted = each.name if number == 1 else f"{each.name}-{number}"
            name = self._transitions.legal_name(wanted, "of xstate")
            self._report.converted(
                each.choice.pointer, f"your program runs the transition {name} {each.when}"
            )
            transitions[name] = self._transition(name, target, each.choice, each.choice.own_meta)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            message = f"its states have more than {MAX_TRANSITIONS} transitions in all"
            raise InvalidDefinitionError([Fault("/states", message)])

    def _target(self, leaf: StateNode, source: StateNode, choice: Choice) -> StateNode | None:
        """Return the target of a choice.

        A choice without a target that has actions stays in its state; one without either only forbids the
        event and leads nowhere (None).
        """
        if choice.target is None:
            return leaf if choice.acts else None
        named = self._machine.target(source, choice.target)
        return None if named is None else self._resting_state(named)

    def _stays_in_state(self, leaf: StateNode, source: StateNode, choice: Choice) -> bool:
        """Return whether XState stays in the state, so that its timer goes on."""
        if choice.target is None:
            return True
        return leaf is source is self._machine.target(source, choice.target) and not choice.reenter

    def _transition_name(self, event: str, number: int, choice: Choice) -> str:
        if number > 1:
            name = self._transitions.legal_name(f"{event}-{number}", "choice")
            reason = (
                f"XState takes the first of {event} whose guard holds; here the caller chooses: it is {name}"
            )
            self._report.converted(choice.pointer, reason)
            return name
        name = self._transitions.legal_name(event)
        if name != event:
            self._report.converted(choice.pointer, f"the event {event} is the transition {name}")
        return name

    def _transition(self, name: str, target: StateNode, choice: Choice, own_meta: Raw) -> Raw:
        return {
            **own_meta,
            **({} if choice.guard is None else {"guard": choice.guard}),
            **_description_and_meta(choice),
            "transition": name,
            "step": self._name(target),
        }

    def _delayed(self, leaf: StateNode) -> tuple[tuple[int, Choice] | None, list[ManualTransition]]:
        """Return the delayed transition that can become a timeout, and the others that leave the state."""
        for node in leaf.ancestry():
            for delayed in node.after if node is not leaf else ():
                for choice in delayed.choices:
                    self._report.dropped(choice.pointer, _OUTER_TIME)
        chosen, others = None, []
        for delayed in leaf.after:
            first = delayed.choices[0] if delayed.choices else None
            usable = first is not None and first.target is not None and not first.conditional
            delay = delayed.delay
            if first is not None and usable and delay is not None and delay in _TIMEOUTS and chosen is None:
                chosen = (delay, first)
                continue
            why = _DELAY_OF_CODE if delay is None else _ONE_TIMEOUT if chosen else _NO_TIMEOUT
            for choice in up_to_unconditional(delayed.choices):
                if choice.target is not None or choice.acts:
                    self._report.dropped(choice.pointer, why)
                if choice.target is not None:
                    others.append(
                        ManualTransition(
                            f"after-{delayed.label}", when_delay_ends(delayed.label), leaf, choice
                        )
                    )
        return chosen, others

    def _timeout(self, leaf: StateNode, delay: int, choice: Choice, transitions: dict[str, Raw]) -> Raw:
        """Return the timeout of a step; its transition is added to ``transitions`` if it is none of those.

        Only the timer can run that transition, as in XState.
        """
        target = self._target(leaf, leaf, choice) or leaf
        own_meta = {"roles": [], **choice.own_meta}
        name = own_meta.pop("transition", None)
        resume = {"resume": own_meta.pop("resume")} if "resume" in own_meta else {}
        if not isinstance(name, str) or not _can_be_timeout_target(
            transitions.get(name, {}), self._name(target)
        ):
            if not isinstance(name, str) or name in transitions:
                name = self._transitions.legal_name(_TIMER, "after")
            transitions[name] = self._transition(name, target, choice, own_meta)
        return {"after": to_builtins(delay * _MILLISECOND), "transition": name, **resume}

    def _resting_state(self, node: StateNode) -> StateNode:
        if node not in self._resting_states:
            self._resting_states[node] = self._machine.resting_state(node)
        return self._resting_states[node]

    def _name(self, leaf: StateNode) -> str:
        return self._steps.legal_name(".".join(leaf.path), None if len(leaf.path) == 1 else leaf.path)


def _can_be_timeout_target(transition: Raw, step: str) -> bool:
    """Return whether a timeout that leads to ``step`` can run a transition: nothing in it needs a person."""
    return transition.get("step") == step and _NEEDS_A_PERSON.isdisjoint(transition)


def _in_order(members: dict[str, Raw], order: object) -> dict[str, Raw]:
    """Return the members in a listed order, then the others as they were.

    JavaScript enumerates names that are numbers first.
    """
    if not isinstance(order, list):
        return members
    listed = [name for name in order if isinstance(name, str) and name in members]
    return {name: members[name] for name in [*listed, *members]}


def _named_events(leaf: StateNode) -> Iterator[str]:
    """Yield the events of callers that a state handles."""
    named = dict.fromkeys(event for node in leaf.ancestry() for event in node.on)
    return (event for event in named if not event.startswith(INTERNAL) and not is_wildcard(event))


def _description_and_meta(of: StateNode | Choice) -> Raw:
    return {
        **({} if of.description is None else {"description": of.description}),
        **({} if of.meta is None else {"meta": of.meta}),
    }
