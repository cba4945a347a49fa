"""The JSON shapes of explanations: why a transition is possible or not, and the way to a step."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.people import Participant
from app.contracts.wire.states import StateView
from app.contracts.wire.times import Time

Condition = Literal["status", "step", "deadline", "role", "duties", "claim", "vote", "payload", "guard"]


class CheckView(Struct, frozen=True, rename="camel", kw_only=True):
    """One condition of a transition.

    ``passed`` is null if that depends on the payload, and none is given; also for a guard that compares a
    given payload or role with fields that the reader may not see. ``code`` is that of the error that
    a request would get, ``details`` are its details: the roles, the faults of the payload, or the values
    that the guard read.
    """

    condition: Condition
    passed: bool | None
    message: str
    code: str | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET


class TransitionExplanation(Struct, frozen=True, rename="camel", kw_only=True):
    """A transition of the current step, and whether it is ``possible`` now.

    ``possible`` is null if only conditions that are null may stop it. ``roles`` are those of which one is
    required; absent: whoever may act on the state; empty: the timer alone. ``by`` are the people and groups
    with one of them on this state. ``votes`` is the number of votes that are still missing.
    ``payload_schema`` is the JSON Schema of the payload, ``guard`` the condition.
    """

    transition: str
    step: str
    possible: bool | None
    checks: list[CheckView]
    roles: list[str] | UnsetType = UNSET
    by: list[Participant] | UnsetType = UNSET
    votes: int | UnsetType = UNSET
    guard: str | UnsetType = UNSET
    payload_schema: dict[str, Any] | UnsetType = UNSET


class HopView(Struct, frozen=True, rename="camel", kw_only=True):
    """A transition on the way to a step, with what it needs.

    ``possible`` is present for the first one. ``timer``: the timeout of ``from_step`` runs it. ``inputs`` are
    the required members of the payload.
    """

    transition: str
    from_step: str
    step: str
    possible: bool | UnsetType | None = UNSET
    timer: bool | UnsetType = UNSET
    roles: list[str] | UnsetType = UNSET
    votes: int | UnsetType = UNSET
    guard: str | UnsetType = UNSET
    inputs: list[str] | UnsetType = UNSET
    payload_schema: dict[str, Any] | UnsetType = UNSET


class WayView(Struct, frozen=True, rename="camel"):
    """The shortest way to a step; ``hops`` is null if no transitions lead there, and empty if it is here.

    A way that is possible now goes before a shorter one whose first transition is not.
    """

    to: str
    hops: list[HopView] | None


class ExplanationView(Struct, frozen=True, rename="camel", kw_only=True):
    """The explanation for a caller; ``roles`` are those that it was made for.

    ``service`` owns the current step: its credential may run the transitions too. ``transitions`` are those
    of the current step, or the named one, which may be none of them. ``timeout_at`` is the time at which
    ``timeout_runs`` runs by itself.
    """

    state: StateView
    roles: list[str]
    transitions: list[TransitionExplanation]
    service: str | UnsetType = UNSET
    timeout_at: Time | UnsetType = UNSET
    timeout_runs: str | UnsetType = UNSET
    way: WayView | UnsetType = UNSET
