"""The health routes for load balancers and tools."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import UNSET, Struct, UnsetType

from app.auth.policy import Access, Permission
from app.contracts.errors import BusUnavailableError, FlowError
from app.http.endpoint import Answer, Call, Endpoint

Check = Callable[[], Awaitable[None]]


OPTIONAL_PARTS = {"redis"}
"""Parts without which HTTP works; only live updates between workers stop."""
OPTIONAL_TIMEOUT_SECONDS = 0.7
"""How long readiness waits for optional parts if they are not required: many load balancers wait 1 s."""


class ReadyQuery(Struct, frozen=True):
    """``strict``: optional parts must be ready, too; by default the setting decides."""

    strict: bool | None = None


class Health(Struct, frozen=True, rename="camel"):
    """The health of the service: ``ok``, ``degraded`` (HTTP works, live updates are late) or ``unavailable``.

    ``checks`` has the result for each part, ``reasons`` the errors of those that are not ready.
    """

    status: str
    checks: dict[str, str] = {}
    reasons: dict[str, str] | UnsetType = UNSET


async def _run_check(check: Check, timeout: float | None) -> tuple[str, str]:
    """Return "ok", or the code of the error and its message."""
    try:
        async with asyncio.timeout(timeout):
            await check()
    except FlowError as error:
        return error.code, str(error)
    except TimeoutError:
        return "BUS_UNAVAILABLE", f"no answer in {timeout} s"
    except BusUnavailableError as error:
        return "BUS_UNAVAILABLE", str(error) or "Redis does not answer"
    return "ok", ""


def operation_endpoints(checks: Mapping[str, Check], *, strict: bool = False) -> Sequence[Endpoint]:
    """Build the endpoints of liveness and readiness.

    Args:
        checks: A check for each part, which raises if the part is not ready.
        strict: Answer 503 even if only an optional part is not ready.
    """

    async def live(_: Call) -> Answer:
        return Answer(Health("ok"))

    async def ready(call: Call) -> Answer:
        is_strict = strict if call.query.strict is None else call.query.strict

        bounded = set() if is_strict else OPTIONAL_PARTS
        answers = await asyncio.gather(
            *(
                _run_check(check, OPTIONAL_TIMEOUT_SECONDS if part in bounded else None)
                for part, check in checks.items()
            )
        )
        found = {part: code for part, (code, _) in zip(checks, answers, strict=True)}
        reasons = {part: why for part, (code, why) in zip(checks, answers, strict=True) if code != "ok"}
        if not reasons:
            return Answer(Health("ok", found))
        if reasons.keys() <= OPTIONAL_PARTS:
            return Answer(Health("degraded", found, reasons), 503 if is_strict else 200)
        return Answer(Health("unavailable", found, reasons), 503)

    return [
        Endpoint(
            method="GET",
            path="/livez",
            name="livez",
            access=Access(Permission.PUBLIC),
            summary="Liveness: the process serves",
            handle=live,
            answers={200: Health},
        ),
        Endpoint(
            method="GET",
            path="/readyz",
            name="readyz",
            access=Access(Permission.PUBLIC),
            summary="Readiness: MongoDB answers; degraded while Redis or other workers cannot be reached",
            query=ReadyQuery,
            handle=ready,
            answers={200: Health, 503: Health},
        ),
    ]
