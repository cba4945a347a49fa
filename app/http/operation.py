"""The routes that load balancers and tools ask."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import UNSET, Struct, UnsetType

from app.contracts.errors import FlowError
from app.contracts.ports import BusUnavailableError
from app.http.endpoint import Answer, Call, Endpoint

Check = Callable[[], Awaitable[None]]


class Health(Struct, frozen=True, rename="camel"):
    """``ok``, or what is wrong; ``checks`` by part, and ``reasons`` of those that are not ready."""

    status: str
    checks: dict[str, str] = {}
    reasons: dict[str, str] | UnsetType = UNSET


def operation_endpoints(checks: Mapping[str, Check]) -> Sequence[Endpoint]:
    """Liveness, and readiness by ``checks`` (each raises when its part is not ready)."""

    async def live(_: Call) -> Answer:
        return Answer(Health("ok"))

    async def ready(_: Call) -> Answer:
        found, reasons = {}, {}
        for part, check in checks.items():
            try:
                await check()
                found[part] = "ok"
            except FlowError as error:
                found[part], reasons[part] = error.code, str(error)
            except BusUnavailableError as error:
                found[part], reasons[part] = "BUS_UNAVAILABLE", str(error) or "Redis does not answer"
        ready = all(state == "ok" for state in found.values())
        return Answer(
            Health("ok" if ready else "unavailable", found, reasons or UNSET), 200 if ready else 503
        )

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
            summary="MongoDB and Redis answer, and this worker hears the others",
            handle=ready,
            answers={200: Health, 503: Health},
            public=True,
        ),
    ]
