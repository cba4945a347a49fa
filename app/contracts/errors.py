"""The errors of the interface. Each has a stable code and says what to do."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import force_setattr

MAX_FAULTS = 100
MAX_FAULTS_CHARACTERS = 30_000
"""Of all faults of an answer together, so that a small request gets no large one."""
MAX_POINTER = 1000
MAX_NAME = 256
MAX_MESSAGE = 500
MAX_DETAIL = 1000
"""In characters, as the two before."""


def cut(text: str, limit: int) -> str:
    """The text, without its end where it is longer than ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Fault(Struct, frozen=True):
    """One thing wrong with a request. ``pointer`` is a JSON pointer (RFC 6901) into it; it and the message
    are cut where they are long."""

    pointer: str
    message: str

    def __post_init__(self) -> None:
        force_setattr(self, "pointer", cut(self.pointer, MAX_POINTER))
        force_setattr(self, "message", cut(self.message, MAX_MESSAGE))


class FlowError(Exception):
    """The root of every error that a caller can meet.

    ``code`` is stable, ``status`` is HTTP's, ``retryable`` says whether the same request may
    succeed later, ``details`` is JSON, ``retry_after`` is in seconds.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False
    retry_after: int | None = None

    def __init__(self, message: str, **details: Any) -> None:
        self.message = cut(message, MAX_DETAIL)
        super().__init__(self.message)
        self.details: dict[str, Any] = {
            name: cut(value, MAX_DETAIL) if isinstance(value, str) else value
            for name, value in details.items()
        }


class InternalError(FlowError):
    """A fault of the service itself."""

    def __init__(self) -> None:
        super().__init__("The service failed to answer this request; its log has the request id.")


class NotFoundError(FlowError):
    """No such route."""

    code = "NOT_FOUND"
    status = 404
    title = "Not found"


class WebBuildMissingError(FlowError):
    """The files for browsers were not built when the service was installed."""

    code = "WEB_BUILD_MISSING"
    status = 503
    title = "Browser files are not built"

    def __init__(self) -> None:
        super().__init__(
            "This installation has no browser files, because their build was skipped or failed; "
            "run 'server-flow web build' on the server and request this again"
        )


class MethodNotAllowedError(FlowError):
    """The route exists, its method does not."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    title = "Method not allowed"


class AuthenticationRequiredError(FlowError):
    """No valid token."""

    code = "AUTHENTICATION_REQUIRED"
    status = 401
    title = "Authentication required"


class KeysUnavailableError(FlowError):
    """The address of the keys that check tokens (FLOW_JWKS_URL) does not answer."""

    code = "KEYS_UNAVAILABLE"
    status = 503
    title = "Keys unavailable"
    retryable = True
    retry_after = 2

    def __init__(self) -> None:
        super().__init__("The keys to check this token cannot be read at the moment; try again")


class InsufficientPermissionsError(FlowError):
    """A valid token that does not allow this."""

    code = "INSUFFICIENT_PERMISSIONS"
    status = 403
    title = "Insufficient permissions"


class FlowNotFoundError(FlowError):
    """No such definition."""

    code = "FLOW_NOT_FOUND"
    status = 404
    title = "Flow not found"

    def __init__(self, flow_id: str, version: int | None = None) -> None:
        flow_id = cut(flow_id, MAX_NAME)  # of an address it may be anything
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
        """``ended``: when the last state ended, as ``expiredAt``, ``clearedAt`` or ``erasedAt``."""
        message = f"Flow {flow_id} is not started; start it first"
        for how, moment in (ended or {}).items():
            verb = "" if how == "expiredAt" else "was "
            how_it_ended = f"{verb}{how.removesuffix('At')} at {moment}"
            message = f"Flow {flow_id} is not started: its state {how_it_ended}; start it again"
        super().__init__(message, flowId=flow_id, **(ended or {}))


class InvalidTransitionError(FlowError):
    """The transition is none of the current step's."""

    code = "INVALID_TRANSITION"
    status = 409
    title = "Invalid transition"

    def __init__(self, from_step: str, transition: str, allowed: Sequence[str]) -> None:
        super().__init__(
            f"Invalid transition {transition} from step {from_step}",
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
        """``values`` are those that the ``guard`` read, by their names in it; ``reason`` says why it has no
        result."""
        why = "does not hold" if reason is None else f"cannot be told: {reason}"
        super().__init__(
            f"The condition of transition {transition} {why}: {guard}",
            transition=transition,
            guard=guard,
            values=values,
            **({} if reason is None else {"reason": reason}),
        )


class StatePausedError(FlowError):
    """An administrator holds the state."""

    code = "STATE_PAUSED"
    status = 409
    title = "State paused"
    retryable = True

    def __init__(self, flow_id: str, reason: str) -> None:
        super().__init__(
            f"Flow {flow_id} is held: {reason}; try again when it is resumed", flowId=flow_id, reason=reason
        )


class RevisionConflictError(FlowError):
    """The state is not at the revision that the caller expected."""

    code = "REVISION_CONFLICT"
    status = 412
    title = "Revision conflict"
    retryable = True

    def __init__(self, message: str, state: Any) -> None:
        """``state`` is the present FlowState, None when there is none."""
        super().__init__(message, state=None)
        self.state = state


class StateBusyError(FlowError):
    """Others changed the state all the time, so that this change could not be decided on it."""

    code = "STATE_BUSY"
    status = 503
    title = "State busy"
    retryable = True
    retry_after = 1

    def __init__(self, flow_id: str) -> None:
        super().__init__(
            "Others change this state all the time; nothing was changed. Try again later, and change one "
            "state from fewer places at once",
            flowId=flow_id,
        )


class NotOutrankedError(FlowError):
    """A flow cannot be handed back to a source."""

    code = "FLOW_NOT_OUTRANKED"
    status = 409
    title = "Flow not outranked"

    def __init__(self, flow_id: str, source: str) -> None:
        super().__init__(
            f"Flow {flow_id} cannot be handed back: its newest version is of {source}. A caller must have "
            "published it, and a source in FLOW_DEFINITIONS have the flow: check that setting, and the "
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
    """Somebody else published meanwhile."""

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


class FaultyInputError(FlowError):
    """Input with faults; every one is in ``details.errors``, up to ``MAX_FAULTS``, and fewer long ones."""

    status = 422

    def __init__(self, faults: Sequence[Fault], message: str | None = None) -> None:
        faults = _listed(faults)
        listed = "; ".join(f"{f.pointer or '/'}: {f.message}" for f in faults[:3])
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        super().__init__(
            message or listed + more,
            errors=[{"pointer": f.pointer, "message": f.message} for f in faults],
        )
        self.faults = faults


def _listed(faults: Sequence[Fault]) -> list[Fault]:
    """As many faults as an answer has room for; the first is always among them."""
    totals = accumulate(len(fault.pointer) + len(fault.message) for fault in faults[:MAX_FAULTS])
    room = sum(1 for total in totals if total <= MAX_FAULTS_CHARACTERS)
    return list(faults[: max(1, room)])


class InvalidRequestError(FaultyInputError):
    """A body, parameter or header that is not what the route takes."""

    code = "INVALID_REQUEST"
    title = "Invalid request"


class InvalidPayloadError(FaultyInputError):
    """A payload that cannot be kept."""

    code = "INVALID_PAYLOAD"
    title = "Invalid payload"


class InvalidDefinitionError(FaultyInputError):
    """A definition with faults."""

    code = "INVALID_DEFINITION"
    title = "Invalid definition"


class PayloadTooLargeError(FlowError):
    """More bytes than allowed."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413
    title = "Payload too large"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"The {what} is larger than {limit} bytes", limit=limit)


class MalformedRequestError(FlowError):
    """Bytes that are no HTTP request, or no packets of Engine.IO."""

    code = "MALFORMED_REQUEST"
    status = 400
    title = "Malformed request"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message or "This is no request of HTTP/1.1; check what the client or the proxy before it sends"
        )


class AddressTooLongError(FlowError):
    """A path and query of more bytes than allowed."""

    code = "ADDRESS_TOO_LONG"
    status = 414
    title = "Address too long"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The address of the request is longer than {limit} bytes; send less in its query", limit=limit
        )


class HeadersTooLargeError(FlowError):
    """Headers of more bytes, or more headers, than allowed."""

    code = "HEADERS_TOO_LARGE"
    status = 431
    title = "Headers too large"

    def __init__(self, limit: int, max_headers: int) -> None:
        super().__init__(
            f"The request has more than {limit} bytes of headers, or more than {max_headers} headers; send "
            "fewer and shorter ones (cookies are not needed)",
            limit=limit,
            maxHeaders=max_headers,
        )


class RequestTimeoutError(FlowError):
    """A request that did not arrive completely in time."""

    code = "REQUEST_TIMEOUT"
    status = 408
    title = "Request timeout"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The request did not arrive completely in time; send it again")


class TooManyConnectionsError(FlowError):
    """More connections than this process accepts."""

    code = "TOO_MANY_CONNECTIONS"
    status = 503
    title = "Too many connections"
    retryable = True
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This server has as many connections as it accepts; try again later")


class RateLimitedError(FlowError):
    """More requests than a client may make. ``details.retryAfterMs`` says when the next one is taken."""

    code = "RATE_LIMITED"
    status = 429
    title = "Rate limited"
    retryable = True
    retry_after = 1

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what}; try again later", retryAfterMs=max(1, round(seconds * 1000)))
        self.retry_after = max(1, math.ceil(seconds))


class CheckTimeoutError(FlowError):
    """The check of a definition takes longer than it may."""

    code = "CHECK_TIMEOUT"
    status = 503
    title = "Check timeout"
    retryable = True
    retry_after = 30

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"Checking this definition took longer than {seconds:g} seconds and was ended. Make it smaller, "
            "with fewer and shorter guards and schemas, or try again when the service is less busy"
        )


class SlowClientError(FlowError):
    """A connection that is ended as its client does not read what it is told."""

    code = "SLOW_CLIENT"
    status = 503
    title = "Slow client"
    retryable = True

    def __init__(self) -> None:
        super().__init__("This client reads slower than it is told; connect again and catch up")


class FlowStateCorruptionError(FlowError):
    """The stored state does not fit its definition, or is damaged."""

    code = "FLOW_STATE_CORRUPTION"
    status = 500
    title = "Flow state corruption"

    def __init__(
        self, user_id: str, flow_id: str, reason: str, recover: dict[str, Any] | None = None
    ) -> None:
        """``recover`` is what a recovery would do: its ``action``, and the ``record`` and ``step`` that
        it goes back to."""
        way = "an administrator can recover it"
        if recover is not None:
            to = f"at step {recover['step']}" if "step" in recover else "at the initial step"
            way = f"recover would begin it again {to}"
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
    """MongoDB does not answer. ``advice`` says why, to who operates it; clients are not told."""

    code = "STORE_UNAVAILABLE"
    status = 503
    title = "Store unavailable"
    retryable = True
    retry_after = 2

    refused: ClassVar[bool] = False
    """It answers, but cannot be used as it is: ``advice`` says why."""

    def __init__(
        self,
        advice: str = "MongoDB does not answer",
        *,
        wrong_credentials: bool = False,
        failed: bool = False,
    ) -> None:
        """``failed``: it answers with an error that nothing but its own log explains."""
        super().__init__("The store does not answer; nothing is known to have changed. Try again")
        self.advice = advice
        self.wrong_credentials = wrong_credentials
        self.failed = failed

    def __str__(self) -> str:
        return self.advice
