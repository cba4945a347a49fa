"""Two worlds that differ in the states of one owner alone, and all kinds of callers in them."""

import time
from collections.abc import Collection
from typing import Any

from msgspec import structs

from app.contracts.callers import ADMIN, SERVICE, Caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.errors import AuthenticationRequiredError
from app.contracts.people import Participant
from app.contracts.state import StateId
from tests.support.case_flows import OWNER, REVIEWERS, case_flow, replace_people
from tests.support.rig import Rig

SECRET = "plum"
TARGETS = {"one": StateId("case", "olga"), "many": StateId("desk", "olga", "e1")}
"""The states that the worlds differ in, by the kind of their flow."""

INSIDERS = {
    "owner": OWNER,
    "participant": Caller("pia"),
    "participant by group": Caller("gus", groups=frozenset({"finance"})),
    "service": Caller("shop", scopes=frozenset({SERVICE})),
    "administrator": Caller("root", scopes=frozenset({ADMIN})),
}
OUTSIDERS = {
    "former participant": Caller("fay"),
    "participant of another entity": Caller("ela"),
    "participant of another flow": Caller("sid"),
    "stranger": Caller("mallory"),
    "stranger with the role in its token": Caller("mo", roles=frozenset({"reviewer", "auditor"})),
    "stranger with a group that no state has": Caller("liz", groups=frozenset({"legal", "reviewer"})),
    "stranger whose id is that of a group": Caller("finance"),
}
CALLERS = {**INSIDERS, **OUTSIDERS}


class NamedCallers:
    """Verifies tokens that are the names of callers."""

    async def verify(self, token: str | None) -> Caller:
        if token is None:
            raise AuthenticationRequiredError("no token")
        return structs.replace(CALLERS[token.replace("_", " ")], expires_at=time.time() + 60)


async def make_world(targets: Collection[StateId]) -> Rig:
    """Build a service on which the owner has the targets, and other states with other participants."""
    rig = Rig()
    for flow, instances in (("case", "one"), ("side", "one"), ("desk", "many")):
        fields = {"searchable": ["/secret"]}
        open_to = {**fields, "resettable": ["reviewer", "auditor"], "clearable": ["reviewer", "auditor"]}
        await rig.service.create_flow(case_flow(flow, instances=instances, **open_to))
    await _start(rig, StateId("side", "olga"), Participant("reviewer", user_id="sid"))
    await _start(rig, StateId("desk", "olga", "e2"), Participant("reviewer", user_id="ela"))
    for target in targets:
        await _start(rig, target, *REVIEWERS, Participant("reviewer", user_id="fay"))
        entity = target.instance_id
        await replace_people(rig, target.flow_id, *REVIEWERS, entity=entity)
        await rig.flows.execute_transition("olga", target.flow_id, "edit", entity_id=entity)
    return rig


async def _start(rig: Rig, state_id: StateId, *people: Participant) -> None:
    command: dict[str, Any] = {} if state_id.instance_id is None else {"entity_id": state_id.instance_id}
    await rig.service.start_flow(
        state_id.user_id,
        state_id.flow_id,
        StartCommand(payload={"secret": SECRET}, participants=people, **command),
        origin=Origin(OWNER, request_id="key-of-the-owner"),
    )
