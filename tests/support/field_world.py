"""A world in which every field of a payload has a marker, and all kinds of readers.

The tables say by themselves which markers each reader sees; no code of the service is asked.
"""

import re
import time
from typing import Any

from msgspec import structs

from app.contracts.callers import ADMIN, READ, SERVICE, USE, Caller, service_caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.errors import AuthenticationRequiredError
from app.contracts.integration import Integration
from app.contracts.people import Participant
from app.contracts.state import StateId
from app.kit.clock import SystemClock
from tests.support.rig import Rig

MARKER = re.compile(rb"MK-(\w+)-")
PAYLOAD = {
    "open": "MK-open-",
    "amount": "MK-amount-",
    "iban": "MK-iban-",
    "ssn": "MK-ssn-",
    "card": {"number": "MK-number-", "name": "MK-name-"},
    "items": [{"name": "MK-item-", "price": "MK-price-"}],
    "people": {"MK-person-": {"age": "MK-age-"}},
}
ALL = {"open", "amount", "iban", "ssn", "number", "name", "item", "price", "person", "age"}
SENSITIVE = {
    "/iban": ["owner", "clerk"],
    "/ssn": [],
    "/card/number": ["auditor"],
    "/items/*/price": ["clerk"],
    "/people/*": ["auditor"],
}
VISIBLE = {
    "clerk": ["/amount", "/iban", "/items"],
    "auditor": ["/card", "/people"],
    READ: ["/open"],
    "lead": ["/amount", "/ssn"],
}
FLOWS = ("claim", "plain", "bare")
"""With both members, with ``sensitive`` alone, and with neither."""
WITHOUT_SENSITIVE = {"open", "amount", "name", "item"}
OF_OWNER = WITHOUT_SENSITIVE | {"iban"}
OF_AUDITOR = {"number", "name", "person", "age"}
OF_CLERK = {"amount", "iban", "item", "price"}

Kinds = dict[str, set[str]]
"""Markers by the purpose of a request: ``read``, ``list``, ``follow`` or ``watch``."""

CALLERS = {
    "owner": Caller("olga"),
    "owner with a role of participants in the token": Caller("olga", roles=frozenset({"clerk", "owner"})),
    "owner who reads all": Caller("olga", scopes=frozenset({READ})),
    "clerk": Caller("cleo"),
    "auditor by group": Caller("gus", groups=frozenset({"audit"})),
    "viewer": Caller("vera", roles=frozenset({"clerk", "auditor"})),
    "service": Caller("app", scopes=frozenset({SERVICE})),
    "service with a role": Caller("app", roles=frozenset({"auditor"}), scopes=frozenset({SERVICE})),
    "key": service_caller("desk"),
    "key with fields": service_caller("shop"),
    "support": Caller("sue", scopes=frozenset({READ})),
    "support with a role": Caller("sol", roles=frozenset({"lead", "owner"}), scopes=frozenset({READ, USE})),
    "support who is a clerk": Caller("cleo", scopes=frozenset({READ, USE})),
    "administrator": Caller("root", scopes=frozenset({ADMIN})),
    "administrator with a role": Caller("rita", roles=frozenset({"clerk"}), scopes=frozenset({ADMIN})),
}


def same(*markers: set[str]) -> Kinds:
    return dict.fromkeys(("read", "list", "follow"), set().union(*markers))


def admin(others: set[str], watching: set[str]) -> Kinds:
    return {"read": ALL, "list": others, "follow": others, "watch": watching}


SEEN: dict[str, dict[str, Kinds]] = {
    "owner": {"claim": same(OF_OWNER), "plain": same(OF_OWNER), "bare": same(ALL)},
    "owner with a role of participants in the token": {
        "claim": same(OF_OWNER),
        "plain": same(OF_OWNER),
        "bare": same(ALL),
    },
    "owner who reads all": {"claim": same(OF_OWNER), "plain": same(OF_OWNER), "bare": same(ALL)},
    "clerk": {
        "claim": same(OF_CLERK),
        "plain": same(WITHOUT_SENSITIVE, {"iban", "price"}),
        "bare": same(ALL),
    },
    "auditor by group": {
        "claim": same(OF_AUDITOR),
        "plain": same(WITHOUT_SENSITIVE, OF_AUDITOR),
        "bare": same(ALL),
    },
    "viewer": {"claim": same(), "plain": same(WITHOUT_SENSITIVE), "bare": same(ALL)},
    "service": {"claim": same(OF_OWNER), "plain": same(OF_OWNER), "bare": same(ALL)},
    "service with a role": {
        "claim": same(OF_OWNER, OF_AUDITOR),
        "plain": same(OF_OWNER, OF_AUDITOR),
        "bare": same(ALL),
    },
    "key": {"claim": same(WITHOUT_SENSITIVE), "plain": same(WITHOUT_SENSITIVE), "bare": same(ALL)},
    "key with fields": {
        "claim": same(WITHOUT_SENSITIVE, {"number"}),
        "plain": same(WITHOUT_SENSITIVE, {"number"}),
        "bare": same(ALL),
    },
    "support": {"claim": same({"open"}), "plain": same(), "bare": same()},
    "support with a role": {"claim": same({"open", "amount"}), "plain": same(), "bare": same()},
    "support who is a clerk": {
        "claim": same({"open"}, OF_CLERK),
        "plain": same(WITHOUT_SENSITIVE, {"iban", "price"}),
        "bare": same(ALL),
    },
    "administrator": {
        "claim": admin(OF_OWNER, WITHOUT_SENSITIVE),
        "plain": admin(OF_OWNER, WITHOUT_SENSITIVE),
        "bare": admin(ALL, ALL),
    },
    "administrator with a role": {
        "claim": admin(OF_OWNER | {"price"}, WITHOUT_SENSITIVE | {"iban", "price"}),
        "plain": admin(OF_OWNER | {"price"}, WITHOUT_SENSITIVE | {"iban", "price"}),
        "bare": admin(ALL, ALL),
    },
}
EVENTS_OF = {
    "desk": {"claim": WITHOUT_SENSITIVE, "plain": WITHOUT_SENSITIVE, "bare": ALL},
    "shop": {flow: {"open", "number"} for flow in FLOWS},
}
"""Markers in events to services; the registration of ``shop`` lists fields."""


class NamedCallers:
    """Verifies tokens that are the names of callers."""

    def __init__(self, callers: dict[str, Caller]) -> None:
        self._callers = callers

    async def verify(self, token: str | None) -> Caller:
        if token is None:
            raise AuthenticationRequiredError("no token")
        return structs.replace(self._callers[token.replace("_", " ")], expires_at=time.time() + 60)

    async def renew(self, caller: Caller) -> Caller:
        if caller.expires_at <= time.time():
            raise AuthenticationRequiredError("The token has expired")
        return caller

    def knows(self, _: str) -> bool:
        return True


def markers(data: bytes) -> set[str]:
    return {found.decode() for found in MARKER.findall(data)}


def state_of(flow: str) -> StateId:
    return StateId(flow, "olga", "E-1" if flow == "plain" else None)


def fields_flow(slug: str) -> dict[str, Any]:
    """A flow of two services: a step of ``desk`` leads to one of ``shop``, and back."""
    again = {"transition": "again", "step": "open", "roles": ["clerk", "auditor", "viewer"]}
    steps = {
        "open": {
            "payloadMap": {"open": 0, "iban": 1},
            "service": "desk",
            "transitions": {
                "file": {"transition": "file", "step": "filed", "reversible": True},
                "check": {
                    "transition": "check",
                    "step": "filed",
                    "explicit": True,
                    "guard": "state.payload.ssn == '' || int(state.payload.iban) > 0",
                },
                "again": again,
            },
        },
        "filed": {
            "service": "shop",
            "transitions": {"open": {"transition": "open", "step": "open", "reversible": True}},
        },
    }
    members = {"claim": {"sensitive": SENSITIVE, "visible": VISIBLE}, "plain": {"sensitive": SENSITIVE}}
    return {
        "flow": slug,
        "initialStep": "open",
        "instances": "many" if slug == "plain" else "one",
        "participants": {
            role: {"assignable": True, "claim": "PT1H"} for role in ("clerk", "auditor", "viewer")
        },
        "searchable": ["/open", "/ssn"],
        **members.get(slug, {}),
        "steps": {name: {"index": n, "step": name, **each} for n, (name, each) in enumerate(steps.items())},
    }


PEOPLE = (
    Participant("clerk", user_id="cleo"),
    Participant("auditor", group="audit"),
    Participant("viewer", user_id="vera"),
)


async def make_world(*flows: str, delivering: bool = False) -> Rig:
    """Build a service with two registered services and a state of ``olga`` in each of the flows.

    ``delivering``: on the time of this machine, until the events of all changes were sent.
    """
    rig = Rig()
    if delivering:
        rig.clock = SystemClock()  # type: ignore[assignment]
        rig.service = rig.make()
    now = rig.clock.now()
    for alias, fields in (("desk", None), ("shop", ("/open", "/card/number"))):
        rig.registrations.integrations[alias] = Integration(
            alias=alias,
            url=f"https://{alias}.example",
            fields=fields,
            stream=True,
            registered_at=now,
            updated_at=now,
        )
    await rig.service.integrations.registry.refresh()
    origin = Origin(CALLERS["owner"])
    async with rig.service:
        for flow in flows:
            await rig.service.create_flow(fields_flow(flow))
            command = StartCommand(payload=PAYLOAD, participants=PEOPLE, **named(flow))
            await rig.service.start_flow("olga", flow, command, origin=origin)
            for transition in ("file", "open"):
                await rig.service.execute_transition("olga", flow, transition, origin=origin, **named(flow))
        assert await rig.service.background.relay.drain(5)
        if delivering:
            await rig.webhooks.arrived(3 * len(EVENTS_OF) * len(flows))
    return rig


def named(flow: str) -> dict[str, Any]:
    """The argument that names the state of one of many."""
    return {} if state_of(flow).instance_id is None else {"entity_id": state_of(flow).instance_id}
