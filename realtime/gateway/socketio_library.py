"""python-socketio for the gateway, without the package of its Redis managers, which are not used here."""

from app.kit.lazy import without_modules

with without_modules("valkey"):  # 0.05 s of CPU; the events between workers go over ``realtime.redis.bus``
    import engineio
    import socketio

__all__ = ["engineio", "socketio"]
