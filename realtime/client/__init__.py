"""The Python client of server-flow: follows states without a gap, and executes each change once.

It needs ``aiohttp``, and imports nothing of the server but its values.
"""

from app.contracts.events import PresentClient
from app.contracts.wire.states import FlowUpdatedEvent
from realtime.client.errors import FlowClientError
from realtime.client.flow_client import FlowClient
from realtime.client.subscriptions import Reader, States
from realtime.client.sync import StateUpdate, Stats

__all__ = [
    "FlowClient",
    "FlowClientError",
    "FlowUpdatedEvent",
    "PresentClient",
    "Reader",
    "StateUpdate",
    "States",
    "Stats",
]
