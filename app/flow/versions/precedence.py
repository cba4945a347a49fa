"""Precedence of definitions: whether the flow of a source is published over the newest stored version.

The rule is that of decision 3 (``docs/decisions/0003-definitions-are-versions.md``).

The first row that fits applies:

================  =============================================  ============
newest version    condition                                      decision
================  =============================================  ============
none              the source creates flows                       PUBLISH
none              otherwise                                      NOT_CREATED
of a caller       the database comes before the source           OUTRANKED
of either         it has the same flow and is not retired        UP_TO_DATE
of a caller       otherwise                                      PUBLISH
of a source       the offer is not new                           UP_TO_DATE
of a source       the offer is not the first one, and a version  UP_TO_DATE
                  after the last one had the flow
of a source       ``missing_above``                              HELD_BACK
of a source       otherwise                                      PUBLISH
================  =============================================  ============

A version after the last offer that had the flow means that another worker published it already, and that
the versions after it are newer.
"""

from enum import Enum

from msgspec import Struct, json, structs

from app.contracts.definition import FlowDefinition
from app.contracts.flow import Flow

SOURCE_PREFIXES = ("file:", "remote:")
"""The beginnings of what a version names as its source, if it did not come from a caller."""


class Decision(Enum):
    """The outcome for a flow that a source offers."""

    PUBLISH = "publish the flow of the source"
    NOT_CREATED = "the flow is not stored, and the source does not create flows"
    OUTRANKED = "a caller's version takes precedence"
    UP_TO_DATE = "the newest version stays"
    HELD_BACK = "the newest version is the copy of a source that comes first and cannot be read now"
    NEEDS_HISTORY = "it depends on whether a version since the last offer had the flow"


class Offer(Struct, frozen=True):
    """A flow that a source offers, with what precedence depends on.

    Attributes:
        flow: The flow.
        overrides: The source comes before the database.
        creates: The flow is published even if the database does not have it.
        changed: The source offers another flow than before.
        since: The newest version after the last offer, None if nothing was offered before.
    """

    flow: Flow
    overrides: bool
    creates: bool
    changed: bool
    since: int | None


def precedence(
    offer: Offer,
    newest: FlowDefinition | None,
    *,
    missing_above: bool,
    published_since: bool | None = None,
) -> Decision:
    """Decide between the flow of a source and the newest stored version, by the table of this module.

    Args:
        offer: The flow of the source.
        newest: The newest stored version, None if there never was one.
        missing_above: The newest version names a source that comes before this one and cannot be read now.
        published_since: A version after ``offer.since`` and before the newest had the flow. None: not looked
            up yet; NEEDS_HISTORY is returned if it matters.
    """
    if newest is None:
        return Decision.PUBLISH if offer.creates else Decision.NOT_CREATED
    of_caller = not is_from_source(newest)
    if of_caller and not offer.overrides:
        return Decision.OUTRANKED
    is_same = is_same_flow(newest.flow, offer.flow)
    if is_same and not newest.retired:
        return Decision.UP_TO_DATE
    if of_caller:
        return Decision.PUBLISH
    if not offer.changed:
        return Decision.UP_TO_DATE
    if offer.since is not None:
        if not is_same and published_since is None:
            return Decision.NEEDS_HISTORY
        if is_same or published_since:
            return Decision.UP_TO_DATE
    return Decision.HELD_BACK if missing_above else Decision.PUBLISH


def is_from_source(definition: FlowDefinition) -> bool:
    """Return true if a version came from a source, false if a caller published or retired it."""
    return definition.source.startswith(SOURCE_PREFIXES)


def is_same_flow(one: Flow, other: Flow) -> bool:
    """Return true if two flows are equal, also in the order of steps and in ``1`` not being ``true``.

    Prefabs follow from the rest and are ignored.
    """
    one, other = structs.replace(one, prefabs={}), structs.replace(other, prefabs={})
    return json.encode(one) == json.encode(other)
