"""The session of one connected client: its identity, its limits and its subscriptions."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET
from uuid_utils import uuid7

from app.auth.schemes import credential_in
from app.contracts.callers import Caller
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.events import PresentClient, Topic
from app.contracts.state import StateId
from app.contracts.wire.times import iso
from app.kit.token_bucket import TokenBucket
from app.services.audit.source import ActSource
from app.services.rates.connection_limits import OpenConnection
from realtime.gateway.limits import (
    MAX_DEVICE_CHARACTERS,
    MAX_EVENT_BURST,
    MAX_EVENTS_PER_SECOND,
    SERVICE_RATE_FACTOR,
)

_LABEL = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{0,{MAX_DEVICE_CHARACTERS}}}\Z")


class Session:
    """One Socket.IO client.

    Attributes:
        source: The source of its acts, for the audit log.
        rate_factor: Multiplies the client's limits.
        connection: Counts the client until it has disconnected.
        followed: The states that it subscribed to.
        found: Those of them that it named without their entity, by that name.
        watched: The flows that it watches.
        rooms: Its rooms, each with the topic that the room needs.
        disconnected: The client has disconnected; nothing may be added to the session any more.
        timer: Checks whether the token has expired.
        presence: The client as others see it.
    """

    def __init__(
        self, sid: str, caller: Caller, device: str, connection: OpenConnection, address: str = ""
    ) -> None:
        self.sid = sid
        self.source = ActSource("socket", address or UNSET)
        self.caller = caller
        self.rate_factor = SERVICE_RATE_FACTOR if caller.acts_for_all else 1.0
        self.bucket = TokenBucket(
            MAX_EVENTS_PER_SECOND * self.rate_factor, MAX_EVENT_BURST * self.rate_factor
        )
        self.connection = connection
        self.followed: set[StateId] = set()
        self.found: dict[StateId, StateId] = {}
        self.watched: set[str] = set()
        self.rooms: dict[str, Topic] = {}
        self.disconnected = False
        self.timer: asyncio.TimerHandle | None = None
        self.presence = PresentClient(
            client_id=str(uuid7()), user_id=caller.user_id, since=iso(datetime.now(UTC)), device=device
        )

    @property
    def user_id(self) -> str:
        """The user of the client's token."""
        return self.caller.user_id

    def is_person_on(self, user_id: str) -> bool:
        """Return whether the client is present on a state of a user: its owner's, or a participant's.

        Not so those who read or act for all users, and callers who may change nothing.
        """
        if self.caller.service or not self.caller.may_use:
            return False
        return user_id == self.user_id or not self.caller.may_read(user_id)


def token_of(environ: dict[str, Any], auth: Any) -> str | None:
    """Return the token of a connection: of the ``auth`` object, or of the Authorization header."""
    if isinstance(auth, dict) and isinstance(auth.get("token"), str):
        return str(auth["token"])
    return credential_in(str(environ.get("HTTP_AUTHORIZATION", "")))


def device_of(auth: Any) -> str:
    """Return the device label of a client, "" if it has none.

    Raises:
        InvalidRequestError: The label is too long, or has control characters.
    """
    label = auth.get("device", "") if isinstance(auth, dict) else ""
    if not isinstance(label, str) or not _LABEL.match(label):
        raise InvalidRequestError(
            [
                Fault(
                    "/device",
                    f"must be text of at most {MAX_DEVICE_CHARACTERS} characters without control characters",
                )
            ]
        )
    return label
