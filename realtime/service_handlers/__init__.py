"""Handlers of a service for steps of flows: events by webhook, stream or polling, and answers to them.

It imports nothing of the server but its values and the signatures of webhooks.
"""

from realtime.service_handlers.api import ServiceApiError
from realtime.service_handlers.handled import Handled, HandledEvents, RecentEvents, Transition
from realtime.service_handlers.handlers import ServiceHandlers, StepEntered
from realtime.service_handlers.polling import PositionFile, PositionStore
from realtime.service_handlers.program import ServiceProgram, service_handlers

__all__ = [
    "Handled",
    "HandledEvents",
    "PositionFile",
    "PositionStore",
    "RecentEvents",
    "ServiceApiError",
    "ServiceHandlers",
    "ServiceProgram",
    "StepEntered",
    "Transition",
    "service_handlers",
]
