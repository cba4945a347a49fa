"""A flow: a named set of steps and the transitions between them, as authors write it."""

from datetime import timedelta
from typing import Any, Literal

import msgspec
from msgspec import Struct


class Written(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """Base of the values that authors write.

    ``gc=False`` because values from JSON have no cycles, and scanning thousands of flows costs Python's
    garbage collector a quarter of a second each time.
    """


class FlowAssignment(Written, frozen=True):
    """Assigns a ``role`` when a transition runs.

    ``source`` (in JSON ``from``) is ``payload.<member>``: the member of the state's payload, after the
    transition, with the id of a user or a list of ids. They replace the users who have the role; groups stay.
    """

    role: str
    source: str = msgspec.field(name="from")


class FlowApprovals(Written, frozen=True):
    """The votes that a transition needs: of ``count`` different people with the role ``of``."""

    of: str
    count: int


class FlowParticipant(Written, frozen=True):
    """A role that people have on a single state.

    ``group``: every user whose token lists this group has the role. ``assignable`` defines who may name the
    people at the start and later. Absent or False: services and administrators; True: callers who may act on
    the state; a list: callers with one of the roles. ``claim`` is how long a claim lasts (ISO 8601, such as
    ``PT15M``); absent: the tasks of the role cannot be claimed. ``take_over``: people with one of these roles
    may claim what another person has claimed, before that claim ends. Such a role counts if a person has it
    on the state, never by a token.
    """

    group: str | None = None
    assignable: bool | list[str] | None = None
    claim: timedelta | None = None
    take_over: list[str] | None = None
    title: str | None = None
    description: str | None = None


class FlowMerge(Written, frozen=True):
    """Resolves conflicts by the later change.

    ``merge`` are JSON pointers (RFC 6901) to the fields of the state's payload, with all that is in them,
    in which a later change replaces an earlier one that it did not know.
    """

    merge: list[str]


FlowConflict = Literal["retry", "reject"] | FlowMerge
"""How a transition meets a change of the state that its caller did not know."""


class FlowTransition(Written, frozen=True):
    """A transition out of a step.

    ``explicit``: only a person may choose it; ``next`` skips it. ``reversible``: the state stores the step
    that it left as ``previous``, and callers who may run the transition may undo it.

    ``guard`` is a condition in CEL (the Common Expression Language) over ``state``, ``payload``, ``user``
    and ``now`` (app.flow.conditions.guards). ``payload_schema`` is a JSON Schema (2020-12) for the payload of
    the transition. ``roles``: a caller needs one of them; if the list is empty, only a timeout may run the
    transition.

    ``assign`` gives people roles on the state. ``not_by`` names transitions: whoever ran one of them since
    the start or the last reset may not run this one. With ``approvals`` each run is a vote, and the last one
    that is needed moves the state.

    ``conflict``: the state changed since the revision that the caller named, or while the transition was
    decided. ``retry``, also if absent: decided again on the new state, unless the caller named a revision;
    ``reject``: refused; ``merge``: see ``FlowMerge``.
    """

    transition: str
    step: str
    explicit: bool = False
    reversible: bool = False
    guard: str | None = None
    payload_schema: dict[str, Any] | None = None
    roles: list[str] | None = None
    assign: list[FlowAssignment] | None = None
    not_by: list[str] | None = None
    approvals: FlowApprovals | None = None
    conflict: FlowConflict | None = None
    title: str | None = None
    description: str | None = None
    meta: dict[str, Any] | None = None


class FlowTimeout(Written, frozen=True):
    """The timeout of a step.

    If a state stays in the step for ``after`` (ISO 8601, such as ``PT15M``), the ``transition`` of the step
    runs automatically, with the actor ``timer``. ``resume`` defines the effect of a pause: the time of the
    timeout does not change, and it runs at the latest when the state is resumed (``absolute``); after the
    resumption the remaining time must pass (``remaining``), or the whole time again (``restart``).
    """

    after: timedelta
    transition: str
    resume: Literal["absolute", "remaining", "restart"] = "remaining"


class FlowStep(Written, frozen=True):
    """A step of a flow.

    ``index`` identifies the step in state tokens: unique in the flow and never renumbered.
    ``service``, ``module`` and ``path`` may be ``$name``, a reference into the flow's config; the service
    ``-`` stands for the service that the state targets.
    ``payload_map`` maps the payload keys that tokens carry to their positions in a token.
    The order of ``transitions`` matters; a step without transitions ends the flow.
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
    """Values of the ``$name`` references of steps, and names for clients."""

    query_param: str | None = None
    services: dict[str, str] | None = None
    modules: dict[str, str] | None = None
    pathes: dict[str, str] | None = None
    default_flow: str | None = None


class Flow(Written, frozen=True):
    """A flow definition.

    ``flow`` is its slug; ``steps`` are keyed by their names. ``ttl`` is the lifetime of a state after its
    last change (ISO 8601, such as ``P30D``), not counting the time it is paused. ``roles``: the flow is
    hidden from callers without one of them. ``resettable`` and ``clearable`` define who may reset and clear a
    state. True or absent: callers who may act on it; False: administrators only; a list: callers with one of
    the roles. ``instances``: a user has one state in the flow, or many, each for an entity. ``participants``
    are the roles that people have on a single state, by name.

    ``sensitive``, ``visible`` and ``searchable`` have JSON pointers (RFC 6901) into the payload of the state,
    where the segment ``*`` stands for every member or element. ``sensitive``: fields that only readers with
    one of the listed roles see; ``owner`` is the owner of the state. ``visible``: the fields that people with
    a role see, by role, or by the scope ``flow:read``; absent: participants see all, support staff nothing.
    ``searchable``: fields that are stored in the clear too, so that states can be found by them.

    ``title``, ``description`` and ``meta``, here and in the parts, are for people and clients.
    """

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
    instances: Literal["one", "many"] = "one"
    participants: dict[str, FlowParticipant] | None = None
    sensitive: dict[str, list[str]] | None = None
    visible: dict[str, list[str]] | None = None
    searchable: list[str] | None = None


class FlowPatch(Written, frozen=True):
    """Top-level members of a flow that an update replaces; absent ones do not change."""

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
    instances: Literal["one", "many"] | None = None
    participants: dict[str, FlowParticipant] | None = None
    sensitive: dict[str, list[str]] | None = None
    visible: dict[str, list[str]] | None = None
    searchable: list[str] | None = None
