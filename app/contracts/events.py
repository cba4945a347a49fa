"""Events between workers, and the topics by which a worker receives them."""

from collections.abc import Set
from datetime import datetime
from typing import Literal

from msgspec import Raw, Struct, field

from app.contracts.state import StateId


class Topic(Struct, frozen=True):
    """A topic that a worker can subscribe to.

    Attributes:
        kind: ``everyone`` for events of all workers, ``user`` for the states of one user, or ``flow`` for the
            states of all users in one flow.
        name: The user or the flow.
    """

    kind: Literal["everyone", "user", "flow"]
    name: str = ""


EVERYONE = Topic("everyone")


def user_topic(user_id: str) -> Topic:
    """Return the topic of a user's states."""
    return Topic("user", user_id)


def flow_topic(flow_id: str) -> Topic:
    """Return the topic of all users' states in a flow."""
    return Topic("flow", flow_id)


class StateChanged(Struct, frozen=True, tag="state", rename="camel", omit_defaults=True):
    """A committed change of a state.

    Attributes:
        user_id: The user of the state.
        flow_id: Its flow.
        epoch: With ``revision``, the position that the change led to.
        revision: The revision of that position.
        at: The time of the commit in milliseconds since 1970.
        body: The encoded ``flow-state-updated`` event as an administrator sees it.
        depends_on_caller: Other callers may see less, or run fewer transitions.
        instance_id: The entity of a state whose flow has many for each user.
    """

    user_id: str
    flow_id: str
    epoch: str
    revision: int
    at: int
    body: Raw
    depends_on_caller: bool = field(default=False, name="byCaller")
    instance_id: str | None = None

    @property
    def state_id(self) -> StateId:
        """The identity of the state."""
        return StateId(self.flow_id, self.user_id, self.instance_id)

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics of its user and of its flow."""
        return user_topic(self.user_id), flow_topic(self.flow_id)


class DefinitionChanged(Struct, frozen=True, tag="definition", rename="camel"):
    """A version of a flow was published or the flow was retired: caches of it are stale."""

    flow_id: str

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topic of all workers."""
        return (EVERYONE,)


class IntegrationChanged(Struct, frozen=True, tag="integration", rename="camel"):
    """A registration was changed or removed: caches of it are stale."""

    alias: str

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topic of all workers."""
        return (EVERYONE,)


class UserErased(Struct, frozen=True, tag="erased", rename="camel"):
    """The data of a user was erased: data keys of the user in caches are of no use any more."""

    user_id: str

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topic of all workers."""
        return (EVERYONE,)


class PresentClient(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A client that follows a state now.

    Attributes:
        client_id: The id of the connection.
        user_id: Its user: the owner of the state, or a participant.
        since: The start of the connection (ISO 8601).
        device: The label that the client chose.
        owner_id: The owner of the state; "" if that is its user.
        entity_id: The entity of the state, "" if it has none.
    """

    client_id: str
    user_id: str
    since: str
    device: str = ""
    owner_id: str = ""
    entity_id: str = ""

    @property
    def owner(self) -> str:
        """The owner of the state."""
        return self.owner_id or self.user_id

    def of_state(self, flow_id: str) -> StateId:
        """Return the state of a flow that it follows."""
        return StateId(flow_id, self.owner, self.entity_id or None)


class PresenceReport(Struct, frozen=True, tag="present", rename="camel", omit_defaults=True):
    """The clients of one worker that follow states of a flow.

    Attributes:
        worker: The worker's id.
        flow_id: The flow.
        user_id: The owner of the states; None for all users.
        clients: The clients, once for each state.
        query_id: The id of the query that it answers; "" if it reports a change.
        partial: There are more clients than ``clients`` has.
    """

    worker: str
    flow_id: str
    user_id: str | None
    clients: tuple[PresentClient, ...]
    query_id: str = field(default="", name="asked")
    partial: bool = False

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics of a change of these states."""
        flow = flow_topic(self.flow_id)
        return (flow,) if self.user_id is None else (user_topic(self.user_id), flow)


class PresenceQuery(Struct, frozen=True, tag="presence?", rename="camel"):
    """A query that every receiving worker answers with a PresenceReport, even if it has no clients."""

    id: str
    flow_id: str
    user_id: str | None

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topic of the workers that may have such clients: for a whole flow, all workers."""
        return (EVERYONE,) if self.user_id is None else (user_topic(self.user_id),)


Event = StateChanged | DefinitionChanged | IntegrationChanged | UserErased | PresenceReport | PresenceQuery


class Gap(Struct, frozen=True):
    """Events of changes at ``since`` or later may have been missed: of ``topics``, or of all if None."""

    since: datetime
    topics: Set[Topic] | None = None

    def concerns(self, topic: Topic) -> bool:
        """True if events of a topic may have been missed."""
        return self.topics is None or topic in self.topics

    def joined(self, other: "Gap") -> "Gap":
        """Return one gap that covers both."""
        topics = None if self.topics is None or other.topics is None else self.topics | other.topics
        return Gap(min(self.since, other.since), topics)


class Resync(Struct, frozen=True):
    """Sent when missed events cannot be replayed; subscribers must reload their state."""

    reason: str
