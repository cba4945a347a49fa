"""Long connections with credentials of a service: Socket.IO and Server-Sent Events."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from app.auth.tokens import TokenVerifier
from app.contracts.callers import ADMIN, Caller
from app.contracts.commands import Origin
from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.integration_commands import ApiKeyCommand
from app.contracts.positions import NOTHING_HELD
from app.contracts.state import StateId
from app.http.routes.streams import FlowStream
from app.services.integrations.api_keys import NewApiKey
from realtime.gateway.messages import SubscribeMessage
from realtime.gateway.rooms import state_room
from tests.support.gateway import Gateway
from tests.support.rig import Rig

ROOT = Caller("root", scopes=frozenset({ADMIN}))
SUBSCRIBE = SubscribeMessage(flow_id="shop", user_id="olga")
SHOP = StateId("shop", "olga")


def flow(slug: str, *owners: str) -> dict[str, Any]:
    """A flow whose steps belong to the owners, in a circle."""
    names = [f"s{n}" for n in range(len(owners))]
    steps = {
        name: {
            "index": n,
            "step": name,
            "service": owner,
            "transitions": {"go": {"transition": "go", "step": names[(n + 1) % len(names)]}},
        }
        for n, (name, owner) in enumerate(zip(names, owners, strict=True))
    }
    return {"flow": slug, "initialStep": names[0], "steps": steps}


class Served:
    """A gateway that verifies API keys, with one key of ``payment``."""

    def __init__(self, gateway: Gateway, key: NewApiKey, verifier: TokenVerifier) -> None:
        self.gateway = gateway
        self.rig = gateway.rig
        self.key = key
        self.verifier = verifier

    async def revoke(self) -> None:
        await self.rig.service.integrations.keys.revoke("payment", self.key.key.id, ROOT)

    async def go(self) -> None:
        await self.rig.flows.execute_transition("olga", "shop", "go")
        await self.rig.service.background.relay.drain(5)
        for _ in range(50):
            await asyncio.sleep(0)

    def received(self, sid: str) -> list[Any]:
        """Return the steps and the transitions of the changes that a client received."""
        rooms = {room for room, sids in self.gateway.members.items() if sid in sids} | {sid}
        bodies = [
            json.loads(bytes(body))
            for event, body, room in self.gateway.emitted
            if event == "flow-state-updated"
            and not rooms.isdisjoint(room if isinstance(room, list) else [room])
        ]
        return [(body["step"], [each["transition"] for each in body["transitions"]]) for body in bodies]


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr("realtime.gateway.handlers.RENEWAL_SECONDS", 0.01)
    monkeypatch.setattr("app.http.stream_caller.RENEWAL_SECONDS", 0.01)
    rig = Rig()
    rig.clock.time = now = datetime.now(UTC)
    rig.registrations.integrations["payment"] = Integration(
        alias="payment", registered_at=now, updated_at=now
    )
    keys = rig.service.integrations.keys
    await rig.service.create_flow(flow("shop", "payment", "user"))
    await rig.service.start_flow("olga", "shop", origin=Origin(Caller("olga")))
    key = await keys.create("payment", ApiKeyCommand(), ROOT)
    verifier = TokenVerifier(key="k" * 32, algorithms=["HS256"], service_keys=keys)
    gateway = Gateway(rig, monkeypatch, verifier)
    async with rig.service:
        run = asyncio.create_task(gateway.sockets._rooms.run())
        await gateway.connect("pay", key.text)
        yield Served(gateway, key, verifier)
        run.cancel()
        await gateway.sockets._disconnect("pay")


async def test_a_revoked_key_ends_its_connection(served: Served) -> None:
    await served.revoke()
    refusal = await served.gateway.ended.get()
    assert (refusal.code, refusal.message) == ("AUTHENTICATION_REQUIRED", "The API key is not valid here")


async def test_a_connection_stays_while_the_store_is_unavailable(served: Served) -> None:
    store = served.rig.api_keys
    reads, read = asyncio.Event(), store.get

    async def unavailable(key_id: str) -> Any:
        reads.set()
        raise StoreUnavailableError

    store.get = unavailable  # type: ignore[method-assign]
    served.rig.service.integrations.keys._cache.invalidate()
    await reads.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert served.gateway.ended.empty()
    store.get = read  # type: ignore[method-assign]
    await served.revoke()
    assert (await served.gateway.ended.get()).code == "AUTHENTICATION_REQUIRED"


@pytest.mark.expected_logs("token check failed")
async def test_a_connection_that_cannot_be_checked_ends(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Caller) -> Caller:
        raise LookupError

    monkeypatch.setattr(served.verifier, "renew", broken)
    assert (await served.gateway.ended.get()).code == "INTERNAL_ERROR"


async def test_a_service_receives_changes_with_the_transitions_of_its_own_steps(served: Served) -> None:
    session = served.gateway.sockets._sessions["pay"]
    answer = await served.gateway.sockets._subscribe(session, "olga", SUBSCRIBE)
    assert [each.transition for each in answer["state"].transitions] == ["go"]
    assert served.rig.service.presence.known_on(SHOP) == [], "it is no person"
    await served.go()
    await served.go()
    assert served.received("pay") == [("s1", []), ("s0", ["go"])]


async def test_a_service_follows_a_state_from_one_life_to_the_next(served: Served) -> None:
    session = served.gateway.sockets._sessions["pay"]
    await served.gateway.sockets._subscribe(session, "olga", SUBSCRIBE)
    await served.rig.flows.clear_flow_state("olga", "shop")
    await served.rig.service.start_flow("olga", "shop", origin=Origin(Caller("olga")))
    await served.go()
    assert [step for step, _ in served.received("pay")] == ["s0", "s0", "s1"]


async def test_a_service_loses_sight_of_a_flow_that_has_no_step_of_it_any_more(served: Served) -> None:
    session = served.gateway.sockets._sessions["pay"]
    await served.gateway.sockets._subscribe(session, "olga", SUBSCRIBE)
    await served.rig.service.update_flow("shop", {"steps": flow("shop", "user", "user")["steps"]})
    await served.go()
    assert [step for step, _ in served.received("pay")] == ["s1"], "the state runs on the version before"
    await served.rig.flows.reset_flow("olga", "shop")
    await served.go()
    assert [step for step, _ in served.received("pay")] == ["s1"]
    assert SHOP not in session.followed
    assert not served.gateway.members.get(state_room(SHOP))


async def test_a_stream_ends_when_its_key_is_revoked(served: Served) -> None:
    caller = await served.verifier.verify(served.key.text)
    stream = FlowStream(served.rig.service, served.verifier, caller, SHOP)
    await stream.open(NOTHING_HELD)
    events = stream.events()
    first = await anext(events)
    assert json.loads(str(first.data))["step"] == "s0"
    waiting = asyncio.ensure_future(anext(events))
    await served.revoke()
    last = await waiting
    assert (last.event, json.loads(str(last.data))["code"]) == ("flow-error", "AUTHENTICATION_REQUIRED")
    stream.close()


async def test_a_stream_outlives_the_trust_in_its_key_while_that_is_valid(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await served.verifier.verify(served.key.text)
    renewed = asyncio.Event()
    renew = served.verifier.renew

    async def recorded(given: Caller) -> Caller:
        found = await renew(given)
        served.rig.clock.advance(seconds=1)
        if found.expires_at > caller.expires_at:
            renewed.set()
        return found

    monkeypatch.setattr(served.verifier, "renew", recorded)
    stream = FlowStream(served.rig.service, served.verifier, caller, SHOP)
    await stream.open(NOTHING_HELD)
    events = stream.events()
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await renewed.wait()
    await served.go()
    assert (await waiting).event == "flow-state-updated"
    stream.close()


async def test_a_state_of_another_flow_is_not_followed(served: Served) -> None:
    await served.rig.service.create_flow(flow("side", "user", "user"))
    await served.rig.service.start_flow("olga", "side", origin=Origin(Caller("olga")))
    session = served.gateway.sockets._sessions["pay"]
    for user in ("olga", "nobody"):
        message = SubscribeMessage(flow_id="side", user_id=user)
        with pytest.raises(FlowError, match="limited to the service payment"):
            await served.gateway.sockets._subscribe(session, user, message)
    assert session.followed == set()
