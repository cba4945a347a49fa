"""The routes that load balancers and tools ask."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import UNSET, Struct, UnsetType

from app.contracts.errors import FlowError
from app.contracts.ports.bus import BusUnavailableError
from app.http.endpoint import Answer, Call, Endpoint

Check = Callable[[], Awaitable[None]]


OPTIONAL_PARTS = {"redis"}
"""Without them HTTP works: only live updates between workers stop."""
OPTIONAL_SECONDS = 0.7
"""How long readiness waits for them where they need not be there: many balancers wait 1 s."""


class ReadyQuery(Struct, frozen=True):
    """True: a part without which HTTP works must be there, too; the setting's value by default."""

    strict: bool | None = None


class Health(Struct, frozen=True, rename="camel"):
    """``ok``, ``degraded`` (HTTP works, live updates are late) or ``unavailable``; ``checks`` by part, and
    ``reasons`` of those that are not ready."""

    status: str
    checks: dict[str, str] = {}
    reasons: dict[str, str] | UnsetType = UNSET


def operation_endpoints(checks: Mapping[str, Check], *, strict: bool = False) -> Sequence[Endpoint]:
    """Liveness, and readiness by ``checks`` (each raises when its part is not ready).

    Args:
        checks: By the names of the parts.
        strict: Answer 503 also when only an optional part is not ready.
    """

    async def live(_: Call) -> Answer:
        return Answer(Health("ok"))

    async def ready(call: Call) -> Answer:
        must_be_there = strict if call.query.strict is None else call.query.strict

        async def reason_of(part: str, check: Check) -> tuple[str, str]:
            patience = None if must_be_there or part not in OPTIONAL_PARTS else OPTIONAL_SECONDS
            try:
                async with asyncio.timeout(patience):
                    await check()
            except FlowError as error:
                return error.code, str(error)
            except TimeoutError:
                return "BUS_UNAVAILABLE", f"no answer in {patience} s"
            except BusUnavailableError as error:
                return "BUS_UNAVAILABLE", str(error) or "Redis does not answer"
            return "ok", ""

        answers = await asyncio.gather(*(reason_of(part, check) for part, check in checks.items()))
        found = {part: code for part, (code, _) in zip(checks, answers, strict=True)}
        reasons = {part: why for part, (code, why) in zip(checks, answers, strict=True) if code != "ok"}
        if not reasons:
            return Answer(Health("ok", found))
        if reasons.keys() <= OPTIONAL_PARTS:
            return Answer(Health("degraded", found, reasons), 503 if must_be_there else 200)
        return Answer(Health("unavailable", found, reasons), 503)

    return [
        Endpoint(
            method="GET",
            path="/livez",
            name="livez",
            summary="The process serves",
            handle=live,
            answers={200: Health},
            public=True,
        ),
        Endpoint(
            method="GET",
            path="/readyz",
            name="readyz",
            summary="MongoDB answers; degraded while Redis is away or this worker does not hear the others",
            query=ReadyQuery,
            handle=ready,
            answers={200: Health, 503: Health},
            public=True,
        ),
    ]
