"""Transitions that XState takes by itself. In a flow, a caller must run them."""

from collections.abc import Iterator

from msgspec import Struct

from app.exchange.xstate_machine import (
    WILDCARD,
    Choice,
    Machine,
    StateNode,
    actor_event,
    done_event,
    is_wildcard,
)

_ACTOR_OUTCOMES = {"done": "has ended", "error": "has failed", "snapshot": "reports its progress"}


class ManualTransition(Struct, frozen=True):
    """A transition that XState takes by itself.

    ``name`` is its name in the flow, ``when`` the moment to run it, ``source`` the state that declares it.
    """

    name: str
    when: str
    source: StateNode
    choice: Choice


def automatic_transitions(machine: Machine, leaf: StateNode) -> Iterator[ManualTransition]:
    """Yield the transitions of a state that XState takes without an event of a caller."""
    actors = {event: node for node in leaf.ancestry() for event in node.on if actor_event(event)}
    for event, node in actors.items():
        outcome, actor = actor_event(event) or ("", "")
        when = f"when the actor {node.actors.get(actor, actor)} {_ACTOR_OUTCOMES[outcome]}"
        for source, choice in machine.choices(leaf, event):
            yield ManualTransition(outcome, when, source, choice)
    done = leaf.parent if leaf.final and leaf.parent is not None else leaf
    for source, choice in machine.choices(leaf, done_event(done.id)):
        yield ManualTransition("done", "when the state is done, which XState does by itself", source, choice)
    for source, choice in machine.eventless(leaf):
        if choice.target is not None:
            when = "as soon as its guard holds" if choice.conditional else "at once"
            yield ManualTransition("always", f"{when}, as XState does by itself", source, choice)


def last_exits(leaf: StateNode) -> Iterator[ManualTransition]:
    """Yield the exits of a state that has no other: delays of outer states, and wildcards.

    Without them the state would become the end of the flow.
    """
    for node in leaf.ancestry():
        for delayed in node.after if node is not leaf else ():
            for choice in up_to_unconditional(delayed.choices):
                name = f"after-{delayed.label}"
                yield ManualTransition(name, when_delay_ends(delayed.label), node, choice)
    for node in leaf.ancestry():
        for event in filter(is_wildcard, node.on):
            name = "any" if event == WILDCARD else f"any-{event.removesuffix('.*')}"
            for choice in up_to_unconditional(node.on[event]):
                yield ManualTransition(name, f"when there is an event {event}", node, choice)


def up_to_unconditional(choices: list[Choice]) -> list[Choice]:
    """Return the choices that XState may reach: up to the first without a guard."""
    last = next((number for number, choice in enumerate(choices) if not choice.conditional), len(choices))
    return choices[: last + 1]


def when_delay_ends(label: str) -> str:
    """Return the text that says when the delay ``label`` ends."""
    return f"{label} ms after the state began" if label.isdecimal() else f"when the delay {label} ends"
