"""The payload of a state: its bounds, and how commands edit it."""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from app.contracts.commands import SetCommand, TransitionCommand
from app.contracts.errors import Fault, InvalidPayloadError, PayloadTooLargeError
from app.contracts.state import Payload
from app.flow.values.masking import Mask
from app.flow.values.removal import without
from app.flow.values.storable_json import MAX_DEPTH, count_nodes, storage_errors


class PayloadLimits(Struct, frozen=True):
    """Bounds of the payload of a state.

    ``max_bytes`` are those of the whole as JSON, and ``max_fields`` is the number of members of its objects
    and lists at every level.
    """

    max_bytes: int = 65_536
    max_depth: int = MAX_DEPTH
    max_fields: int = 10_000

    @property
    def is_shallow(self) -> bool:
        """True if payloads may be nested less deeply than everything else."""
        return self.max_depth < MAX_DEPTH


DEFAULT_LIMITS = PayloadLimits()


def require_storable(given: Payload, limits: PayloadLimits = DEFAULT_LIMITS) -> None:
    """Raise InvalidPayloadError, with every fault, unless ``given`` can be stored without loss."""
    faults = storage_errors(given, "/payload", limits.max_depth)
    if faults:
        raise InvalidPayloadError(faults)


def check_size(whole: Payload, limits: PayloadLimits) -> None:
    """Check the size of the whole payload of a state.

    Raises:
        PayloadTooLargeError: It has too many bytes.
        InvalidPayloadError: It has too many members.
    """
    size = len(msgspec.json.encode(whole))
    if size > limits.max_bytes:
        raise PayloadTooLargeError("payload of the state", limits.max_bytes)
    # A member is at least two bytes of JSON, so that few payloads need to be counted.
    if size > 2 * limits.max_fields and count_nodes(whole) > limits.max_fields:
        raise InvalidPayloadError(
            [
                Fault(
                    "/payload",
                    f"has more than {limits.max_fields} members at all levels",
                )
            ]
        )


def check_payload(
    given: Payload | UnsetType, whole: Payload | UnsetType, limits: PayloadLimits, *, known: bool = False
) -> None:
    """Check the payload of a command, and that of the state afterwards.

    ``known``: rules have checked already that ``given`` can be stored, for the largest depth.
    """
    if given is UNSET:
        return
    if not known or limits.is_shallow:
        require_storable(given, limits)
    if whole is not UNSET:
        check_size(whole, limits)


def edit_payload(
    present: Payload | UnsetType, command: TransitionCommand | SetCommand, mask: Mask | None = None
) -> Payload | UnsetType:
    """Remove members from the payload, then merge the given one into it.

    ``mask`` hides parts of the payload from the caller: those in members that it sends remain.
    """
    if command.remove is not UNSET and present is not UNSET:
        present = without(present, command.remove)
    if command.payload is UNSET:
        return present
    if present is UNSET:
        return command.payload
    sent = command.payload if mask is None else mask.restore(command.payload, present)
    return {**present, **sent}
