"""Positions of a state: those that a change expects, and those that subscribers hold."""

from msgspec import Struct

from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.state import StatePosition


class ExpectedPosition(Struct, frozen=True):
    """A position at which a change may be made. ``None`` means any epoch, any revision."""

    revision: int | None
    epoch: str | None = None

    def is_of(self, position: StatePosition) -> bool:
        """Return true if a state at ``position`` is at this one."""
        return self.revision in (None, position.revision) and self.epoch in (None, position.epoch)


class HeldPosition(Struct, frozen=True):
    """A position that a subscriber holds: an epoch of the state, and the revision in it. No epoch: nothing.

    ``from_start``: the subscriber knows that there was no state, or that the one it holds has ended. It
    receives a later epoch from its first revision.
    """

    epoch: str | None = None
    revision: int = 0
    from_start: bool = False


NOTHING_HELD = HeldPosition()


def held_position(epoch: str | None, since: int | None, from_start: bool = False) -> HeldPosition:
    """Create the position from a subscriber's request.

    Raises:
        InvalidRequestError: Only one of ``epoch`` and ``since`` is given.
    """
    if (epoch is None) != (since is None):
        missing = "since" if since is None else "epoch"
        raise InvalidRequestError([Fault(f"/{missing}", "epoch and since must be given together")])
    return HeldPosition(epoch, since or 0, from_start)
