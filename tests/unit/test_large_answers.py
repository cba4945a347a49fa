"""Answers that could be as large as everything stored: the export of a user, and a batch."""

import json
from contextlib import nullcontext
from typing import Any

import httpx
import jwt
import pytest

from app.auth.tokens import TokenVerifier
from app.contracts.callers import trusted_caller
from app.contracts.commands import BatchOperation, StartCommand, trusted_origin
from app.contracts.record import HistoryRecord
from app.contracts.wire.administration import batch_result, personal_data_view
from app.contracts.wire.encoding import encode
from app.contracts.wire.records import exported_record_view
from app.http.application import build_application
from app.http.routes import administration
from app.services.administration import batch as bulk
from tests.support.rig import Rig, rig

KEY = "k" * 32
OPERATOR = trusted_origin("operator", client="tests")


async def lived(changes: int, *, delivered: int) -> Rig:
    """A service on which ada has made changes; only the first ``delivered`` are in the history."""
    r = await rig()
    await r.flows.start_flow("ada", "loop", StartCommand(payload={"text": "a" * 100}))
    for n in range(changes - 1):
        await r.flows.execute_transition("ada", "loop", "again", {"n": n})
    await r.service.background.relay.deliver(r.states.stored["loop:ada"].deliverable[:delivered])
    return r


async def exported(r: Rig) -> bytes:
    application = build_application(
        r.service,
        TokenVerifier(key=KEY, algorithms=["HS256"]),
        checks={},
        cors_origins=[],
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
    )
    token = jwt.encode({"sub": "root", "scope": "flow:admin", "exp": 4102444800}, KEY, "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as http:
        answer = await http.get("/api/admin/personal-data", params={"userId": "ada"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert "content-length" not in answer.headers, "it is sent while it is read"
    return answer.content


@pytest.mark.parametrize("delivered", [0, 4, 7])
@pytest.mark.parametrize("part_bytes", [1, 1000, 1_000_000])
async def test_an_export_in_parts_is_the_same_document(
    monkeypatch: pytest.MonkeyPatch, delivered: int, part_bytes: int
) -> None:
    monkeypatch.setattr(administration, "EXPORT_PART_BYTES", part_bytes)
    r = await lived(7, delivered=delivered)
    found = await r.service.personal_data.export("ada")
    assert [record.revision for record in found.history] == list(range(7))
    assert await exported(r) == encode(personal_data_view(found))


async def test_the_export_of_nobody_is_empty() -> None:
    document = json.loads(await exported(await rig()))
    assert (document["userId"], document["states"], document["history"]) == ("ada", [], [])


async def test_an_export_holds_no_more_than_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "EXPORT_PART_BYTES", 1)
    r = await lived(7, delivered=7)
    order: list[str] = []
    view = exported_record_view

    def viewing(record: HistoryRecord) -> Any:
        order.append("read")
        return view(record)

    monkeypatch.setattr(administration, "exported_record_view", viewing)
    call: Any = type("Call", (), {"service": r.service, "caller": trusted_caller("root")})
    call.query = administration.PersonalDataQuery("ada")
    response = (await administration._export(call)).value
    async for _ in response.body_iterator:
        order.append("sent")
    assert order == [*["read", "sent"] * 7, "sent"]


async def test_the_payloads_in_the_answer_of_a_batch_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_ANSWER_BYTES", 500)
    r = await rig()
    body = {"step": "a", "payload": {"text": "a" * 180}}
    operations = [BatchOperation(op="set", user_id=f"u-{n}", flow_id="loop", body=body) for n in range(5)]
    operations.append(BatchOperation(op="reset", user_id="u-9", flow_id="loop"))
    outcomes = await r.service.bulk.run(operations, OPERATOR)
    results = [json.loads(encode(batch_result(outcome))) for outcome in outcomes]
    assert all(result["ok"] for result in results)
    assert [result.get("payloadOmitted") for result in results] == [None, None, True, True, True, None]
    assert ["payload" in result["state"] for result in results] == [True, True, False, False, False, False]
    state = await r.flows.get_flow_state("u-4", "loop")
    assert state is not None
    assert state.payload == body["payload"], "it is stored all the same"
