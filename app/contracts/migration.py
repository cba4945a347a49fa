"""Differences between two versions of a flow, and the migration of running states."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from app.contracts.commands import Name
from app.contracts.wire.errors import ErrorView

Effect = Literal["safe", "compatible", "breaking"]
"""The effect of a difference on running states. ``safe``: none. ``compatible``: every state has a step in the
later version, but its options there change. ``breaking``: some states are at a removed step and need a
mapping."""

SAMPLE_SIZE = 10
"""Users that are named for each group of states."""
MAX_LISTED_FAILURES = 100
MAX_MOVED_STATES = 10_000
"""States that one call moves."""


class MemberChange(Struct, frozen=True, omit_defaults=True):
    """A member that differs, with its values; an absent value means that the version has no such member."""

    member: str
    before: Any | UnsetType = UNSET
    after: Any | UnsetType = UNSET


class StepChange(Struct, frozen=True):
    """A step of both versions that differs.

    ``transitions`` among the members is the order of the transitions that both versions have.
    """

    step: str
    members: list[MemberChange]


class StepsDiff(Struct, frozen=True):
    """Differences between the steps, by their names."""

    added: list[str]
    removed: list[str]
    changed: list[StepChange]


class TransitionPlace(Struct, frozen=True):
    """A transition of a step that both versions have, and the step that it leads ``to``."""

    step: str
    transition: str
    to: str


class TransitionChange(Struct, frozen=True):
    """A transition of both versions that differs."""

    step: str
    transition: str
    members: list[MemberChange]


class TransitionsDiff(Struct, frozen=True):
    """Differences between the transitions of steps that both versions have."""

    added: list[TransitionPlace]
    removed: list[TransitionPlace]
    changed: list[TransitionChange]


class Reason(Struct, frozen=True):
    """The effect of one difference on running states.

    ``pointer`` is a JSON pointer into the later version, or into the earlier one for removed members.
    """

    pointer: str
    effect: Effect
    message: str


class FlowDiff(Struct, frozen=True, rename="camel"):
    """Differences of the version ``to`` from the version ``from``.

    ``reasons`` has one entry for each difference, the worst effect first; ``verdict`` is the worst effect.
    ``members`` are those of the flow itself.
    """

    flow: str
    from_version: int = field(name="from")
    to_version: int = field(name="to")
    verdict: Effect
    reasons: list[Reason]
    members: list[MemberChange]
    steps: StepsDiff
    transitions: TransitionsDiff


Version = Annotated[int, Meta(ge=1, lt=2**31)]


class MigrateCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Move running states (active and paused ones) of a flow from one version to another.

    ``mapping`` maps steps of the old version to steps of the new one; null leaves the states of a step where
    they are; steps without an entry continue at the step of the same name. ``dryRun``: report the result
    without moving anything. ``limit``: the largest number of states to move; the same request again continues
    with the others.
    """

    from_version: Version = field(name="from")
    to_version: Version = field(name="to")
    mapping: Annotated[dict[Name, Name | None], Meta(max_length=1000)] = {}
    dry_run: bool = False
    limit: Annotated[int, Meta(ge=1, le=MAX_MOVED_STATES)] = MAX_MOVED_STATES


class Proposal(Struct, frozen=True):
    """A proposed step of the new version for the states of a removed step, with the reason.

    ``confidence`` is between 0 and 1.
    """

    step: str
    to: str
    confidence: float
    reason: str


class Sample(Struct, frozen=True, rename="camel"):
    """The number of states, and the users of the first ``SAMPLE_SIZE`` of them.

    ``entity_ids`` are the entities of the same states, if a user has many in the flow.
    """

    count: int = 0
    user_ids: list[str] = []
    entity_ids: list[str] | UnsetType = UNSET


class StepMigration(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Running states at one step of the old version, as found before the migration.

    ``fit``: they continue at ``to`` (absent: nowhere). Without it they ``needMapping`` if a step of the new
    version is proposed, and are ``stuck`` otherwise, like states that do not fit their own version. ``left``:
    the mapping leaves them where they are. ``advice`` says what to know or do.
    """

    step: str
    fit: Sample
    need_mapping: Sample
    stuck: Sample
    left: Sample
    to: str | None = None
    advice: str = ""


class MigrationFailure(Struct, frozen=True, rename="camel"):
    """A state that could not be moved, and the reason."""

    user_id: str
    error: ErrorView
    entity_id: str | UnsetType = UNSET


class MigrationReport(Struct, frozen=True, rename="camel"):
    """The result of a migration, or of its rehearsal (``dryRun``).

    ``steps`` are the running states of the old version as found before. ``remaining`` counts the states on it
    afterwards, without those that the mapping leaves there. ``failures`` lists the first
    ``MAX_LISTED_FAILURES`` of ``failed``. ``proposals`` are for removed steps without a mapping; they move
    nothing until they are in the mapping.
    """

    flow: str
    from_version: int = field(name="from")
    to_version: int = field(name="to")
    dry_run: bool
    moved: int
    failed: int
    remaining: int
    steps: list[StepMigration]
    proposals: list[Proposal]
    failures: list[MigrationFailure]
