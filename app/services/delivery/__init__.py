"""Delivery of committed records: the relay, its sinks, and the events for clients."""
