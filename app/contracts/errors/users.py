"""Errors of users whose data was erased."""

from app.contracts.errors.base import FlowError


class UserErasedError(FlowError):
    """A read of a state whose user was erased, by a caller who may read states of others."""

    code = "USER_ERASED"
    status = 410
    title = "User erased"

    def __init__(self, flow_id: str, at: str, by: str) -> None:
        """Describe the erasure.

        Args:
            flow_id: The flow of the state.
            at: The time of the erasure (ISO 8601).
            by: Its actor.
        """
        super().__init__(
            f"The data of this user was erased at {at} by {by}; flow {flow_id} has not been started since",
            flowId=flow_id,
            erasedAt=at,
            erasedBy=by,
        )
