"""A state: one user's progress through one flow."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.errors import FlowNotFoundError

Payload = dict[str, Any]

Status = Literal["active", "paused", "completed", "cleared", "expired"]
"""``cleared`` and ``expired`` appear only in the last event of a state: readers find no state."""

TERMINAL_STATUSES: frozenset[Status] = frozenset({"cleared", "expired"})


def state_key(flow_id: str, user_id: str) -> str:
    """Return the identity of a state, ``<flow>:<user>``.

    A slug has no colon, so the first colon separates. A flow id with a colon could read as another user's
    state.

    Raises:
        FlowNotFoundError: ``flow_id`` has a colon.
    """
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
    """The position of a stored state; ``key`` is ``<flow>:<user>``.

    A damaged document has an epoch and a revision of any type.
    """

    key: str
    epoch: Any
    revision: Any


class FlowState(Struct, frozen=True):
    """A state as committed.

    ``previous`` is set only after a reversible transition; to undo it, a caller needs one of ``undo_roles``
    (absent: no role; empty: only administrators may). ``service`` is the service that the user is heading
    for, not the service of the step. ``entity_id``: absent and ``None`` differ. ``version`` pins the
    definition. ``epoch`` identifies the state from a start to its end, ``revision`` counts the committed
    changes since the start (0 at first). Times are UTC with milliseconds. ``transitions`` are those that
    the caller may run now (none while paused, for ``pause_reason``); they follow from the definition
    and are not stored. ``timeout_at`` is the time of the step's timeout; while paused it is absent, unless
    the timeout is ``absolute``, and ``timeout_left_ms`` is the time left after the resumption.
    ``expires_at`` is the end of the state if nothing changes it; while paused it is absent, and
    ``expiry_left_ms`` is the lifetime left after the resumption.
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
        """The transition that ``next`` runs: the first that is not ``explicit``."""
        return next((t for t in self.transitions if not t.explicit), None)

    @property
    def key(self) -> str:
        """The state's identity, ``<flow>:<user>``."""
        return state_key(self.flow, self.user_id)

    @property
    def position(self) -> "StatePosition":
        """The position that a change of the state is conditional on."""
        return StatePosition(self.key, self.epoch, self.revision)

    def is_gone_at(self, now: datetime) -> bool:
        """Return whether readers at ``now`` find no state here, because it was cleared or has expired.

        A paused state does not expire, not even one that a version before 0.5 paused without stopping its
        clock.
        """
        if self.status == "paused":
            return False
        return self.status in TERMINAL_STATUSES or (self.expires_at is not UNSET and self.expires_at <= now)


NOT_STORED = ("transitions",)
"""Members of a state that follow from its definition."""
