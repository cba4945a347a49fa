"""A flow: a named set of steps and the transitions between them, as authors write it."""

from datetime import timedelta
from typing import Any, Literal

from msgspec import Struct


class Written(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """Values that authors write. What comes from JSON has no cycles: Python's collector need not look at each
    part of thousands of flows, a quarter of a second each time."""


class FlowTransition(Written, frozen=True):
    """A way out of a step. ``explicit``: only a person may choose it, ``next`` skips it.
    ``reversible``: the state remembers the step it left as ``previous``; whoever may run it may undo it.

    ``guard`` is a condition in CEL (the Common Expression Language) over ``state``, ``payload``, ``user``
    and ``now`` (app.flow.conditions.guards). ``payload_schema`` is a JSON Schema (2020-12) for the payload
    that comes with the transition. ``roles``: a caller needs one of them; none listed: only a timeout may
    run it.
    """

    transition: str
    step: str
    explicit: bool = False
    reversible: bool = False
    guard: str | None = None
    payload_schema: dict[str, Any] | None = None
    roles: list[str] | None = None
    title: str | None = None
    description: str | None = None
    meta: dict[str, Any] | None = None


class FlowTimeout(Written, frozen=True):
    """The timeout of a step. For a state that stays in it: ``after`` this time (ISO 8601, such as ``PT15M``)
    the ``transition`` of the step runs by itself, by the actor ``timer``. ``resume`` says what a pause does
    to it: the moment stays (``absolute``, at the latest when the state is resumed), the time that was
    left is waited then (``remaining``), or the whole time again (``restart``)."""

    after: timedelta
    transition: str
    resume: Literal["absolute", "remaining", "restart"] = "remaining"


class FlowStep(Written, frozen=True):
    """One place in a flow.

    ``index`` identifies the step in state tokens: unique in the flow and never renumbered.
    ``service``, ``module`` and ``path`` may be ``$name``, looked up in the flow's config; the service
    ``-`` stands for whatever service the state targets.
    ``payload_map`` gives the position in a token of each payload key that survives there.
    ``transitions`` keeps its order; a step without any ends the flow.
    """

    index: int
    step: str
    service: str
    transitions: dict[str, FlowTransition]
    path: str | None = None
    module: str | None = None
    initial: bool = False
    payload_map: dict[str, int] | None = None
    timeout: FlowTimeout | None = None
    title: str | None = None
    description: str | None = None
    meta: dict[str, Any] | None = None


class FlowConfig(Written, frozen=True):
    """The values of ``$name`` references of the steps, and names for clients."""

    query_param: str | None = None
    services: dict[str, str] | None = None
    modules: dict[str, str] | None = None
    pathes: dict[str, str] | None = None
    default_flow: str | None = None


class Flow(Written, frozen=True):
    """A flow definition. ``flow`` is its slug; ``steps`` are keyed by their names. ``ttl`` is how long
    a state lives after its last change (ISO 8601, such as ``P30D``), not counting the time it is paused.
    ``roles``: who has none of them does not see the flow. ``resettable`` and ``clearable``: who may reset and
    clear a state. True or absent: whoever may act on it; False: administrators only; a list: those who have
    one of the roles. ``title``, ``description`` and ``meta``, here and inside, are for people and clients."""

    flow: str
    initial_step: str
    steps: dict[str, FlowStep]
    config: FlowConfig = FlowConfig()
    prefabs: dict[str, str] = {}
    title: str | None = None
    description: str | None = None
    meta: dict[str, Any] | None = None
    ttl: timedelta | None = None
    roles: list[str] | None = None
    resettable: bool | list[str] | None = None
    clearable: bool | list[str] | None = None


class FlowPatch(Written, frozen=True):
    """The top-level members of a flow that an update replaces; absent ones stay as they are."""

    initial_step: str | None = None
    steps: dict[str, FlowStep] | None = None
    config: FlowConfig | None = None
    prefabs: dict[str, str] | None = None
    title: str | None = None
    description: str | None = None
    meta: dict[str, Any] | None = None
    ttl: timedelta | None = None
    roles: list[str] | None = None
    resettable: bool | list[str] | None = None
    clearable: bool | list[str] | None = None
