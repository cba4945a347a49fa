"""A flow with several people: purchase requests, which two approvers approve and one of finance pays."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.contracts.callers import ADMIN, SERVICE, Caller, trusted_caller
from app.contracts.commands import StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.flow import Flow, FlowApprovals, FlowAssignment, FlowParticipant, FlowStep, FlowTransition
from app.contracts.people import Participant
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.flow.people.callers import caller_on
from tests.support.samples import T0

OWNER = Caller("ada", frozenset({"employee", "approver"}))
"""Has a role of participants by the token, which does not count on a state."""
BOB, CAROL, DAN, STRANGER = (Caller(name) for name in ("bob", "carol", "dan", "eve"))
FAY = Caller("fay", groups=frozenset({"treasury"}))
GUS = Caller("gus", groups=frozenset({"treasury", "board"}))
BACK_END = Caller("shop", frozenset({"finance"}), frozenset({SERVICE}))
ROOT = Caller("root", scopes=frozenset({ADMIN}))
PROGRAM = trusted_caller("ada")


def transition(name: str, step: str, **members: Any) -> FlowTransition:
    return FlowTransition(name, step, **members)


def steps(**transitions: list[FlowTransition]) -> dict[str, FlowStep]:
    return {
        name: FlowStep(index, name, "svc", {each.transition: each for each in ways})
        for index, (name, ways) in enumerate(transitions.items())
    }


PARTICIPANTS: Mapping[str, FlowParticipant] = {
    "approver": FlowParticipant(assignable=True),
    "assistant": FlowParticipant(assignable=["approver", "employee"]),
    "auditor": FlowParticipant(),
    "finance": FlowParticipant(
        group="treasury", claim=timedelta(minutes=15), take_over=["auditor", "chair"], assignable=False
    ),
    "chair": FlowParticipant(group="board", claim=timedelta(minutes=5)),
}
ASSIGN = [FlowAssignment("approver", "payload.approvers")]
VOTES = FlowApprovals("approver", 2)


def purchase(version: int = 1, **changes: Any) -> FlowDefinition:
    """The flow: draft, review (two of the approvers approve, any one refuses), payment, paid or refused."""
    members: dict[str, Any] = {
        "flow": "purchase",
        "initial_step": "draft",
        "instances": "many",
        "participants": dict(PARTICIPANTS),
        "steps": steps(
            draft=[transition("submit", "review", assign=ASSIGN), transition("quick", "review")],
            review=[
                transition(
                    "approve",
                    "payment",
                    approvals=VOTES,
                    roles=["approver"],
                    not_by=["submit"],
                    reversible=True,
                ),
                transition("hold", "draft", approvals=VOTES),
                transition("refuse", "refused", roles=["approver"]),
                transition("revise", "draft"),
            ],
            payment=[
                transition("pay", "paid", roles=["finance"], not_by=["approve"]),
                transition("query", "payment", roles=["finance", "chair"]),
                transition("veto", "refused", roles=["chair"]),
            ],
            paid=[],
            refused=[],
        ),
    }
    flow = Flow(**{**members, **changes})
    return FlowDefinition(flow=flow, version=version, published_at=T0, published_by="tests", source="python")


PURCHASE = purchase()


def users(**roles: str) -> tuple[Participant, ...]:
    """Participants by role: ``users(approver="bob carol")``."""
    return tuple(Participant(role, user_id=name) for role, names in roles.items() for name in names.split())


def begun(definition: FlowDefinition = PURCHASE, entity: str | None = "e-1", **roles: str) -> FlowState:
    """A state of ada's just started, with people by role."""
    named: tuple[Participant, ...] | UnsetType = users(**roles) or UNSET
    command = StartCommand(participants=named)
    return rules.start(definition, StateId(definition.flow.flow, "ada", entity), "e1", command, T0)


def run(
    state: FlowState,
    name: str,
    caller: Caller | None,
    definition: FlowDefinition = PURCHASE,
    seconds: float = 0,
    **command: Any,
) -> FlowState:
    """The state after a transition by a caller, by the roles that it has on the state."""
    acting = None if caller is None else caller_on(definition.flow, state, caller)
    now = T0 + timedelta(seconds=seconds)
    return rules.transition(definition, state, name, TransitionCommand(**command), now, acting)


def in_review(**roles: str) -> FlowState:
    return run(begun(PURCHASE, "e-1", **(roles or {"approver": "bob carol dan"})), "quick", OWNER)


def in_payment(**roles: str) -> FlowState:
    return run(run(in_review(**({"approver": "bob carol"} | roles)), "approve", BOB), "approve", CAROL)


def offered(
    state: FlowState, caller: Caller, definition: FlowDefinition = PURCHASE, seconds: float = 0
) -> str:
    """The names of the transitions that a caller may run."""
    acting = caller_on(definition.flow, state, caller)
    shown = rules.with_transitions(definition, state, acting, T0 + timedelta(seconds=seconds))
    return " ".join(each.transition for each in shown.transitions)


def reread(state: FlowState) -> FlowState:
    """The state as it comes back from JSON."""
    return msgspec.json.decode(msgspec.json.encode(state), type=FlowState)
