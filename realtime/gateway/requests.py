"""Socket.IO requests about states: each calls one operation of the service and answers with its result."""

from typing import Any

from app.contracts.commands import Origin
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.positions import ExpectedPosition
from app.contracts.state import FlowState
from app.contracts.wire.states import state_view
from app.services import FlowService
from realtime.gateway.messages import (
    ChangeMessage,
    ClaimMessage,
    FlowMessage,
    ListMessage,
    ParticipantsMessage,
    ResetMessage,
    StartMessage,
    TransitionMessage,
)
from realtime.gateway.session import Session

Answer = dict[str, Any]


class StateRequests:
    """Handlers of the requests of clients: the session, the owner that it names, and the body."""

    def __init__(self, service: FlowService) -> None:
        self._service = service

    async def state(self, session: Session, user_id: str, message: FlowMessage) -> Answer:
        """Answer with the state."""
        return _state_body(
            await self._service.get_flow_state(
                user_id, message.flow_id, entity_id=message.entity_id, caller=session.caller
            )
        )

    async def start(self, session: Session, user_id: str, message: StartMessage) -> Answer:
        """Start a flow."""
        state, started = await self._service.start_flow(
            user_id, message.flow_id, message.command(), origin=_origin(session, message)
        )
        return {**_state_body(state), "started": started}

    async def transition(self, session: Session, user_id: str, message: TransitionMessage) -> Answer:
        """Run a transition."""
        state = await self._service.execute_transition(
            user_id,
            message.flow_id,
            message.transition,
            message.payload,
            ok=message.ok,
            message=message.message,
            remove=message.remove,
            entity_id=message.entity_id,
            origin=_origin(session, message),
        )
        return _state_body(state)

    async def reset(self, session: Session, user_id: str, message: ResetMessage) -> Answer:
        """Restart a state."""
        state = await self._service.reset_flow(
            user_id,
            message.flow_id,
            message.step,
            entity_id=message.entity_id,
            origin=_origin(session, message),
        )
        return _state_body(state)

    async def assign(self, session: Session, user_id: str, message: ParticipantsMessage) -> Answer:
        """Replace the participants."""
        state = await self._service.people.assign(
            user_id,
            message.flow_id,
            message.command(),
            entity_id=message.entity_id,
            origin=_origin(session, message),
        )
        return _state_body(state)

    async def claim(self, session: Session, user_id: str, message: ClaimMessage) -> Answer:
        """Claim tasks."""
        state = await self._service.people.claim(
            user_id,
            message.flow_id,
            message.command(),
            entity_id=message.entity_id,
            origin=_origin(session, message),
        )
        return _state_body(state)

    async def release(self, session: Session, user_id: str, message: ClaimMessage) -> Answer:
        """Release a claim."""
        state = await self._service.people.release(
            user_id,
            message.flow_id,
            message.command(),
            entity_id=message.entity_id,
            origin=_origin(session, message),
        )
        return _state_body(state)

    async def withdraw(self, session: Session, user_id: str, message: ChangeMessage) -> Answer:
        """Withdraw a vote."""
        state = await self._service.people.withdraw(
            user_id, message.flow_id, entity_id=message.entity_id, origin=_origin(session, message)
        )
        return _state_body(state)

    async def list(self, session: Session, user_id: str, message: ListMessage) -> Answer:
        """List the states of a user in a flow, or those that wait for the caller."""
        after, limit, caller = message.after, message.limit, session.caller
        if message.role is not None:
            given = {"flowId": message.flow_id, "userId": message.user_id, "status": message.status}
            faults = [
                Fault(f"/{name}", "must be left out with `as`") for name, value in given.items() if value
            ]
            if faults:
                raise InvalidRequestError(faults)
            found = await self._service.administration.list_awaiting(
                message.role, caller, after=after, limit=limit
            )
        elif message.flow_id is not None:
            found = await self._service.list_flow_states(
                user_id, message.flow_id, status=message.status, after=after, limit=limit, caller=caller
            )
        else:
            raise InvalidRequestError([Fault("/flowId", "is required, unless `as` names a role")])
        answer: Answer = {"items": [state_view(state) for state in found.states]}
        return answer if found.next is None else {**answer, "next": found.next}


def _origin(session: Session, message: Any) -> Origin:
    expected = message.expected_revision
    return Origin(
        session.caller,
        request_id=message.request_id,
        client="socket",
        expected=None if expected is None else ExpectedPosition(expected),
    )


def _state_body(state: FlowState | None) -> Answer:
    return {"state": None if state is None else state_view(state)}
