"""The JSON shapes of the lists that a service polls: its waiting states, and its events."""

from msgspec import UNSET, Struct, UnsetType, structs

from app.contracts.state import FlowState
from app.contracts.wire.integration_events import IntegrationEventView
from app.contracts.wire.states import StateView, state_view
from app.contracts.wire.times import Time


class PendingStateView(StateView, frozen=True, kw_only=True, rename="camel"):
    """A state that waits at a step of a service, and the time ``since`` which it waits."""

    since: Time


class PendingStatesPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """States that wait at the steps of a service, those that wait for the longest time first.

    ``next`` is the ``after`` of the next page, absent on the last one. A page may have fewer states than
    ``limit``, also none, and still not be the last one. ``complete`` is false until the states are listed
    that waited before the registration.
    """

    items: list[PendingStateView]
    complete: bool
    next: str | None = None


class FeedItemView(Struct, frozen=True, kw_only=True):
    """A delivery to a service.

    ``sequence`` is its place among the deliveries. ``event`` is the CloudEvents object; it is absent, and
    ``gone`` true, if it cannot be made any more, as after the retention of the history.
    """

    sequence: int
    id: str
    type: str
    at: Time
    event: IntegrationEventView | UnsetType = UNSET
    gone: bool | UnsetType = UNSET


class ServiceEventsPage(Struct, frozen=True, omit_defaults=True):
    """Deliveries to a service, in their order.

    ``next`` is the ``after`` that continues behind them. ``complete`` is false if deliveries after ``after``
    are not stored any more; ``first`` is the sequence number of the oldest one then.
    """

    items: list[FeedItemView]
    next: int
    complete: bool
    first: int | UnsetType = UNSET


def pending_state_view(state: FlowState, since: str) -> PendingStateView:
    """Return the view of a waiting state."""
    return PendingStateView(**structs.asdict(state_view(state)), since=since)
