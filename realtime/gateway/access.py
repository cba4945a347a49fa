"""The access to Socket.IO events."""

from collections.abc import Mapping

from app.auth.policy import Access, Permission

_READ = Access(Permission.READ_STATES, for_services=True)
_USE = Access(Permission.USE)

EVENT_ACCESS: Mapping[str, Access] = {
    "connect": Access(Permission.CONNECT, for_services=True),
    "flow-state": _READ,
    "flow-start": _USE,
    "flow-transition": Access(Permission.USE, for_services=True),
    "flow-reset": _USE,
    "flow-participants": _USE,
    "flow-claim": _USE,
    "flow-release": _USE,
    "flow-withdraw": _USE,
    "flow-list": _READ,
    "flow-subscribe": _READ,
    "flow-unsubscribe": Access(Permission.CONNECT, for_services=True),
    "flow-watch": Access(Permission.ADMIN),
    "flow-unwatch": Access(Permission.CONNECT),
    "flow-presence": Access(Permission.READ_STATES),
}
"""The access to each event; without an entry an event cannot have a handler."""
