"""A state machine of XState v5, and XState's rules over it.

The rules: the state that a target names, the state at which a machine rests, and the transitions that an
event can take. Source: xstate 5.33, StateNode and stateUtils.
"""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from app.contracts.errors import Fault, InvalidDefinitionError

INTERNAL = "xstate."
"""The prefix of events that XState itself sends."""
ACTOR_EVENTS = {f"{INTERNAL}{name}.actor.": name for name in ("done", "error", "snapshot")}
"""Prefixes, before the id of an invoked actor, of the events by which it ends, fails or reports progress."""
WILDCARD = "*"


class Choice(Struct, frozen=True, eq=False):
    """One transition that an event can take.

    Attributes:
        pointer: A JSON pointer to it.
        target: The state that it names; None if it leads nowhere.
        acts: It has actions.
        conditional: It has a guard.
        guard: The guard, if a flow can have it too.
        reenter: It restarts a state that leads to itself.
        wild: Many events can take it.
        description: For people.
        meta: The author's own.
        own_meta: The members of the flow that the machine was exported from.
    """

    pointer: str
    target: str | None
    acts: bool
    conditional: bool
    guard: str | None
    reenter: bool
    wild: bool
    description: str | None
    meta: dict[str, Any] | None
    own_meta: dict[str, Any]


class Delayed(Struct, frozen=True, eq=False):
    """A transition after a delay.

    ``delay`` is in milliseconds; None if code computes it, or if it is not a time.
    """

    label: str
    delay: int | None
    choices: list[Choice]


class StateNode(Struct, eq=False):
    """A state, or (``parent`` is None) the whole machine.

    ``always`` are its transitions without an event, ``after`` its delayed ones, the earliest first.
    ``actors`` are the sources of the actors that it invokes, by id.
    """

    pointer: str
    path: tuple[str, ...]
    id: str
    final: bool
    parent: "StateNode | None"
    description: str | None
    meta: dict[str, Any] | None
    own_meta: dict[str, Any]
    initial: str | None = None
    on: dict[str, list[Choice]] = {}
    always: list[Choice] = []
    after: list[Delayed] = []
    actors: dict[str, str] = {}
    children: "dict[str, StateNode]" = {}

    def ancestry(self) -> "Iterator[StateNode]":
        """Yield the state and its outer states, the innermost first."""
        node: StateNode | None = self
        while node is not None:
            yield node
            node = node.parent

    def leaves(self) -> "Iterator[StateNode]":
        """Yield the states without inner states, in the order of the document."""
        if not self.children:
            yield self
        for child in self.children.values():
            yield from child.leaves()


class Machine:
    """XState's rules over the states of one machine.

    ``is_stringified``: the input was written by ``JSON.stringify``, which omits ``always``.
    """

    def __init__(self, root: StateNode, ids: dict[str, StateNode], *, is_stringified: bool = False) -> None:
        self.root = root
        self.is_stringified = is_stringified
        self._ids = ids

    def target(self, source: StateNode, text: str) -> StateNode | None:
        """Return the state that a transition of ``source`` names; None if there is none."""
        if text.startswith("#"):
            first, *rest = _segments(text[1:])
            found = self._ids.get(first)
            # toJSON of XState writes the id of a state in the machine a.b as #a.b.state.
            return self._ids.get(text[1:]) if found is None else _descend(found, rest)
        if text.startswith("."):
            return _descend(source, _segments(text[1:]))
        return None if source.parent is None else _descend(source.parent, _segments(text))

    def initial(self, node: StateNode) -> StateNode | None:
        """Return the initial state of ``node``; None if there is none."""
        text = node.initial or ""
        if not text.startswith("#"):
            return node.children.get(text)
        found = self.target(node, text)
        return found if found is not None and found.parent is node else None

    def resting_state(self, node: StateNode) -> StateNode:
        """Return the state at which a machine rests that enters ``node``.

        The machine enters initial states, down to one without inner states. From a final state inside another
        it goes on at once along ``onDone`` of the outer state.

        Raises:
            InvalidDefinitionError: The machine never rests, or an initial state is missing.
        """
        passed: set[StateNode] = set()
        while True:
            while node.children:
                inner = self.initial(node)
                if inner is None:
                    raise InvalidDefinitionError([Fault(node.pointer, "has no initial state")])
                node = inner
            done_target = self.done_target(node)
            if done_target is None:
                return node
            if node in passed:
                raise InvalidDefinitionError([Fault(node.pointer, "its onDone leads back here, without end")])
            passed.add(node)
            node = done_target

    def done_target(self, leaf: StateNode) -> StateNode | None:
        """Return the target of ``onDone`` for a final state inside another; None if it rests there."""
        parent = leaf.parent
        if not leaf.final or parent is None or parent.parent is None:
            return None
        for source, choice in self.choices(leaf, done_event(parent.id)):
            if choice.conditional or choice.target is None:
                return None
            return self.target(source, choice.target)
        return None

    def choices(self, leaf: StateNode, event: str) -> Iterator[tuple[StateNode, Choice]]:
        """Yield the transitions of an event at a state, each with the state that declares it.

        In the order in which XState tries them, up to the first without a guard: inner states first; by the
        name of the event, then by wildcards, the longest first.
        """
        names = _matching_names(event)
        for node in leaf.ancestry():
            for choice in (choice for name in names for choice in node.on.get(name, ())):
                yield node, choice
                if not choice.conditional:
                    return

    def eventless(self, leaf: StateNode) -> Iterator[tuple[StateNode, Choice]]:
        """Yield the transitions without an event, as ``choices`` does."""
        for node in leaf.ancestry():
            for choice in node.always:
                yield node, choice
                if not choice.conditional:
                    return


def done_event(node_id: str) -> str:
    """Return the event for which ``onDone`` of a state waits."""
    return f"{INTERNAL}done.state.{node_id}"


def actor_event(event: str) -> tuple[str, str] | None:
    """Return the outcome (a value of ``ACTOR_EVENTS``) and the id of the actor that sends an event.

    None if no actor sends it.
    """
    for prefix, outcome in ACTOR_EVENTS.items():
        if event.startswith(prefix):
            return outcome, event.removeprefix(prefix)
    return None


def is_wildcard(event: str) -> bool:
    """Return whether a name stands for many events: all, or (``a.*``) those with a common beginning."""
    return event == WILDCARD or event.endswith(".*")


def _matching_names(event: str) -> list[str]:
    """Return the names in ``on`` that match an event, the most specific first."""
    tokens = event.split(".")
    begins = [".".join(tokens[:number]) for number in range(len(tokens), 0, -1)]
    return [event, *(f"{begin}.*" for begin in begins), WILDCARD]


def _descend(node: StateNode, path: list[str]) -> StateNode | None:
    found: StateNode | None = node
    for key in path:
        if not key:
            break
        found = None if found is None else found.children.get(key)
    return found


def _segments(text: str) -> list[str]:
    """Split a path at its dots, except those after a backslash."""
    segments, rest = [""], iter(text)
    for character in rest:
        if character == ".":
            segments.append("")
        else:
            segments[-1] += next(rest, "") if character == "\\" else character
    return segments
