"""The Python client of server-flow: follows states without a gap, and executes each change once.

It needs ``aiohttp``, and imports nothing of the server but its values.
"""

from app.contracts.events import PresentClient
from app.contracts.people import Participant, TransitionBy
from app.contracts.wire.states import ClaimView, FlowUpdatedEvent
from realtime.client.errors import FlowClientError
from realtime.client.flow_client import FlowClient
from realtime.client.operations import StateListing
from realtime.client.subscriptions import Reader, States
from realtime.client.sync import StateUpdate, Stats

__all__ = [
    "ClaimView",
    "FlowClient",
    "FlowClientError",
    "FlowUpdatedEvent",
    "Participant",
    "PresentClient",
    "Reader",
    "StateListing",
    "StateUpdate",
    "States",
    "Stats",
    "TransitionBy",
]
