"""Readiness by what is missing."""

import asyncio
from contextlib import nullcontext

import httpx
import pytest

from app.auth.tokens import TokenVerifier
from app.contracts.errors import BusUnavailableError, StoreUnavailableError
from app.http.application import build_application
from app.http.routes import health
from app.http.routes.health import Check
from tests.support.rig import Rig


def failing(error: Exception | None) -> Check:
    async def check() -> None:
        if error is not None:
            raise error

    return check


async def ready(checks: dict[str, Check], query: str = "", *, strict: bool = False) -> httpx.Response:
    application = build_application(
        Rig().service,
        TokenVerifier(key="k" * 32, algorithms=["HS256"]),
        checks=checks,
        cors_origins=[],
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
        strict_readiness=strict,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://here") as http:
        return await http.get(f"/readyz{query}")


@pytest.mark.parametrize("setting", [False, True])
@pytest.mark.parametrize(("query", "asked"), [("", None), ("?strict=true", True), ("?strict=false", False)])
@pytest.mark.parametrize(
    ("mongodb", "redis", "status"),
    [
        (None, None, "ok"),
        (None, BusUnavailableError(), "degraded"),
        (StoreUnavailableError(), None, "unavailable"),
        (StoreUnavailableError(), BusUnavailableError(), "unavailable"),
    ],
)
async def test_readiness(
    setting: bool, query: str, asked: bool | None, mongodb: Exception, redis: Exception, status: str
) -> None:
    checks = {"mongodb": failing(mongodb), "redis": failing(redis)}
    answer = await ready(checks, query, strict=setting)
    is_strict = setting if asked is None else asked
    expected = {"ok": 200, "degraded": 503 if is_strict else 200, "unavailable": 503}[status]
    assert (answer.status_code, answer.json()["status"]) == (expected, status)
    assert set(answer.json()["checks"]) == {"mongodb", "redis"}


async def test_a_redis_that_hangs_does_not_hold_up_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OPTIONAL_TIMEOUT_SECONDS", 0.05)

    async def hang() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(20):
        answer = await ready({"mongodb": failing(None), "redis": hang})
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"] == {"mongodb": "ok", "redis": "BUS_UNAVAILABLE"}
    assert answer.json()["reasons"] == {"redis": "no answer in 0.05 s"}
