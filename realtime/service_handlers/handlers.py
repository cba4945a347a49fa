"""The handlers of a service, and the choice of the one for an event."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from realtime.consumer.events import StreamEvent
from realtime.service_handlers.handled import Handled, HandledEvents, RecentEvents, Transition

ENTERED = "flow.step.entered"


class StepEntered(Struct, frozen=True, kw_only=True):
    """A state that entered a step of the service.

    Attributes:
        id: The id of the event: the same when it is delivered again.
        flow_id: The flow.
        user_id: The user of the state.
        entity_id: The entity of the state, None if it has none.
        step: The step.
        from_step: The step before, "" if the flow began.
        transition: The transition that led to it.
        actor: The user who ran it.
        payload: The payload of the state.
        epoch: With ``revision``, the position of the change.
        revision: The revision of that position.
        replay: An operator has it delivered again.
    """

    id: str
    flow_id: str
    user_id: str
    entity_id: str | None = None
    step: str
    from_step: str = ""
    transition: str = ""
    actor: str = ""
    payload: dict[str, Any]
    epoch: str = ""
    revision: int = 0
    replay: bool = False


StepHandler = Callable[[StepEntered], Awaitable[Transition | None]]
EventHandler = Callable[[StreamEvent], Awaitable[None]]
StateReader = Callable[[StreamEvent], Awaitable[dict[str, Any] | None]]
"""Returns the state of an event without data, None if it has changed since."""


class ServiceHandlers:
    """Handlers by step and by type of event.

    An event that was handled before is not handled again: its answer is remembered. One event that arrives
    twice at a time is handled once.

    Args:
        handled: The store of handled events.
        read_state: Reads the state of an event that has only ids.
    """

    def __init__(self, handled: HandledEvents | None = None, read_state: StateReader | None = None) -> None:
        self._handled = handled or RecentEvents()
        self._read_state = read_state
        self._steps: dict[tuple[str, str], StepHandler] = {}
        self._types: dict[str, EventHandler] = {}
        self._running: dict[str, asyncio.Task[Transition | None]] = {}

    def step(self, flow_id: str, step: str) -> Callable[[StepHandler], StepHandler]:
        """Register a handler for the states that enter a step."""

        def register(handler: StepHandler) -> StepHandler:
            if (flow_id, step) in self._steps:
                raise ValueError(f"the step {step} of {flow_id} has a handler already")
            self._steps[flow_id, step] = handler
            return handler

        return register

    def event(self, *types: str) -> Callable[[EventHandler], EventHandler]:
        """Register a handler for types of events. The one of a step takes precedence."""

        def register(handler: EventHandler) -> EventHandler:
            for each in types:
                if each in self._types:
                    raise ValueError(f"the type {each} has a handler already")
                self._types[each] = handler
            return handler

        return register

    @property
    def has_event_handlers(self) -> bool:
        """There is a handler for a type of events."""
        return bool(self._types)

    async def handle(self, event: StreamEvent) -> Transition | None:
        """Handle an event unless it was handled before, and return the answer to it.

        Raises:
            Exception: Any error of the handler. The event is to be delivered again.
        """
        running = self._running.get(event.id)
        if running is None:
            running = asyncio.create_task(self._handle_once(event))
            self._running[event.id] = running
            running.add_done_callback(lambda _: self._running.pop(event.id, None))
        # Shielded: another delivery of the event may wait for the same result.
        return await asyncio.shield(running)

    async def _handle_once(self, event: StreamEvent) -> Transition | None:
        before = await self._handled.get(event.id)
        if before is not None:
            return before.answer
        answer = await self._call_handler(event)
        await self._handled.put(event.id, Handled(answer))
        return answer

    async def _call_handler(self, event: StreamEvent) -> Transition | None:
        data: dict[str, Any] | None = event.data
        if event.type == ENTERED and self._steps:
            if "step" not in event.data and self._read_state is not None:
                data = await self._read_state(event)
            step = self._steps.get((event.data["flowId"], str((data or {}).get("step", ""))))
            if data is not None and step is not None:
                return await step(step_entered(event, data))
        other = self._types.get(event.type)
        if other is not None:
            await other(event)
        return None


def step_entered(event: StreamEvent, data: dict[str, Any]) -> StepEntered:
    """Return the change that an event reports. ``data`` is that of the event, or the state."""
    payload = data.get("payload")
    return StepEntered(
        id=event.id,
        flow_id=event.data["flowId"],
        user_id=event.data["userId"],
        entity_id=event.data.get("entityId"),
        step=data["step"],
        from_step=data.get("fromStep", ""),
        transition=data.get("transition", ""),
        actor=data.get("actor", ""),
        payload=payload if isinstance(payload, dict) else {},
        epoch=data.get("epoch", ""),
        revision=data.get("revision", 0),
        replay=event.replay,
    )
