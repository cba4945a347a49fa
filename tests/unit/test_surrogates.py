"""Half an emoji in JSON: refused at its place, wherever a text or a name is taken."""

import json
from contextlib import nullcontext
from datetime import timedelta

import httpx
import pytest

from app.auth.tokens import TokenVerifier, issue_token
from app.flow.faults import surrogate_faults
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


@pytest.mark.parametrize("method_and_path", ["POST start", "POST transition/go", "POST reset", "PUT state"])
async def test_http_names_the_pointer(method_and_path: str) -> None:
    application = build_application(
        Rig().service,
        TokenVerifier(key=KEY, jwks_url=None, algorithms=["HS256"]),
        checks={},
        cors_origins=[],
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
    )
    method, path = method_and_path.split()
    headers = {
        "Authorization": f"Bearer {issue_token(KEY, 'root', ttl=timedelta(hours=1), scopes=['flow:admin'])}"
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://here") as http:
        for name in ("payload", "step", "message"):
            body = f'{{"{name}": "{HALF}"}}'
            answer = await http.request(method, f"/api/flow/loop/{path}", content=body, headers=headers)
            assert answer.status_code == 422
            (fault,) = json.loads(answer.content)["details"]["errors"]
            assert fault["pointer"] == f"/{name}"
            assert "surrogate" in fault["message"]
