"""Registrations and flows of integrations, for tests."""

from typing import Any

import msgspec
from msgspec import structs

from app.contracts.flow import Flow
from app.contracts.integration import Integration
from app.contracts.record import HistoryRecord, Kind
from app.contracts.state import FlowState
from tests.support import samples


def integration(alias: str = "payment", **changes: Any) -> Integration:
    """A registration since ``samples.T0``."""
    return Integration(alias=alias, registered_at=samples.T0, updated_at=samples.T0, **changes)


def checkout_dict(slug: str = "checkout", **changes: Any) -> dict[str, Any]:
    """Four steps: cart (user), pay (payment; ``again`` stays), ship (the target's), done (notification)."""
    steps = {
        "cart": ("user", {"order": "pay"}),
        "pay": ("payment", {"paid": "ship", "again": "pay", "cancel": "cart"}),
        "ship": ("-", {"sent": "done"}),
        "done": ("$mail", {}),
    }
    written = {
        name: {
            "index": index,
            "step": name,
            "service": service,
            "transitions": {
                transition: {"transition": transition, "step": target, "reversible": transition == "cancel"}
                for transition, target in transitions.items()
            },
        }
        for index, (name, (service, transitions)) in enumerate(steps.items())
    }
    whole = {
        "flow": slug,
        "initialStep": "cart",
        "config": {"services": {"mail": "notification"}},
        "steps": written,
    }
    return {**whole, **changes}


def checkout(slug: str = "checkout", **changes: Any) -> Flow:
    """The flow of ``checkout_dict``."""
    return msgspec.convert(checkout_dict(slug, **changes), Flow)


def at_step(step: str, *, service: str = "parcels", **changes: Any) -> FlowState:
    """A state of the checkout at a step, for the target ``service``."""
    state = structs.replace(samples.fresh(payload={"sum": 5}), flow="checkout", step=step, service=service)
    status = "completed" if step == "done" else "active"
    return samples.moved(structs.replace(state, status=status), **changes)


def change(kind: Kind, from_step: str, to_step: str, **changes: Any) -> HistoryRecord:
    """The record of a change of the checkout; ``changes`` are of the state after it."""
    return samples.record(at_step(to_step, **changes), kind=kind, from_step=from_step)
