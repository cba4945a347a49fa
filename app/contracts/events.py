"""Events between workers, and the topics by which a worker receives them."""

from collections.abc import Set
from datetime import datetime
from typing import Literal

from msgspec import Raw, Struct, field


class Topic(Struct, frozen=True):
    """A topic that a worker can listen to: what concerns ``everyone``, the states of one ``user``, or those
    of all users in one ``flow``."""

    kind: Literal["everyone", "user", "flow"]
    name: str = ""


EVERYONE = Topic("everyone")


def user_topic(user_id: str) -> Topic:
    """The topic of the states of a user."""
    return Topic("user", user_id)


def flow_topic(flow_id: str) -> Topic:
    """The topic of the states of all users in a flow."""
    return Topic("flow", flow_id)


class StateChanged(Struct, frozen=True, tag="state", rename="camel"):
    """A committed change of a state. ``at`` is its time in milliseconds since 1970, ``body`` the encoded
    ``flow-state-updated`` event as an administrator sees it. ``depends_on_caller``: others may run less."""

    user_id: str
    flow_id: str
    epoch: str
    revision: int
    at: int
    body: Raw
    depends_on_caller: bool = field(default=False, name="byCaller")

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Its user's, and its flow's where somebody watches it."""
        return user_topic(self.user_id), flow_topic(self.flow_id)


class DefinitionChanged(Struct, frozen=True, tag="definition", rename="camel"):
    """A version of a flow was published or the flow was retired: forget what is cached."""

    flow_id: str

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Every worker's."""
        return (EVERYONE,)


class PresentClient(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A client that follows a state of its own user now, ``since`` (ISO 8601). ``device`` is the label
    that it gave itself."""

    client_id: str
    user_id: str
    since: str
    device: str = ""


class PresenceTold(Struct, frozen=True, tag="present", rename="camel", omit_defaults=True):
    """The clients of one worker that follow states of a flow: of one user, or without ``user_id`` of all.
    ``asked`` is the id of the question that it answers; ``partial``: there are more than it names."""

    worker: str
    flow_id: str
    user_id: str | None
    clients: tuple[PresentClient, ...]
    asked: str = ""
    partial: bool = False

    @property
    def topics(self) -> tuple[Topic, ...]:
        """As of a change of these states."""
        flow = flow_topic(self.flow_id)
        return (flow,) if self.user_id is None else (user_topic(self.user_id), flow)


class PresenceAsked(Struct, frozen=True, tag="presence?", rename="camel"):
    """Every worker that hears it answers with a PresenceTold, also with none."""

    id: str
    flow_id: str
    user_id: str | None

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The workers that may have clients of the user; of a flow, every worker may."""
        return (EVERYONE,) if self.user_id is None else (user_topic(self.user_id),)


Event = StateChanged | DefinitionChanged | PresenceTold | PresenceAsked


class Gap(Struct, frozen=True):
    """Events of these ``topics`` (None: of all) may have been missed: of changes at ``since`` or later."""

    since: datetime
    topics: Set[Topic] | None = None

    def concerns(self, topic: Topic) -> bool:
        """True if events of a topic may have been missed."""
        return self.topics is None or topic in self.topics

    def joined(self, other: "Gap") -> "Gap":
        """Both in one."""
        topics = None if self.topics is None or other.topics is None else self.topics | other.topics
        return Gap(min(self.since, other.since), topics)


class Resync(Struct, frozen=True):
    """Told to followers when what they missed cannot be told: they read their states again."""

    reason: str
