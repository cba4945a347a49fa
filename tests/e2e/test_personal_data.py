"""Export and erasure of personal data over HTTP."""

import json

from tests.support.serving import Serving

FLOW = "user-onboarding"


async def test_over_http(serving: Serving, user: str) -> None:
    route = "/api/admin/personal-data"
    async with serving.http(user) as own:
        await own.post(f"/api/flow/{FLOW}/start", json={"payload": {"iban": "DE0212"}})
    async with serving.http("root", "flow:admin") as admin:
        assert (await admin.get(route)).json()["details"]["errors"][0]["pointer"] == "/userId"
        found = (await admin.get(route, params={"userId": user})).json()
        assert found["userId"] == user
        assert found["states"][0]["payload"] == {"iban": "DE0212"}
        assert found["history"][0]["metadata"]["kind"] == "started"
        receipt = (await admin.delete(route, params={"userId": user})).json()
        assert receipt["recordsErased"] == 1
        assert receipt["receipts"][0]["metadata"]["kind"] == "erased"
        left = (await admin.get(route, params={"userId": user})).json()
        assert left["states"] == []
        assert "DE0212" not in json.dumps(left)
        verified = await admin.get(f"/api/flow/{FLOW}/history/verify", params={"userId": user})
        assert verified.json()["whole"] is True
