"""The Socket.IO server: sessions, rooms, events and their limits."""
