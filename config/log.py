"""Structured logs: one line an event on standard error, never a stack trace or a driver's message."""

import logging
import os
import re
import sys
import traceback
from hashlib import blake2b
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

QUIET = ("uvicorn", "uvicorn.error", "pymongo", "asyncio", "watchfiles")
RUDE_CLIENTS = ("engineio", "socketio")
"""They warn of every client that sends what it should not; what matters of it ``realtime`` logs."""


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (C0, DEL, C1), separators of lines, changes of the writing direction, halves of characters."""


_NAMES_OF_STATES = ("state", "record", "first", "document", "place")
_STATE = re.compile(r"([^:]+):(.+?)((?::[0-9a-f]{8}-[0-9a-f-]{27}:\d+.*)?)", re.DOTALL)
"""The flow, the user, and of a record the rest of its id."""


class LogIdentity:
    """The identity in the lines of this process, and how they name users."""

    def __init__(self) -> None:
        self.worker: str | None = None
        self.plain_users = False
        self._key = os.urandom(32)

    def set_key(self, secret: bytes) -> None:
        """Have all workers that know a secret write the same name for a user."""
        self._key = blake2b(secret, digest_size=32, person=b"users in logs").digest()

    def name(self, user_id: str) -> str:
        """Return what the log has in the place of a user's id."""
        if self.plain_users:
            return user_id
        return (
            "u-" + blake2b(user_id.encode(errors="surrogatepass"), digest_size=8, key=self._key).hexdigest()
        )


IDENTITY = LogIdentity()
"""That of this process."""


def escape_controls(text: str, keep: str = "") -> str:
    """Escape what a terminal would take for a command or a line of its own, as JSON does; ``keep`` stays."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def configure_own_logs(level: str, style: str) -> None:
    """Send the logs of this service to standard error, as ``console`` text or ``json``; those of other
    libraries stay where the program sends them."""
    structlog.configure(
        processors=[*_shared(), *_rendering(style)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def configure_logging(level: str, style: str) -> None:
    """As ``configure_own_logs``, and the logs of the libraries too."""
    configure_own_logs(level, style)
    number = logging.getLevelName(level.upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(style)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.INFO))
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in RUDE_CLIENTS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def describe(error: BaseException) -> dict[str, str]:
    """An unexpected error in two words: its type, and where in the code it arose. Its message may
    quote data or secrets, so that it stays out."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
    own = [f for f in frames if "site-packages" not in f.filename and "/lib/python" not in f.filename]
    via = f"{own[-1].filename.rpartition('/')[2]}:{own[-1].lineno}" if own else at
    return {"error": type(error).__name__, "at": at, "via": via}


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _where_instead_of_trace,
        _with_names_of_users,
        _without_controls,
    ]


def _with_process(_: Any, __: str, event: EventDict) -> EventDict:
    event.setdefault("pid", os.getpid())  # unless it is about another process
    if IDENTITY.worker is not None:
        event.setdefault("worker", IDENTITY.worker)
    return event


def _with_names_of_users(_: Any, __: str, event: EventDict) -> EventDict:
    if isinstance(event.get("user"), str):
        event["user"] = IDENTITY.name(event["user"])
    for name in _NAMES_OF_STATES:
        value = event.get(name)
        if isinstance(value, str) and (found := _STATE.fullmatch(value)):
            event[name] = f"{found[1]}:{IDENTITY.name(found[2])}{found[3]}"
    return event


def _without_controls(_: Any, __: str, event: EventDict) -> EventDict:
    return {escape_controls(name): _escaped(value) for name, value in event.items()}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape_controls(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_escaped(member) for member in value]
    if isinstance(value, dict):
        return {_escaped(name): _escaped(member) for name, member in value.items()}
    return value


def _rendering(style: str) -> list[Processor]:
    if style == "json":
        return [_with_process, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]


def _where_instead_of_trace(_: Any, __: str, event: EventDict) -> EventDict:
    info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    record = event.get("_record")
    if info is None and record is not None:
        info = record.exc_info
    if record is not None:
        record.exc_info = record.exc_text = record.stack_info = None
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event.update(describe(error))
    return event
