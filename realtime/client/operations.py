"""The requests of a client, each a method."""

import uuid
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from app.contracts.events import PresentClient
from app.contracts.people import Participant
from app.contracts.ports.states import ListedStatus
from realtime.client.errors import FlowClientError
from realtime.client.requests import DEADLINE_SECONDS, Requests
from realtime.client.subscriptions import decoded
from realtime.client.sync import StateUpdate


class _StateAnswer(Struct, frozen=True):
    state: StateUpdate | None


class _PresenceAnswer(Struct, frozen=True):
    clients: list[PresentClient]


class StateListing(Struct, frozen=True):
    """Some of several states. ``next`` is the ``after`` of the next page, None on the last one."""

    items: list[StateUpdate]
    next: str | None = None


class ClientOperations:
    """Requests about states.

    ``user_id`` names the owner of another user's state, for participants of the state, services and
    administrators. ``entity_id`` names one of many states; without it, it is the only one that there is, or
    an error ENTITY_REQUIRED.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._open = False

    async def start(
        self,
        flow_id: str,
        *,
        step: str | None = None,
        service: str | None = None,
        entity_id: str | UnsetType | None = UNSET,
        payload: dict[str, Any] | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
        participants: Sequence[Participant] | None = None,
        user_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Start a flow. Returns the new state, or the running one if there is one.

        ``entity_id`` is the entity of the new state in a flow with many, a new one if absent; in others it is
        a label. ``participants`` are people with roles on the state.
        """
        body = named(
            flow_id,
            user_id,
            step=step,
            service=service,
            payload=payload,
            participants=None if participants is None else list(participants),
        )
        if entity_id is not UNSET:
            body["entityId"] = entity_id
        return await self._change("flow-start", body, request_id, expected_revision, deadline)

    async def transition(
        self,
        flow_id: str,
        transition: str,
        payload: dict[str, Any] | None = None,
        *,
        ok: bool | None = None,
        message: str | None = None,
        remove: Sequence[str] | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Run a transition of the present step. Returns the new state.

        ``remove`` has JSON pointers to members of the state's payload that are removed before ``payload`` is
        merged into it.
        """
        removed = (
            remove if remove is None or isinstance(remove, str) else list(remove)
        )  # the server refuses a str
        body = named(
            flow_id,
            user_id,
            entity_id,
            transition=transition,
            payload=payload,
            ok=ok,
            message=message,
            remove=removed,
        )
        return await self._change("flow-transition", body, request_id, expected_revision, deadline)

    async def reset(
        self,
        flow_id: str,
        step: str | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Restart at the initial or the given step. Returns the new state."""
        body = named(flow_id, user_id, entity_id, step=step)
        return await self._change("flow-reset", body, request_id, expected_revision, deadline)

    async def claim(
        self,
        flow_id: str,
        role: str | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Claim the tasks of a role on a state, for a time. Returns the new state.

        Without ``role`` it is the only one that the caller can claim. Claimed again, it lasts longer.
        """
        body = named(flow_id, user_id, entity_id, role=role)
        return await self._change("flow-claim", body, request_id, expected_revision, deadline)

    async def release(
        self,
        flow_id: str,
        role: str | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """End a claim. Returns the new state."""
        body = named(flow_id, user_id, entity_id, role=role)
        return await self._change("flow-release", body, request_id, expected_revision, deadline)

    async def withdraw(
        self,
        flow_id: str,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Withdraw the caller's vote at the present step. Returns the new state."""
        body = named(flow_id, user_id, entity_id)
        return await self._change("flow-withdraw", body, request_id, expected_revision, deadline)

    async def assign(
        self,
        flow_id: str,
        participants: Sequence[Participant],
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Replace the people with roles on a state. Returns the new state."""
        body = named(flow_id, user_id, entity_id, participants=list(participants))
        return await self._change("flow-participants", body, request_id, expected_revision, deadline)

    async def state(
        self,
        flow_id: str,
        *,
        user_id: str | None = None,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate | None:
        """Return the present state, None if there is none."""
        answer = await self._request("flow-state", named(flow_id, user_id, entity_id), deadline)
        return decoded(answer, _StateAnswer).state

    async def list_states(
        self,
        flow_id: str,
        *,
        status: ListedStatus | None = None,
        limit: int | None = None,
        after: str | None = None,
        user_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateListing:
        """Return a page of a user's states in a flow, the newest first; with ``status`` those in it."""
        body = named(flow_id, user_id, status=status, limit=limit, after=after)
        return decoded(await self._request("flow-list", body, deadline), StateListing)

    async def tasks(
        self,
        role: str,
        *,
        limit: int | None = None,
        after: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateListing:
        """Return a page of the states of all users that wait for the caller in a role."""
        body = {**named(limit=limit, after=after), "as": role}
        return decoded(await self._request("flow-list", body, deadline), StateListing)

    async def presence(
        self,
        flow_id: str,
        user_id: str | None = None,
        *,
        entity_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> list[PresentClient]:
        """Return the clients that follow a state now, on all workers.

        The client must follow that state itself; to list the clients of all users it must watch the flow.
        """
        answer = await self._request("flow-presence", named(flow_id, user_id, entity_id), deadline)
        return decoded(answer, _PresenceAnswer).clients

    async def _change(
        self,
        event: str,
        body: dict[str, Any],
        request_id: str | None,
        expected_revision: int | None,
        deadline: float,
    ) -> StateUpdate:
        body["requestId"] = request_id or str(uuid.uuid4())
        if expected_revision is not None:
            body["expectedRevision"] = expected_revision
        state = decoded(await self._request(event, body, deadline), _StateAnswer).state
        if state is None:
            raise FlowClientError("INVALID_ANSWER", f"The server answered {event} without a state")
        return state

    async def _request(self, event: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        self._check_open()
        return await self._requests.send(event, body, deadline)

    def _check_open(self) -> None:
        if not self._open:
            raise FlowClientError("CLOSED", "The client is not open")


def named(
    flow_id: str | None = None, user_id: str | None = None, entity_id: str | None = None, **members: Any
) -> dict[str, Any]:
    """Return the body of a message about a state, without the members that are None."""
    names = {"flowId": flow_id, "userId": user_id, "entityId": entity_id}
    return {name: value for name, value in {**names, **members}.items() if value is not None}
