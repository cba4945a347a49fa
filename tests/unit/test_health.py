"""Readiness by what is missing."""

from contextlib import nullcontext

import httpx
import pytest

from app.auth.tokens import TokenVerifier
from app.contracts.errors import StoreUnavailableError
from app.contracts.ports import BusUnavailableError
from app.http.application import build_application
from app.http.operation import Check
from tests.support.rig import Rig


def failing(error: Exception | None) -> Check:
    async def check() -> None:
        if error is not None:
            raise error

    return check


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
    application = build_application(
        Rig().service,
        TokenVerifier(key="k" * 32, jwks_url=None, algorithms=["HS256"]),
        checks={"mongodb": failing(mongodb), "redis": failing(redis)},
        cors_origins=[],
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
        strict_readiness=setting,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://here") as http:
        answer = await http.get(f"/readyz{query}")
    is_strict = setting if asked is None else asked
    expected = {"ok": 200, "degraded": 503 if is_strict else 200, "unavailable": 503}[status]
    assert (answer.status_code, answer.json()["status"]) == (expected, status)
    assert set(answer.json()["checks"]) == {"mongodb", "redis"}
