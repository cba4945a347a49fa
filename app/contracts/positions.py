"""Positions of a state: where a change is expected, and what a follower holds."""

from msgspec import Struct

from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.state import StatePosition


class ExpectedPosition(Struct, frozen=True):
    """A position at which a change may be made. No epoch: in any life of the state; no revision: at any."""

    revision: int | None
    epoch: str | None = None

    def is_of(self, position: StatePosition) -> bool:
        """Return whether a state at ``position`` is at this one."""
        return self.revision in (None, position.revision) and self.epoch in (None, position.epoch)


class HeldPosition(Struct, frozen=True):
    """A position that a follower holds: an epoch of the state, and the revision in it. No epoch: nothing.

    ``from_start``: the follower knows that there was no state, or that the one it holds has ended. It gets
    a later epoch from its first revision.
    """

    epoch: str | None = None
    revision: int = 0
    from_start: bool = False


NOTHING_HELD = HeldPosition()


def held_position(epoch: str | None, since: int | None, from_start: bool = False) -> HeldPosition:
    """As a follower gives it. Raises InvalidRequestError when one of both is missing."""
    if (epoch is None) != (since is None):
        missing = "since" if since is None else "epoch"
        raise InvalidRequestError([Fault(f"/{missing}", "epoch and since go together")])
    return HeldPosition(epoch, since or 0, from_start)
