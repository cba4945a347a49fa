"""Socket.IO in and out, and the bus between workers."""
