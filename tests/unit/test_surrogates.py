"""Half an emoji in JSON: refused at its place, wherever a text or a name is accepted."""

import json
from contextlib import nullcontext
from datetime import timedelta

import httpx
import pytest

from app.auth.tokens import TokenVerifier, issue_token
from app.flow.values.struct_errors import surrogate_faults
from app.http.application import build_application
from tests.support.rig import Rig

KEY = "k" * 32
HALF = r"\ud83d"


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (rf'{{"message": "{HALF}"}}', ["/message"]),
        (rf'{{"payload": {{"a": [1, "x{HALF}x"], "b": "{HALF}{HALF}"}}}}', ["/payload/a/1", "/payload/b"]),
        (rf'{{"payload": {{"{HALF}": 1}}}}', [r"/payload/\ud83d"]),
        (r'{"payload": {"a/b~": {"c": "\uDE00"}}}', ["/payload/a~1b~0/c"]),
        (rf'"{HALF}"', [""]),
        (r'{"a": "\ud83d\ude00"}', []),
        (r'{"a": "\\ud83d"}', []),
        ('{"a": "\\ud', []),
        ("[" * 100_000 + rf'"{HALF}"', []),
    ],
)
def test_the_place_of_half_a_character(body: str, pointers: list[str]) -> None:
    faults = surrogate_faults(body.encode())
    assert [fault.pointer for fault in faults] == pointers
    assert all("half of a surrogate pair" in fault.message for fault in faults)


def test_there_is_an_end_of_faults() -> None:
    assert len(surrogate_faults(b'["\\udfff"' + b',"\\udfff"' * 5000 + b"]")) == 100


def administrator() -> httpx.AsyncClient:
    application = build_application(
        Rig().service,
        TokenVerifier(key=KEY, algorithms=["HS256"]),
        checks={},
        cors_origins=[],
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
    )
    token = issue_token(KEY, "root", ttl=timedelta(hours=1), scopes=["flow:admin"])
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(application),
        base_url="http://here",
        headers={"Authorization": f"Bearer {token}"},
    )


@pytest.mark.parametrize("method_and_path", ["POST start", "POST transition/go", "POST reset", "PUT state"])
async def test_http_names_the_pointer(method_and_path: str) -> None:
    method, path = method_and_path.split()
    async with administrator() as http:
        for name in ("payload", "step", "message"):
            body = f'{{"{name}": "{HALF}"}}'
            answer = await http.request(method, f"/api/flow/loop/{path}", content=body)
            assert answer.status_code == 422
            (fault,) = json.loads(answer.content)["details"]["errors"]
            assert fault["pointer"] == f"/{name}"
            assert "surrogate" in fault["message"]


@pytest.mark.parametrize("broken", ["%ED%A0%BD", "%F0%9F", "ada%FF"])
async def test_a_query_that_is_no_text_is_refused(broken: str) -> None:
    async with administrator() as http:
        for path in (f"flow/loop/state?userId={broken}", f"admin/states?{broken}=1"):
            answer = await http.get(f"/api/{path}")
            assert answer.status_code == 422
            (fault,) = answer.json()["details"]["errors"]
            assert fault["message"].startswith("the query is not UTF-8")
        sound = await http.get("/api/admin/states?userId=%F0%9F%98%80+%EF%BF%BD")
        assert sound.status_code == 200
