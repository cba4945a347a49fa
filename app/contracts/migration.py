"""Two versions of a flow: how they differ, and the move of running states from one to the other."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from app.contracts.commands import Name
from app.contracts.wire.errors import ErrorView

Effect = Literal["safe", "compatible", "breaking"]
"""On running states: they notice nothing; each has a step to go on at, but what it may do there changes;
some stand at a step that is gone, and need a mapping."""

SHOWN = 10
"""How many users are named of those who stand alike."""
SHOWN_FAILURES = 100
MOVED_AT_MOST = 10_000
"""States that one call moves."""


class MemberChange(Struct, frozen=True, omit_defaults=True):
    """A member that differs, with what it was and is; absent: it had or has none."""

    member: str
    before: Any | UnsetType = UNSET
    after: Any | UnsetType = UNSET


class StepChange(Struct, frozen=True):
    """A step that both versions have, with what differs in itself. ``transitions`` among the members is the
    order of those that both have."""

    step: str
    members: list[MemberChange]


class StepsDiff(Struct, frozen=True):
    """Steps, by their names."""

    added: list[str]
    removed: list[str]
    changed: list[StepChange]


class TransitionPlace(Struct, frozen=True):
    """A transition of a step that both versions have, and the step that it leads ``to``."""

    step: str
    transition: str
    to: str


class TransitionChange(Struct, frozen=True):
    """A transition that both versions have, with what differs."""

    step: str
    transition: str
    members: list[MemberChange]


class TransitionsDiff(Struct, frozen=True):
    """Transitions of the steps that both versions have; those of other steps come and go with them."""

    added: list[TransitionPlace]
    removed: list[TransitionPlace]
    changed: list[TransitionChange]


class Reason(Struct, frozen=True):
    """The effect of one difference on running states. ``pointer`` is a JSON pointer into the later
    version, for what is gone into the earlier one."""

    pointer: str
    effect: Effect
    message: str


class FlowDiff(Struct, frozen=True, rename="camel"):
    """How the version ``to`` differs from ``from``. ``verdict`` is the worst effect of the ``reasons``, of
    which there is one for each difference, the worst first. ``members`` are those of the flow itself."""

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
    """Move running states (active and paused ones) of a flow from one version to another. ``mapping`` says
    which step of the old version goes on at which of the new, null: its states stay where they are; a step
    that it does not name goes on at the one of the same name. ``dryRun``: only say what would become of
    them. ``limit``: move at most so many; the same request again goes on with the others."""

    from_version: Version = field(name="from")
    to_version: Version = field(name="to")
    mapping: Annotated[dict[Name, Name | None], Meta(max_length=1000)] = {}
    dry_run: bool = False
    limit: Annotated[int, Meta(ge=1, le=MOVED_AT_MOST)] = MOVED_AT_MOST


class Proposal(Struct, frozen=True):
    """A step of the new version that a step which is gone may go on at, and what speaks for it.
    ``confidence`` is between 0 and 1."""

    step: str
    to: str
    confidence: float
    reason: str


class Sample(Struct, frozen=True, rename="camel"):
    """How many states, and the users of the first ``SHOWN`` of them."""

    count: int = 0
    user_ids: list[str] = []


class StepMigration(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The running states at one step of the old version as they were found. They go on at ``to`` (absent:
    nowhere): ``fit``. Without it they ``needMapping`` when a step of the new version is proposed, else they
    are ``stuck``, as are those that do not fit their own version. ``left``: the mapping says to leave them.
    ``advice`` says what to know or do."""

    step: str
    fit: Sample
    need_mapping: Sample
    stuck: Sample
    left: Sample
    to: str | None = None
    advice: str = ""


class MigrationFailure(Struct, frozen=True, rename="camel"):
    """A state that could not be moved, and why."""

    user_id: str
    error: ErrorView


class MigrationReport(Struct, frozen=True, rename="camel"):
    """The outcome of a migration, or of its rehearsal (``dryRun``). ``steps`` are the running states of the
    old version as they were found before. ``remaining`` are those on it afterwards that are not to be left
    there. ``failures`` are the first ``SHOWN_FAILURES`` of ``failed``. ``proposals`` are for steps that are
    gone and have no mapping; nothing is moved by them until they are one."""

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
