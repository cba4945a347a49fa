"""Socket.IO in and out, and the bus between workers."""

from app.kit.lazy import lazy_module

# python-socketio imports it for its client, whether there is one or not: 0.2 s of CPU.
lazy_module("aiohttp")
