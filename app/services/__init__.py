"""The use cases. They reach everything outside through the ports of ``app.contracts.ports``."""

from app.services.service import FlowService

__all__ = ["FlowService"]
