"""Prints explanations of states as text."""

from msgspec import UNSET

from app.cli.command import echo
from app.contracts.wire.explanations import ExplanationView, HopView, TransitionExplanation, WayView

_MARKS = {True: "yes", False: "no", None: "depends on the payload"}


def print_explanation(found: ExplanationView) -> None:
    """Print the explanation of a state: a line for each condition, and one for each transition on the way."""
    echo(f"at {found.state.step} ({found.state.status}, revision {found.state.revision})")
    if found.timeout_at is not UNSET:
        echo(f"{found.timeout_runs} runs by itself at {found.timeout_at}")
    for transition in found.transitions:
        _print_transition(transition)
    if found.way is not UNSET:
        _print_way(found.way)


def _print_way(way: WayView) -> None:
    if way.hops is None:
        echo(f"no transitions lead to {way.to}")
    elif not way.hops:
        echo(f"{way.to} is the current step")
    else:
        echo(f"the shortest way to {way.to}:")
    for hop in way.hops or ():
        echo(f"  {hop.from_step} -> {hop.step}: {hop.transition}{_needs(hop)}")


def _print_transition(transition: TransitionExplanation) -> None:
    target = f" to {transition.step}" if transition.step else ""
    echo(f"{transition.transition}{target}: {_MARKS[transition.possible]}")
    for check in transition.checks:
        if check.passed is not True:
            echo(f"  {check.condition}: {check.message}")


def _needs(hop: HopView) -> str:
    needs = [] if hop.timer is UNSET else ["or the timer"]
    if hop.roles is not UNSET and hop.roles:
        needs.append(f"one of the roles {', '.join(hop.roles)}")
    if hop.votes is not UNSET:
        needs.append(f"{hop.votes} votes")
    if hop.guard is not UNSET:
        needs.append(f"that {hop.guard}")
    if hop.inputs is not UNSET and hop.inputs:
        needs.append(f"the inputs {', '.join(hop.inputs)}")
    return f" (needs {'; '.join(needs)})" if needs else ""
