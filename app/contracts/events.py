"""What happened, as it travels between workers."""

from msgspec import Raw, Struct


class StateChanged(Struct, frozen=True, tag="state", rename="camel"):
    """A committed change of a state. ``body`` is the encoded ``flow-state-updated`` event."""

    user_id: str
    flow_id: str
    epoch: str
    revision: int
    body: Raw


class DefinitionChanged(Struct, frozen=True, tag="definition", rename="camel"):
    """A version of a flow was published or the flow was retired: forget what is cached."""

    flow_id: str


Event = StateChanged | DefinitionChanged
