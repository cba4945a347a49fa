"""Server-Sent Events over fakes."""

import json
import time

from msgspec import Raw

from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller
from app.contracts.events import StateChanged, user_topic
from app.contracts.positions import NOTHING_HELD, HeldPosition
from app.contracts.state import StateId
from app.http.routes.streams import MAX_BACKLOG, FlowStream, _readers
from tests.support.rig import rig

VERIFIER = TokenVerifier(key="k" * 32, algorithms=["HS256"])


async def test_a_reader_that_is_too_slow_is_reported_so() -> None:
    r = await rig()
    stream = FlowStream(
        r.service, VERIFIER, Caller("ada", expires_at=time.time() + 60), StateId("loop", "ada")
    )
    await stream.open(NOTHING_HELD)
    state, _ = await r.flows.start_flow("ada", "loop")
    events = stream.events()
    assert (await anext(events)).event == "flow-state"
    for revision in range(MAX_BACKLOG + 500):
        change = StateChanged("ada", "loop", state.epoch, revision, 0, Raw(b"{}"))
        await r.bus.publish([change])
    last = [event async for event in events][-1]
    assert last.event == "flow-error"
    assert json.loads(str(last.data))["code"] == "SLOW_CLIENT"
    stream.close()
    assert not r.service.subscribers.has_subscribers(user_topic("ada"))


async def test_an_epoch_that_begins_unseen_is_reported_from_its_first_revision() -> None:
    r = await rig()
    async with r.service:
        stream = FlowStream(
            r.service, VERIFIER, Caller("ada", expires_at=time.time() + 60), StateId("loop", "ada")
        )
        await stream.open(NOTHING_HELD)
        events = stream.events()
        assert (await anext(events)).data == "null"
        for _ in range(2):
            # Both are committed before the stream looks at the first.
            state, _ = await r.flows.start_flow("ada", "loop")
            await r.flows.execute_transition("ada", "loop", "again")
            await r.service.background.relay.drain(5)
            sent = [await anext(events) for _ in range(2)]
            await r.flows.clear_flow_state("ada", "loop")
            sent.append(await anext(events))
            assert [(event.event, event.id) for event in sent] == [
                ("flow-state", f"{state.epoch}.0"),
                ("flow-state-updated", f"{state.epoch}.1"),
                ("flow-state-updated", f"{state.epoch}.2"),
            ]
            assert "kind" not in json.loads(str(sent[0].data)), "a state, as when it is read"
        stream.close()


async def test_a_reader_that_knew_of_no_state_missed_none() -> None:
    r = await rig()
    async with r.service:
        state, _ = await r.flows.start_flow("ada", "loop")
        await r.flows.execute_transition("ada", "loop", "again")
        stream = FlowStream(
            r.service, VERIFIER, Caller("ada", expires_at=time.time() + 60), StateId("loop", "ada")
        )
        await stream.open(HeldPosition(from_start=True))
        events = stream.events()
        sent = [await anext(events) for _ in range(2)]
        assert [(event.event, event.id) for event in sent] == [
            ("flow-state", f"{state.epoch}.0"),
            ("flow-state-updated", f"{state.epoch}.1"),
        ]
        stream.close()


async def test_a_stream_with_events_that_wait_ends_with_its_token_too() -> None:
    r = await rig()
    state, _ = await r.flows.start_flow("ada", "loop")
    caller = Caller("ada", expires_at=time.time() - 1)  # it has expired since the request
    stream = FlowStream(r.service, VERIFIER, caller, StateId("loop", "ada"))
    await stream.open(NOTHING_HELD)
    events = stream.events()
    assert (await anext(events)).event == "flow-state"
    for revision in range(1, 20):
        await r.bus.publish([StateChanged("ada", "loop", state.epoch, revision, 0, Raw(b"{}"))])
    (last,) = [event async for event in events]
    assert last.event == "flow-error"
    assert json.loads(str(last.data))["code"] == "AUTHENTICATION_REQUIRED"
    stream.close()


async def test_streams_that_were_closed_leave_nothing() -> None:
    r = await rig()
    before = len(_readers)
    for n in range(5):
        user = f"user-{n}"
        await r.flows.start_flow(user, "loop")
        stream = FlowStream(r.service, VERIFIER, Caller(user), StateId("loop", user))
        await stream.open(NOTHING_HELD)
        assert len(_readers) == before + 1
        stream.close()
        stream.close()
    assert len(_readers) == before
