"""Server-Sent Events over fakes."""

import json
import time

from msgspec import Raw

from app.contracts.command import NOTHING_HELD, Caller
from app.contracts.events import StateChanged, of_user
from app.http.streams import WAITING_EVENTS, FlowStream
from tests.support.rig import rig


async def test_a_reader_that_is_too_slow_is_told_so() -> None:
    r = await rig()
    stream = FlowStream(r.service, Caller("ada", expires_at=time.time() + 60), "ada", "loop")
    await stream.open(NOTHING_HELD)
    state, _ = await r.service.start_flow("ada", "loop")
    events = stream.events()
    assert (await anext(events)).event == "flow-state"
    for revision in range(WAITING_EVENTS + 500):
        change = StateChanged("ada", "loop", state.epoch, revision, 0, Raw(b"{}"))
        await r.bus.publish([change])
    last = [event async for event in events][-1]
    assert last.event == "flow-error"
    assert json.loads(str(last.data))["code"] == "SLOW_CLIENT"
    stream.close()
    assert not r.service.audience.listens(of_user("ada"))
