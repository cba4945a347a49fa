"""A connected client: who it is, and what it follows."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

from uuid_utils import uuid7

from app.auth.policy import ADMIN, SERVICE
from app.contracts.callers import Caller
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.events import PresentClient, Topic
from app.contracts.wire.times import iso
from app.kit.token_bucket import TokenBucket
from realtime.gateway.limits import BURST, DEVICE_CHARACTERS, EVENTS_PER_SECOND, OF_A_SERVICE

_LABEL = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{0,{DEVICE_CHARACTERS}}}\Z")


class Client:
    """``followed`` are states (flow and user), ``watched`` flows, ``rooms`` those that it is in, with what
    they need; ``present`` is how others see it. ``gone``: it has disconnected, and must hold nothing."""

    def __init__(self, sid: str, caller: Caller, device: str) -> None:
        self.sid = sid
        self.caller = caller
        self.share = OF_A_SERVICE if caller.scopes & {ADMIN, SERVICE} else 1.0
        self.bucket = TokenBucket(EVENTS_PER_SECOND * self.share, BURST * self.share)
        self.followed: set[tuple[str, str]] = set()
        self.watched: set[str] = set()
        self.rooms: dict[str, Topic] = {}
        self.gone = False
        self.timer: asyncio.TimerHandle | None = None
        self.present = PresentClient(
            client_id=str(uuid7()), user_id=caller.user_id, since=iso(datetime.now(UTC)), device=device
        )

    @property
    def user_id(self) -> str:
        """Whose it is."""
        return self.caller.user_id


def token_of(environ: dict[str, Any], auth: Any) -> str | None:
    """The token that a connection comes with."""
    if isinstance(auth, dict) and isinstance(auth.get("token"), str):
        return str(auth["token"])
    scheme, _, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def device_of(auth: Any) -> str:
    """The label that a client gives itself. Raises InvalidRequestError."""
    label = auth.get("device", "") if isinstance(auth, dict) else ""
    if not isinstance(label, str) or not _LABEL.match(label):
        raise InvalidRequestError(
            [Fault("/device", f"at most {DEVICE_CHARACTERS} characters, no control characters")]
        )
    return label
