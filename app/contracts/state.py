"""A state: one user's progress through one flow."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.errors import FlowNotFoundError
from app.contracts.people import Claim, Participant, PersonSalt, TransitionBy

Payload = dict[str, Any]

_LAST_MILLISECOND = 10**13 - 1
"""In the year 2286."""

Status = Literal["active", "paused", "completed", "cleared", "expired"]
"""``cleared`` and ``expired`` appear only in the last event of a state: readers find no state."""

TERMINAL_STATUSES: frozenset[Status] = frozenset({"cleared", "expired"})


class StateId(Struct, frozen=True, order=True):
    """The identity of a state.

    ``instance_id`` is the entity of a state whose flow has many for each user, None for the only one.

    Raises:
        FlowNotFoundError: ``flow_id`` has a colon or a semicolon, which separate the parts of a key.
    """

    flow_id: str
    user_id: str
    instance_id: str | None = None

    def __post_init__(self) -> None:
        if ":" in self.flow_id or ";" in self.flow_id:
            raise FlowNotFoundError(self.flow_id)

    @property
    def key(self) -> str:
        """The identity as one text: ``<flow>:<user>``, or ``<flow>;<user>;<entity>`` for one of many.

        No two states have the same key. A slug has neither separator, so the first one separates. In the
        second form the user's ``%`` and ``;`` are written ``%25`` and ``%3B``.
        """
        if self.instance_id is None:
            return f"{self.flow_id}:{self.user_id}"
        return f"{self.flow_id};{escape_user(self.user_id)};{self.instance_id}"


def escape_user(user_id: str) -> str:
    """Return a user id without ``;``, as keys with an entity have it."""
    return user_id.replace("%", "%25").replace(";", "%3B")


def instances_prefix(flow_id: str, user_id: str) -> str:
    """Return the common prefix of the keys of all states with an entity that a user has in a flow."""
    return StateId(flow_id, user_id, "").key


def id_from_key(key: str) -> StateId:
    """Return the identity in a key."""
    at = next((n for n, character in enumerate(key) if character in ":;"), len(key))
    flow_id, rest = key[:at], key[at + 1 :]
    if key[at : at + 1] != ";":
        return StateId(flow_id, rest)
    user, _, instance_id = rest.partition(";")
    return StateId(flow_id, user.replace("%3B", ";").replace("%25", "%"), instance_id)


class AvailableTransition(Struct, frozen=True):
    """A transition that a caller may run from the state's current step."""

    transition: str
    step: str
    explicit: bool
    reversible: bool


class StatePosition(Struct, frozen=True):
    """The position of a stored state; ``key`` is that of its StateId.

    A damaged document has an epoch and a revision of any type.
    """

    key: str
    epoch: Any
    revision: Any


class FlowState(Struct, frozen=True):
    """A state as committed.

    ``previous`` is set only after a reversible transition; to undo it, a caller needs one of ``undo_roles``
    (absent: no role; empty: only administrators may). ``service`` is the service that the user is heading
    for, not the service of the step. ``entity_id`` is a label: absent and ``None`` differ; a state whose
    flow has many for each user has ``instance_id`` instead, a part of its identity. ``version`` pins the
    definition. ``epoch`` identifies the state from a start to its end, ``revision`` counts the committed
    changes since the start (0 at first). Times are UTC with milliseconds. ``transitions`` are those that
    the caller may run now (none while paused, for ``pause_reason``); they follow from the definition
    and are not stored. ``masked`` are pointers to places of the payload with parts that the reader may not
    see, which are absent (app.flow.people.field_access); a stored state has none. ``timeout_at`` is the time
    of the step's timeout; while paused it is absent, unless the timeout is ``absolute``, and
    ``timeout_left_ms`` is the time left after the resumption. ``expires_at`` is the end of the state if
    nothing changes it; while paused it is absent, and ``expiry_left_ms`` is the lifetime left after the
    resumption.

    ``participants`` have roles on this state, ``awaits`` are those of their roles that may run a transition
    of the step. ``claims`` and ``votes`` are those at the present step, ``runs`` those of transitions to
    which a rule of the flow refers. ``people`` has a salt for each person but the owner whom any record of
    the state names (app.flow.history_chain). ``search_terms`` are those of a flow with searchable fields, in
    a state that is about to be committed: the document has them, no record does, and they are not read back.
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
    instance_id: str | UnsetType = UNSET
    participants: tuple[Participant, ...] | UnsetType = UNSET
    awaits: tuple[str, ...] | UnsetType = UNSET
    claims: tuple[Claim, ...] | UnsetType = UNSET
    votes: tuple[TransitionBy, ...] | UnsetType = UNSET
    runs: tuple[TransitionBy, ...] | UnsetType = UNSET
    people: tuple[PersonSalt, ...] | UnsetType = UNSET
    transitions: tuple[AvailableTransition, ...] = ()
    masked: tuple[str, ...] | UnsetType = UNSET
    search_terms: tuple[str, ...] | UnsetType = UNSET

    @property
    def next_transition(self) -> AvailableTransition | None:
        """The transition that ``next`` runs: the first that is not ``explicit``."""
        return next((t for t in self.transitions if not t.explicit), None)

    @property
    def id(self) -> StateId:
        """The state's identity."""
        return StateId(self.flow, self.user_id, None if self.instance_id is UNSET else self.instance_id)

    @property
    def key(self) -> str:
        """The state's identity as one text."""
        if self.instance_id is UNSET:
            return f"{self.flow}:{self.user_id}"
        return self.id.key

    @property
    def instances(self) -> Literal["many"] | UnsetType:
        """``many`` if the entity is a part of the identity."""
        return UNSET if self.instance_id is UNSET else "many"

    @property
    def entity(self) -> str | UnsetType | None:
        """The entity that the flow runs for: a part of the identity, or a label."""
        return self.entity_id if self.instance_id is UNSET else self.instance_id

    @property
    def position(self) -> "StatePosition":
        """The position that a change of the state is conditional on."""
        return StatePosition(self.key, self.epoch, self.revision)

    @property
    def place_in_list(self) -> str:
        """The place of a state of many in the list of its owner: a later start has a smaller place."""
        started_ms = round(self.created_at.timestamp() * 1000)
        prefix = instances_prefix(self.flow, self.user_id)
        return f"{prefix}{_LAST_MILLISECOND - started_ms:013d};{self.id.instance_id or ''}"

    def is_gone_at(self, now: datetime) -> bool:
        """Return whether readers at ``now`` find no state here, because it was cleared or has expired.

        A paused state does not expire, not even one that a version before 0.5 paused without stopping its
        clock.
        """
        if self.status == "paused":
            return False
        return self.status in TERMINAL_STATUSES or (self.expires_at is not UNSET and self.expires_at <= now)


NOT_STORED = ("transitions", "masked", "search_terms")
"""Members of a state, or of a record, that follow from its definition, its payload and the reader."""
