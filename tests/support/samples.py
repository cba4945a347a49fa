"""Values for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import StartCommand
from app.contracts.definition import FlowDefinition
from app.contracts.flow import Flow
from app.contracts.people import Claim, Participant, PersonSalt, TransitionBy
from app.contracts.record import HistoryRecord, Kind, MergedField, commit_record_id
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.flow.history_chain import seal

T0 = datetime(2126, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
"""In the future: mongomock drops what is past its TTL by the time of the machine."""


PROGRAM = trusted_caller("python")
"""A program that calls the service without a user."""


def flow_dict(slug: str = "loop", **changes: Any) -> dict[str, Any]:
    """A small flow: a (self-loop 'again', 'go' to b, explicit reversible 'jump' to c), b, end c."""

    def step(index: int, name: str, **transitions: dict[str, Any]) -> dict[str, Any]:
        return {
            "index": index,
            "step": name,
            "service": "svc",
            "transitions": {key: {"transition": key, **value} for key, value in transitions.items()},
        }

    whole = {
        "flow": slug,
        "initialStep": "a",
        "steps": {
            "a": step(
                0,
                "a",
                jump={"step": "c", "explicit": True, "reversible": True},
                again={"step": "a"},
                go={"step": "b"},
            ),
            "b": step(1, "b", back={"step": "a", "reversible": True}, done={"step": "c"}),
            "c": step(2, "c"),
        },
    }
    return {**whole, **changes}


def expense_flow(**changes: Any) -> dict[str, Any]:
    """Draft, review, approved or rejected: with a payload schema, roles, a guard and a timeout."""
    whole = {
        "flow": "expense",
        "initialStep": "draft",
        "steps": {
            "draft": {
                "index": 0,
                "step": "draft",
                "service": "svc",
                "transitions": {
                    "submit": {
                        "transition": "submit",
                        "step": "review",
                        "payloadSchema": {
                            "required": ["amount", "reason"],
                            "properties": {
                                "amount": {"type": "integer", "minimum": 0},
                                "reason": {"type": "string"},
                            },
                        },
                    }
                },
            },
            "review": {
                "index": 1,
                "step": "review",
                "service": "svc",
                "timeout": {"after": "P2D", "transition": "remind"},
                "transitions": {
                    "approve": {
                        "transition": "approve",
                        "step": "approved",
                        "explicit": True,
                        "roles": ["approver"],
                        "guard": "user.id != state.userId",
                    },
                    "reject": {
                        "transition": "reject",
                        "step": "rejected",
                        "explicit": True,
                        "roles": ["approver"],
                        "guard": "user.id != state.userId",
                        "payloadSchema": {"properties": {"why": {"type": "string"}}},
                    },
                    "remind": {"transition": "remind", "step": "review", "roles": []},
                    "withdraw": {"transition": "withdraw", "step": "draft", "reversible": True},
                },
            },
            "approved": {"index": 2, "step": "approved", "service": "svc", "transitions": {}},
            "rejected": {"index": 3, "step": "rejected", "service": "svc", "transitions": {}},
        },
    }
    return {**whole, **changes}


def definition(slug: str = "loop", version: int = 1, **changes: Any) -> FlowDefinition:
    """The small flow, published."""
    flow = msgspec.convert(flow_dict(slug, **changes), Flow)
    return FlowDefinition(flow=flow, version=version, published_at=T0, published_by="tests", source="python")


def fresh(user: str = "ada", epoch: str = "e1", slug: str = "loop", **command: Any) -> FlowState:
    """A state just started."""
    return rules.start(definition(slug), StateId(slug, user), epoch, StartCommand(**command), T0)


def moved(state: FlowState, **changes: Any) -> FlowState:
    """The state one revision on, a second later."""
    return structs.replace(
        state, revision=state.revision + 1, updated_at=state.updated_at + timedelta(seconds=1), **changes
    )


def record(
    after: FlowState, *, commit: str = "c", kind: Kind = "transitioned", from_step: str = "a"
) -> HistoryRecord:
    """The record of the commit that made ``after``."""
    return HistoryRecord(
        id=commit_record_id(after),
        commit_id=commit,
        flow_id=after.flow,
        user_id=after.user_id,
        instance_id=after.instance_id,
        epoch=after.epoch,
        revision=after.revision,
        version=after.version,
        kind=kind,
        transition="go" if kind == "transitioned" else kind,
        from_step=from_step,
        to_step=after.step,
        timestamp=after.updated_at,
        success=True,
        service=after.service,
        actor="ada",
        payload={"given": [1, {"deep": None}]},
        after=after,
        request_id="r-1",
        client=UNSET,
    )


def peopled(state: FlowState, *ids: str) -> FlowState:
    """The state with people in every member that names them; the first one has claimed, voted and run.

    A group is among the participants too.
    """
    first = ids[0]
    users = tuple(Participant("approver", user_id=user_id) for user_id in ids)
    return structs.replace(
        state,
        participants=(*users, Participant("clerk", group="finance")),
        awaits=("approver", "clerk"),
        claims=(Claim("approver", first, T0 + timedelta(minutes=15)),),
        votes=(TransitionBy("go", first),),
        runs=tuple(TransitionBy("again", user_id) for user_id in (state.user_id, *ids)),
        people=tuple(PersonSalt(user_id, f"salt-of-{user_id}") for user_id in ids),
    )


def full_record() -> HistoryRecord:
    """A sealed record with every member but ``payload_revision``, of a state with every member."""
    state = structs.replace(
        fresh(payload={"iban": "DE02"}, entity_id="org"),
        previous="a", undo_roles=("staff",), message="note", pause_reason="checks",
        expires_at=T0, expiry_left_ms=5, timeout_at=T0, timeout_left_ms=5, instance_id="E-1",
    )  # fmt: skip
    given = structs.replace(
        record(peopled(state, "bob", "cleo")), error="X", digest="d", client="http", duration_ms=1.5,
        actor="bob", actor_salt="salt-of-bob",
        merged=(MergedField("/iban", {"$ref": [1]}, None), MergedField("/a~1b", ours=2)),
    )  # fmt: skip
    return seal(given, "before", "salt")
