"""Limits of one client."""

EVENTS_PER_SECOND = 50.0
BURST = 250.0
"""So many events at once are taken from a client that was quiet: enough to subscribe to everything again."""
OF_A_SERVICE = 20.0
"""So many times as much may a client send that acts for many users."""
REFUSALS = 1000
"""A client that goes on although so many events were refused, and never pauses, is disconnected."""
CONNECTS = 5
"""Of one connection: a client may try another token."""
CONNECTIONS_OF_A_USER = 100
"""On one worker."""
SUBSCRIPTIONS = 200
"""Of one client, watched flows among them."""
WAITING_PACKETS = 1000
WAITING_BYTES = 4_000_000
"""The most bytes that wait for a client that reads slower than events come."""
DEVICE_CHARACTERS = 64
