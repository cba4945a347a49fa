"""A state: one user's progress through one flow."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.errors import FlowNotFoundError

Payload = dict[str, Any]

Status = Literal["active", "paused", "completed", "cleared", "expired"]
"""``cleared`` and ``expired`` are seen in the last event of a state only: readers find no state."""

ENDED: frozenset[Status] = frozenset({"cleared", "expired"})


def state_key(flow_id: str, user_id: str) -> str:
    """The identity of a state. A flow's slug has no colon, so that the first one separates; what
    has a colon is no flow (and must never read as another user's state): FlowNotFoundError."""
    if ":" in flow_id:
        raise FlowNotFoundError(flow_id)
    return f"{flow_id}:{user_id}"


class AvailableTransition(Struct, frozen=True):
    """A transition that a caller may run from the state's current step."""

    transition: str
    step: str
    explicit: bool
    reversible: bool


class StatePosition(Struct, frozen=True):
    """The place of a stored state: ``key`` is ``<flow>:<user>``. A damaged document has an epoch and
    a revision of any type."""

    key: str
    epoch: Any
    revision: Any


class FlowState(Struct, frozen=True):
    """A state as committed.

    ``previous`` is set only after a reversible transition; to undo it, a caller needs one of ``undo_roles``
    (absent: no role; empty: only an administrator may). ``service`` is where the user is to end
    up, not the service of the step. ``entity_id``: absent and ``None`` differ. ``version`` pins the
    definition. ``epoch`` names one life of the state, ``revision`` counts its committed changes
    since it started (0 when fresh). Times are UTC with milliseconds. ``transitions`` are those that
    the caller may run now (none while paused, for ``pause_reason``); they follow from the definition
    and are not stored. ``timeout_at`` is when the step's timeout is due; while paused it is absent, or
    stays with an ``absolute`` one, and ``timeout_left_ms`` is what is to be waited from the resumption.
    ``expires_at`` is when the state ends if nothing changes it; while paused it is absent, and
    ``expiry_left_ms`` is how long the state lives from the resumption.
    """

    flow: str
    user_id: str
    version: int
    epoch: str
    revision: int
    status: Status
    step: str
    service: str
    ok: bool
    created_at: datetime
    updated_at: datetime
    previous: str | UnsetType = UNSET
    undo_roles: tuple[str, ...] | UnsetType = UNSET
    entity_id: str | UnsetType | None = UNSET
    payload: Payload | UnsetType = UNSET
    message: str | UnsetType = UNSET
    expires_at: datetime | UnsetType = UNSET
    pause_reason: str | UnsetType = UNSET
    timeout_at: datetime | UnsetType = UNSET
    timeout_left_ms: int | UnsetType = UNSET
    expiry_left_ms: int | UnsetType = UNSET
    transitions: tuple[AvailableTransition, ...] = ()

    @property
    def next_transition(self) -> AvailableTransition | None:
        """The transition that goes on without a choice: the first that is not ``explicit``."""
        return next((t for t in self.transitions if not t.explicit), None)

    @property
    def key(self) -> str:
        """The state's identity, ``<flow>:<user>``."""
        return state_key(self.flow, self.user_id)

    @property
    def position(self) -> "StatePosition":
        """Where it stands: what a change of it is conditional on."""
        return StatePosition(self.key, self.epoch, self.revision)

    def is_gone_at(self, now: datetime) -> bool:
        """True if readers at ``now`` find no state here: it was cleared, or it has expired.

        A paused state does not expire, not even one that a version before 0.5 paused, with its clock running.
        """
        if self.status == "paused":
            return False
        return self.status in ENDED or (self.expires_at is not UNSET and self.expires_at <= now)


NOT_STORED = ("transitions",)
"""Members of a state that follow from its definition."""
