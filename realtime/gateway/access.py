"""The access to Socket.IO events."""

from collections.abc import Mapping

from app.auth.policy import Access, Permission

_READ = Access(Permission.READ_STATES)
_READ_BY_SERVICES = Access(Permission.READ_STATES, for_services=True)
_USE = Access(Permission.USE)

EVENT_ACCESS: Mapping[str, Access] = {
    "connect": _READ_BY_SERVICES,
    "flow-state": _READ_BY_SERVICES,
    "flow-start": _USE,
    "flow-transition": Access(Permission.USE, for_services=True),
    "flow-reset": _USE,
    "flow-participants": _USE,
    "flow-claim": _USE,
    "flow-release": _USE,
    "flow-withdraw": _USE,
    "flow-list": _READ_BY_SERVICES,
    "flow-subscribe": _READ_BY_SERVICES,
    "flow-unsubscribe": _READ_BY_SERVICES,
    "flow-watch": Access(Permission.ADMIN),
    "flow-unwatch": _READ,
    "flow-presence": _READ,
}
"""The access to each event; without an entry an event cannot have a handler."""
