"""A state machine of XState v5 as it was read, and XState's rules over it: what a target names, where a
machine comes to rest, and which transitions an event may take. Source: xstate 5.33, StateNode and
stateUtils."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from app.contracts.errors import Fault, InvalidDefinitionError

INTERNAL = "xstate."
"""The prefixes of the events that XState itself sends."""
ACTOR_EVENTS = {f"{INTERNAL}{name}.actor.": name for name in ("done", "error", "snapshot")}
"""How the events begin with which an invoked actor ends, fails and says how it is, before the actor's id."""
WILDCARD = "*"


class Choice(Struct, frozen=True, eq=False):
    """One way that an event may take. ``target`` None: nowhere, ``acts``: but something is done.
    ``conditional``: it has a guard; ``guard`` is the one that a flow can have too. ``wild``: many events may
    take it. ``ours`` is what a flow said of it before."""

    pointer: str
    target: str | None
    acts: bool
    conditional: bool
    guard: str | None
    reenter: bool
    wild: bool
    description: str | None
    meta: dict[str, Any] | None
    ours: dict[str, Any]


class Delayed(Struct, frozen=True, eq=False):
    """A transition that time alone makes. ``delay`` is in milliseconds; None: code says it, or it is no
    time."""

    label: str
    delay: int | None
    choices: list[Choice]


class Node(Struct, eq=False):
    """A state, or (``parent`` None) the whole machine. ``always`` are its transitions that wait for no event,
    ``after`` its delayed ones, the earliest first; ``actors`` are those that it invokes: what they run, by
    id."""

    pointer: str
    path: tuple[str, ...]
    id: str
    final: bool
    parent: "Node | None"
    description: str | None
    meta: dict[str, Any] | None
    ours: dict[str, Any]
    initial: str | None = None
    on: dict[str, list[Choice]] = {}
    always: list[Choice] = []
    after: list[Delayed] = []
    actors: dict[str, str] = {}
    children: "dict[str, Node]" = {}

    def lineage(self) -> "Iterator[Node]":
        """The state and what it is in, from the inside."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def leaves(self) -> "Iterator[Node]":
        """The states without states in them, in the document's order."""
        if not self.children:
            yield self
        for child in self.children.values():
            yield from child.leaves()


class Machine:
    """XState's rules over the states of one machine. ``is_written``: by ``JSON.stringify``, which leaves what
    waits for no event (``always``) out."""

    def __init__(self, root: Node, ids: dict[str, Node], *, is_written: bool = False) -> None:
        self.root = root
        self.is_written = is_written
        self._ids = ids

    def target(self, source: Node, text: str) -> Node | None:
        """The state that a transition of ``source`` names; None when there is none."""
        if text.startswith("#"):
            first, *rest = _segments(text[1:])
            found = self._ids.get(first)
            # toJSON of XState writes the id of a state in the machine a.b as #a.b.state.
            return self._ids.get(text[1:]) if found is None else _descend(found, rest)
        if text.startswith("."):
            return _descend(source, _segments(text[1:]))
        return None if source.parent is None else _descend(source.parent, _segments(text))

    def initial(self, node: Node) -> Node | None:
        """The state in ``node`` that it begins with; None when there is none."""
        text = node.initial or ""
        if not text.startswith("#"):
            return node.children.get(text)
        found = self.target(node, text)
        return found if found is not None and found.parent is node else None

    def rest(self, node: Node) -> Node:
        """Where the machine comes to rest that enters ``node``: at its initial states down to one without
        states; from a final state in another at once where the ``onDone`` of that leads. Raises
        InvalidDefinitionError when that has no end."""
        passed: set[Node] = set()
        while True:
            while node.children:
                inner = self.initial(node)
                if inner is None:
                    raise InvalidDefinitionError([Fault(node.pointer, "has no initial state")])
                node = inner
            onward = self.onward(node)
            if onward is None:
                return node
            if node in passed:
                raise InvalidDefinitionError(
                    [Fault(node.pointer, "what it does when it is done leads back here, without end")]
                )
            passed.add(node)
            node = onward

    def onward(self, leaf: Node) -> Node | None:
        """Where a final state in another leads at once."""
        parent = leaf.parent
        if not leaf.final or parent is None or parent.parent is None:
            return None
        for source, choice in self.choices(leaf, done_event(parent.id)):
            if choice.conditional or choice.target is None:
                return None
            return self.target(source, choice.target)
        return None

    def choices(self, leaf: Node, event: str) -> Iterator[tuple[Node, Choice]]:
        """The transitions of an event at a state, each with the state that says so, in the order in which
        XState tries it, up to what has no guard: from the inside; by the event's name, then by wildcards, the
        longest first."""
        names = _names(event)
        for node in leaf.lineage():
            for choice in (choice for name in names for choice in node.on.get(name, ())):
                yield node, choice
                if not choice.conditional:
                    return

    def eventless(self, leaf: Node) -> Iterator[tuple[Node, Choice]]:
        """As ``choices``, of what waits for no event."""
        for node in leaf.lineage():
            for choice in node.always:
                yield node, choice
                if not choice.conditional:
                    return


def done_event(node_id: str) -> str:
    """The event that a state is done, which ``onDone`` waits for."""
    return f"{INTERNAL}done.state.{node_id}"


def actor_event(event: str) -> tuple[str, str] | None:
    """Which actor sends an event, by its id, and what it says by it, as in ``ACTOR_EVENTS``; None: it is of
    none."""
    for beginning, says in ACTOR_EVENTS.items():
        if event.startswith(beginning):
            return says, event.removeprefix(beginning)
    return None


def is_wildcard(event: str) -> bool:
    """True if a name of an event stands for many: all of them, or (``a.*``) a name and those that go on
    after it."""
    return event == WILDCARD or event.endswith(".*")


def _names(event: str) -> list[str]:
    """The name of an event in ``on``."""
    tokens = event.split(".")
    begins = [".".join(tokens[:number]) for number in range(len(tokens), 0, -1)]
    return [event, *(f"{begin}.*" for begin in begins), WILDCARD]


def _descend(node: Node, path: list[str]) -> Node | None:
    found: Node | None = node
    for key in path:
        if not key:
            break
        found = None if found is None else found.children.get(key)
    return found


def _segments(text: str) -> list[str]:
    """The keys of a path: parted by dots, of which a backslash takes the meaning away."""
    segments, rest = [""], iter(text)
    for character in rest:
        if character == ".":
            segments.append("")
        else:
            segments[-1] += next(rest, "") if character == "\\" else character
    return segments
