"""Logs origins that are not allowed to use the API."""

import structlog

SETTING = "FLOW_CORS_ORIGINS"
MAX_LOGGED = 100

log = structlog.get_logger("origins")


class RefusedOrigins:
    """Logs each refused origin once, up to ``MAX_LOGGED``: browsers repeat their requests."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def add(self, origin: str) -> None:
        """Log an origin unless it was logged already."""
        if origin not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(origin)
            log.warning("origin refused", origin=origin[:200], setting=SETTING)
