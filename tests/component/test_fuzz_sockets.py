"""Any event of a socket is answered, and no answer is an internal error."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from app.contracts.errors import FlowError
from app.services.rates.request_limits import RequestRates
from realtime.gateway.messages import (
    ChangeMessage,
    ClaimMessage,
    FlowMessage,
    ListMessage,
    ParticipantsMessage,
    ResetMessage,
    StartMessage,
    SubscribeMessage,
    TransitionMessage,
)
from realtime.gateway.socketio_library import socketio
from realtime.json_packets import Json
from tests.support.doors import Doors
from tests.support.fuzzing import Loop, fuzz, json_values
from tests.support.gateway import Verifier
from tests.support.purchase import PURCHASE
from tests.support.rig import Rig
from tests.support.samples import flow_dict

EVENTS: dict[str, type[Any]] = {
    "flow-state": FlowMessage,
    "flow-start": StartMessage,
    "flow-transition": TransitionMessage,
    "flow-reset": ResetMessage,
    "flow-participants": ParticipantsMessage,
    "flow-claim": ClaimMessage,
    "flow-release": ClaimMessage,
    "flow-withdraw": ChangeMessage,
    "flow-list": ListMessage,
    "flow-subscribe": SubscribeMessage,
    "flow-unsubscribe": FlowMessage,
    "flow-watch": FlowMessage,
    "flow-unwatch": FlowMessage,
    "flow-presence": FlowMessage,
}
CALLERS = ["ada", "bob", "carl+service", "rosa+read", "root+admin", "x" * 256]
MEMBERS: dict[str, list[Any]] = {
    "flowId": ["loop", "purchase", "none", "../x", "LOOP", "a" * 65],
    "userId": ["ada", "bob", "", "nobody"],
    "entityId": ["e1", "", None, "x" * 257],
    "transition": ["go", "again", "jump", "back", "submit", "approve", "__proto__"],
    "step": ["a", "b", "c", "review"],
    "service": ["svc", ""],
    "requestId": ["r1", "r2", "\n"],
    "expectedRevision": [0, 1, -1, 1.0],
    "since": [0, 1, 10**9],
    "epoch": ["e", ""],
    "fromStart": [True, False],
    "role": ["approver", "finance"],
    "as": ["approver"],
    "status": ["active", "all", "completed"],
    "after": ["loop", "!", "e30"],
    "limit": [1, 1000, 0],
    "participants": [[{"role": "approver", "userId": "bob"}], [{"role": "approver", "group": "g"}], []],
    "payload": [{}, {"amount": 7}, {"a": {"b": [1]}}, {"x": "y" * 9000}],
    "remove": [["/amount"], ["/"], ["~2"]],
    "ok": [True, False],
    "message": ["", "m", "\u0000"],
}
odd = json_values | st.binary(max_size=8)


def _body(event: str) -> st.SearchStrategy[Any]:
    """Bodies with members of the event, of usual values and of odd ones."""
    names = [field.encode_name for field in msgspec.structs.fields(EVENTS[event])]
    usual = {name: st.sampled_from(MEMBERS.get(name, [None])) for name in names}
    often = {name: value | value | value | odd for name, value in usual.items()}
    needed = {name: usual.pop(name) for name in ("flowId", "transition") if name in usual}
    return st.one_of(
        st.fixed_dictionaries(needed, optional=usual),
        st.fixed_dictionaries(needed, optional={name: often[name] for name in usual}),
        st.fixed_dictionaries({}, optional=often),
        st.dictionaries(st.sampled_from([*MEMBERS]) | st.text(max_size=5), odd, max_size=4),
        odd,
    )


one_event = st.one_of(
    *(
        st.tuples(st.just(event), st.tuples(_body(event)).map(list) | st.lists(odd, max_size=3))
        for event in EVENTS
    )
)
unknown = st.tuples(st.just("*"), st.lists(st.text(max_size=80), min_size=1, max_size=1))
auths = st.fixed_dictionaries({}, optional={"device": st.text(max_size=80) | json_values}) | json_values
sessions = st.tuples(
    st.sampled_from(CALLERS), auths, st.lists(one_event | one_event | one_event | unknown, max_size=6)
)


class World:
    """A gateway over a service on fakes, made anew when asked."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._doors: Doors | None = None

    def begin(self) -> None:
        """Start with new fakes, which have every record that was made on them."""
        self._loop.wait(self._begin())

    async def _begin(self) -> None:
        rig = Rig(rates=RequestRates(*[10**7] * 5))  # the refusals of rates would hide others
        self._doors = Doors(rig, Verifier())
        for definition in (flow_dict(), PURCHASE.flow):
            await rig.service.create_flow(definition)

    def check(self, session: tuple[str, Any, list[tuple[str, list[Any]]]]) -> None:
        """Send the events of a session, and check the answers."""
        self._loop.wait(self._check(*session))

    async def _check(self, caller: str, auth: Any, events: list[tuple[str, list[Any]]]) -> None:
        assert self._doors is not None
        sockets = self._doors.sockets
        given = {**(auth if isinstance(auth, dict) else {}), "token": caller}
        try:
            await sockets._connect("sid", {}, given)
        except socketio.exceptions.ConnectionRefusedError as refusal:
            code = refusal.args[0]
            assert code in {"INVALID_REQUEST", "AUTHENTICATION_REQUIRED"}
            return
        try:
            for event, bodies in events:
                arguments = ["*" if not bodies else bodies[0], "sid"] if event == "*" else ["sid", *bodies]
                answer = await sockets.server.handlers["/"][event](*arguments)
                _require_answer(event, answer)
        finally:
            await sockets._disconnect("sid")
        assert not sockets._sessions
        assert not len(self._doors.rig.service.clients.connections)


def _require_answer(event: str, answer: Any) -> None:
    assert isinstance(answer["ok"], bool), event
    assert Json.loads(Json.dumps(answer))["ok"] is answer["ok"]
    if not answer["ok"]:
        assert answer["error"].code in _codes() - {"INTERNAL_ERROR"}, (event, answer)


def _codes() -> set[str]:
    found, left = set(), [FlowError]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        found.add(kind.code)
    return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.0)
    loop = Loop()
    yield World(loop)
    loop.close()


def test_every_event_of_clients_is_in_the_table(world: World) -> None:
    world.begin()
    assert world._doors is not None
    handled = {*world._doors.sockets.server.handlers["/"]} - {"connect", "disconnect", "*"}
    assert handled == {*EVENTS}


@pytest.mark.timeout(1800)
def test_every_event_is_answered(world: World) -> None:
    fuzz(sessions, world.check, begin=world.begin)


def test_the_strategy_reaches_every_use_case(world: World) -> None:
    """Without these the test above would check refusals alone."""
    world.begin()
    session = [
        ("flow-start", [{"flowId": "loop"}]),
        ("flow-transition", [{"flowId": "loop", "transition": "again"}]),
        ("flow-subscribe", [{"flowId": "loop"}]),
    ]
    world.check(("ada", {}, session))
    assert world._doors is not None
    assert len(world._doors.rig.states.stored) == 1
