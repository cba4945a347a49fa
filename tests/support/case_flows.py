"""Flows with people, for the tests of access: who may see and move states of others."""

from typing import Any

from app.contracts.callers import ADMIN, Caller
from app.contracts.commands import Origin, ParticipantsCommand, StartCommand
from app.contracts.people import Participant
from app.contracts.state import FlowState
from tests.support.rig import Rig

OWNER = Caller("olga")
BY_ID = Caller("pia")
BY_GROUP = Caller("gus", groups=frozenset({"finance"}))
STRANGER = Caller("mallory", roles=frozenset({"reviewer", "auditor"}))
ROOT = Caller("root", scopes=frozenset({ADMIN}))
REVIEWERS = (Participant("reviewer", user_id="pia"), Participant("auditor", group="finance"))


def case_flow(slug: str, **changes: Any) -> dict[str, Any]:
    """A flow whose states a reviewer and the auditors take part in."""
    return {
        "flow": slug,
        "initialStep": "open",
        "participants": {
            "reviewer": {"assignable": True, "claim": "PT15M"},
            "auditor": {"assignable": True},
        },
        "steps": {
            "open": {
                "index": 0,
                "step": "open",
                "service": "desk",
                "transitions": {
                    "edit": {"transition": "edit", "step": "open"},
                    "check": {"transition": "check", "step": "checked", "roles": ["reviewer", "auditor"]},
                },
            },
            "checked": {
                "index": 1,
                "step": "checked",
                "service": "desk",
                "transitions": {"again": {"transition": "again", "step": "open", "roles": ["reviewer"]}},
            },
        },
        **changes,
    }


async def started(
    rig: Rig, flow: str, entity: str | None = None, people: tuple[Participant, ...] = REVIEWERS
) -> FlowState:
    """Start a state of the owner, with people on it."""
    command = StartCommand(payload={"secret": "plum"}, participants=people)
    if entity is not None:
        command = StartCommand(payload={"secret": "plum"}, participants=people, entity_id=entity)
    state, _ = await rig.service.start_flow(OWNER.user_id, flow, command, origin=Origin(OWNER))
    return state


async def replace_people(rig: Rig, flow: str, *people: Participant, entity: str | None = None) -> FlowState:
    """Replace the people of the owner's state."""
    command = ParticipantsCommand(people)
    return await rig.service.people.assign(
        OWNER.user_id, flow, command, entity_id=entity, origin=Origin(OWNER)
    )
