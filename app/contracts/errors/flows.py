"""Errors of definitions and of states."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from app.contracts.errors.base import MAX_FAULTS, MAX_NAME, MAX_POINTER, FlowError, cut


class FlowNotFoundError(FlowError):
    """The definition does not exist."""

    code = "FLOW_NOT_FOUND"
    status = 404
    title = "Flow not found"

    def __init__(self, flow_id: str, version: int | None = None) -> None:
        flow_id = cut(flow_id, MAX_NAME)  # from a URL it may be any text
        if version is None:
            super().__init__(f"Flow {flow_id} not found", flowId=flow_id)
        else:
            super().__init__(f"Flow {flow_id} has no version {version}", flowId=flow_id, version=version)


class FlowNotStartedError(FlowError):
    """A change of a state that does not exist."""

    code = "FLOW_NOT_STARTED"
    status = 409
    title = "Flow not started"

    def __init__(self, flow_id: str, ended: Mapping[str, str] | None = None) -> None:
        """Describe the missing state.

        Args:
            flow_id: Its flow.
            ended: The end of the last state, by ``expiredAt``, ``clearedAt`` or ``erasedAt``.
        """
        message = f"Flow {flow_id} is not started; start it first"
        for member, moment in (ended or {}).items():
            verb = "" if member == "expiredAt" else "was "
            ending = f"{verb}{member.removesuffix('At')} at {moment}"
            message = f"Flow {flow_id} is not started: its state {ending}; start it again"
        super().__init__(message, flowId=flow_id, **(ended or {}))


class EntityRequiredError(FlowError):
    """The user has states with entities in the flow, and the request does not say which."""

    code = "ENTITY_REQUIRED"
    status = 409
    title = "Entity required"

    def __init__(self, flow_id: str, entities: Sequence[str], *, more: bool) -> None:
        """Describe the choice.

        Args:
            flow_id: The flow.
            entities: Entities of some of the states, the newest first.
            more: There are further ones.
        """
        listed = f"{', '.join(entities)}{', …' if more else ''}"
        super().__init__(
            f"Flow {flow_id} has many states for each user; name one by entityId: {listed}",
            flowId=flow_id,
            entityIds=list(entities),
            more=more,
        )


class SeparationOfDutiesError(FlowError):
    """The caller ran a transition after which another person must run this one."""

    code = "SEPARATION_OF_DUTIES"
    status = 403
    title = "Separation of duties"

    def __init__(self, transition: str, ran: str) -> None:
        super().__init__(
            f"Transition {transition} must be run by another person than {ran}, which you ran",
            transition=transition,
            ran=ran,
        )


class ClaimedError(FlowError):
    """Another person has claimed the tasks of the role."""

    code = "CLAIMED"
    status = 409
    title = "Claimed by another person"
    retryable = True

    def __init__(self, role: str, user_id: str, until: str) -> None:
        """Describe the claim; ``until`` is its end (ISO 8601)."""
        super().__init__(
            f"The tasks of {role} are claimed by {user_id} until {until}; try again then",
            role=role,
            userId=user_id,
            until=until,
        )


class InvalidTransitionError(FlowError):
    """The current step does not have the transition."""

    code = "INVALID_TRANSITION"
    status = 409
    title = "Invalid transition"

    def __init__(self, from_step: str, transition: str, allowed: Sequence[str], *, advice: str = "") -> None:
        """Describe the refusal; ``advice`` follows it in the message."""
        super().__init__(
            f"Invalid transition {transition} from step {from_step}{advice and f': {advice}'}",
            fromStep=from_step,
            transition=transition,
            allowed=list(allowed),
        )


class GuardRefusedError(FlowError):
    """The condition of a transition does not hold."""

    code = "GUARD_REFUSED"
    status = 409
    title = "Guard refused"

    def __init__(
        self, transition: str, guard: str, values: dict[str, Any], reason: str | None = None
    ) -> None:
        """Describe the refusal.

        Args:
            transition: The refused transition.
            guard: Its condition.
            values: The values that the condition read, by their names in it.
            reason: The reason why the condition has no result; None if it is false.
        """
        why = "does not hold" if reason is None else f"cannot be evaluated: {reason}"
        super().__init__(
            f"The condition of transition {transition} {why}: {guard}",
            transition=transition,
            guard=guard,
            values=values,
            **({} if reason is None else {"reason": reason}),
        )


class StatePausedError(FlowError):
    """An administrator paused the state."""

    code = "STATE_PAUSED"
    status = 409
    title = "State paused"
    retryable = True

    def __init__(self, flow_id: str, reason: str) -> None:
        super().__init__(
            f"Flow {flow_id} is paused: {reason}; try again when it is resumed", flowId=flow_id, reason=reason
        )


class RevisionConflictError(FlowError):
    """The state changed since the revision that the caller expects, or while the request was decided."""

    code = "REVISION_CONFLICT"
    status = 412
    title = "Revision conflict"
    retryable = True

    def __init__(self, message: str, state: Any, fields: Sequence[str] = ()) -> None:
        """Describe the conflict.

        Args:
            message: The message.
            state: The present FlowState, None if there is none.
            fields: Pointers to the fields of the payload that have changed and may not be replaced.
        """
        super().__init__(message, state=None)
        self.state = state
        if fields:
            self.details["fields"] = [cut(field, MAX_POINTER) for field in fields[:MAX_FAULTS]]


class StateBusyError(FlowError):
    """Other requests changed the state during every attempt of this change."""

    code = "STATE_BUSY"
    status = 503
    title = "State busy"
    retryable = True
    retry_after = 1

    def __init__(self, flow_id: str) -> None:
        super().__init__(
            "Too many other requests change this state; nothing was changed. Try again later, and change one "
            "state from fewer places at once",
            flowId=flow_id,
        )


class NotOutrankedError(FlowError):
    """A flow cannot be returned to a source."""

    code = "FLOW_NOT_OUTRANKED"
    status = 409
    title = "Flow not outranked"

    def __init__(self, flow_id: str, source: str) -> None:
        super().__init__(
            f"Flow {flow_id} cannot be handed back: its newest version is of {source}. A caller must have "
            "published it, and a source in FLOW_DEFINITIONS must have the flow: check that setting, and the "
            "folder of a relative path",
            flowId=flow_id,
            source=source,
        )


class FlowExistsError(FlowError):
    """A definition with this slug exists."""

    code = "FLOW_EXISTS"
    status = 409
    title = "Flow exists"

    def __init__(self, flow_id: str, version: int) -> None:
        super().__init__(
            f"Flow {flow_id} exists (version {version}); update it to publish another version",
            flowId=flow_id,
            version=version,
        )


class VersionConflictError(FlowError):
    """Another version was published in the meantime."""

    code = "VERSION_CONFLICT"
    status = 409
    title = "Version conflict"
    retryable = True

    def __init__(self, flow_id: str, version: int) -> None:
        super().__init__(
            f"Flow {flow_id} is at version {version} now; read it and try again",
            flowId=flow_id,
            version=version,
        )


class FlowStateCorruptionError(FlowError):
    """The stored state is inconsistent with its definition, or damaged."""

    code = "FLOW_STATE_CORRUPTION"
    status = 500
    title = "Flow state corruption"

    def __init__(
        self, user_id: str, flow_id: str, reason: str, recover: dict[str, Any] | None = None
    ) -> None:
        """Describe the damage.

        Args:
            user_id: The user of the state.
            flow_id: The flow of the state.
            reason: The damage.
            recover: The result of a recovery: its ``action``, and the ``record`` and ``step`` of the state
                after it.
        """
        way = "an administrator can recover it"
        if recover is not None:
            to = f"at step {recover['step']}" if "step" in recover else "at the initial step"
            way = f"recover would restart it {to}"
            if recover["action"] == "rebuilt":
                way = f"recover would rebuild it from its history {to}"
        super().__init__(
            f"Flow state corrupted for user {user_id}, flow {flow_id}: {reason}; {way}",
            userId=user_id,
            flowId=flow_id,
            reason=reason,
            **({} if recover is None else {"recover": recover}),
        )


class DefinitionCorruptionError(FlowStateCorruptionError):
    """A stored version of a definition is damaged."""

    def __init__(self, flow_id: str, version: object, reason: str) -> None:
        place = f"version {version} of the definition"
        FlowError.__init__(
            self,
            f"Flow {flow_id}: {place} cannot be read ({reason}); restore it in the database from a backup",
            flowId=flow_id,
            reason=f"{place} cannot be read ({reason})",
        )


class StoreUnavailableError(FlowError):
    """MongoDB does not answer.

    Args:
        advice: The reason, for operators; clients do not receive it.
        wrong_credentials: MongoDB refuses the user or the password.
        failed: MongoDB answers with an error that only its own log explains.
    """

    code = "STORE_UNAVAILABLE"
    status = 503
    title = "Store unavailable"
    retryable = True
    retry_after = 2

    refused: ClassVar[bool] = False
    """True if it answers, but cannot be used as it is, for the reason ``advice``."""

    def __init__(
        self,
        advice: str = "MongoDB does not answer",
        *,
        wrong_credentials: bool = False,
        failed: bool = False,
    ) -> None:
        super().__init__("The store does not answer; nothing is known to have changed. Try again")
        self.advice = advice
        self.wrong_credentials = wrong_credentials
        self.failed = failed

    def __str__(self) -> str:
        return self.advice


class KeyServiceUnavailableError(StoreUnavailableError):
    """A data key cannot be unwrapped now: its key management service fails, or its wrapping key lacks."""


class DatabaseRefusedError(StoreUnavailableError):
    """The database cannot be used as it is: a wrong address, wrong credentials, no such host."""

    refused = True
