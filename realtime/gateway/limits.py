"""Limits of one Socket.IO client."""

MAX_EVENTS_PER_SECOND = 50.0
MAX_EVENT_BURST = 250.0
"""Events accepted at once from a client that was idle: enough to renew all of its subscriptions."""
SERVICE_RATE_FACTOR = 20.0
"""Multiplies the limits of a client that acts for many users (scopes of services and administrators)."""
MAX_REFUSALS = 1000
"""Rate-limited events, without an idle pause between them, after which a client is disconnected."""
MAX_CONNECT_ATTEMPTS = 5
"""Socket.IO CONNECT packets on one connection: a client may retry with another token."""
MAX_SUBSCRIPTIONS = 200
"""Subscriptions of one client to states and watched flows together."""
MAX_QUEUED_PACKETS = 1000
MAX_QUEUED_BYTES = 4_000_000
"""Packets and bytes queued for a client that reads more slowly than events arrive."""
MAX_DEVICE_CHARACTERS = 64
