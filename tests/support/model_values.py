"""Steps, versions and commands of the model of one user's state."""

from datetime import timedelta
from typing import Any, NamedTuple

RECORDED_AS = {
    "start": "started",
    "back": "undone",
    "clear": "cleared",
    "pause": "paused",
    "resume": "resumed",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "start": {"service": ""},
    "transition": {"ok": True},
    "set": {"ok": True, "service": ""},
}


class Step(NamedTuple):
    """``transitions``: the target and marks of each; ``timeout``: after, transition, resume."""

    transitions: dict[str, tuple[str, str]]
    timeout: tuple[timedelta, str, str] | None = None


class Version(NamedTuple):
    """A published version of the flow; it begins at the first step."""

    steps: dict[str, Step]
    ttl: timedelta


class Command(NamedTuple):
    """One of the service's operations with its arguments."""

    name: str
    args: dict[str, Any]

    @property
    def recorded_as(self) -> str:
        return self.args["transition"] if self.name == "transition" else RECORDED_AS.get(self.name, self.name)

    @property
    def content(self) -> tuple[str, dict[str, Any]]:
        """The content by which a repeated request is recognised, with the values of absent arguments."""
        return self.name, DEFAULTS.get(self.name, {}) | self.args
