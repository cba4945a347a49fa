"""The commands about deliveries, as bodies of requests."""

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from app.contracts.commands import EntityId
from app.contracts.deliveries import DeadLetterFilter

MAX_STATES = 1000
"""States that one request replays."""

Moment = Annotated[datetime, Meta(tz=True)]


class LettersCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """An operation on all dead letters that match a filter, such as the one that their list returned.

    ``dryRun``: count them, and change nothing.
    """

    filter: DeadLetterFilter
    dry_run: bool = False


class EditCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Replace the event of a dead letter; its ``id`` and ``specversion`` must not change."""

    event: dict[str, Any]


class ReplayCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Deliver events again that were delivered before, marked as a replay.

    Attributes:
        since: Only changes at this time or later.
        until: Only changes before this time.
        from_revision: Only changes from this revision of ``epoch`` on.
        epoch: The epoch of ``fromRevision``, by default the present one.
        flow_id: Only states of this flow.
        user_id: Only states of this user.
        entity_id: Only the states with this entity.
        after: The ``next`` of the answer before.
        limit: The largest number of states.
        dry_run: Count, and change nothing.
    """

    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET
    from_revision: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    epoch: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    flow_id: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    user_id: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    entity_id: EntityId | UnsetType = UNSET
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_STATES)] = MAX_STATES
    dry_run: bool = False
