"""Structured logs on standard error, without stack traces and messages of the driver."""

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
NOISY_LOGGERS = ("engineio", "socketio")
"""They warn about every malformed client; ``realtime`` logs what matters."""


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (C0, DEL, C1), line separators, changes of the writing direction, surrogates."""


_SECRETS = re.compile(
    r"(?P<key>sfk_[0-9A-Za-z]{16}_|whsec_)[0-9A-Za-z+/=_-]{4,}"
    r"|(?P<token>eyJ)[0-9A-Za-z_-]{8,}(?:\.[0-9A-Za-z_-]*)*"
    r"|(?P<user>://[^\s/:@]*:)[^\s/@]+(?P<host>@)"
)
"""API keys, of which the public part stays, secrets of webhooks, tokens (JSON in base64), and passwords in
URLs."""

_STATE_FIELDS = ("state", "record", "first", "document", "place")
_STATE_KEY = re.compile(r"([^:]+):(.+?)((?::[0-9a-f]{8}-[0-9a-f-]{27}:\d+.*)?)", re.DOTALL)
"""The flow, the user, and the rest of a record's id."""


class LogIdentity:
    """The identity of this process in log lines, and the names of users in them."""

    def __init__(self) -> None:
        self.worker: str | None = None
        self.plain_users = False
        self._key = os.urandom(32)

    def set_key(self, secret: bytes) -> None:
        """Derive the key of hashed names from a shared secret, so that all workers write the same names."""
        self._key = blake2b(secret, digest_size=32, person=b"users in logs").digest()

    def name(self, user_id: str) -> str:
        """Return the name of a user in the log."""
        if self.plain_users:
            return user_id
        return (
            "u-" + blake2b(user_id.encode(errors="surrogatepass"), digest_size=8, key=self._key).hexdigest()
        )


IDENTITY = LogIdentity()
"""The identity of this process."""


def escape_controls(text: str, allowed: str = "") -> str:
    """Escape characters that a terminal interprets, as JSON does, except those in ``allowed``."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in allowed else f"\\u{ord(found[0]):04x}", text)


def mask_secrets(text: str) -> str:
    """Mask credentials, which a client may send anywhere, as in a path."""
    return _SECRETS.sub(r"\g<key>\g<token>\g<user>***\g<host>", text)


def configure_own_logs(level: str, style: str) -> None:
    """Send the logs of this service to standard error, as ``console`` text or ``json``.

    The logs of other libraries are not changed.
    """
    structlog.configure(
        processors=[*_shared(), *_rendering(style)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def configure_logging(level: str, style: str) -> None:
    """Send the logs of this service and of its libraries to standard error."""
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
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def describe(error: BaseException) -> dict[str, str]:
    """Return the type of an unexpected error, and the places in the code where it was raised and passed.

    Its message is left out, because it can quote data or secrets.
    """
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
        _replace_stack_trace,
        _hash_users,
        _escape_event,
    ]


def _add_process(_: Any, __: str, event: EventDict) -> EventDict:
    event.setdefault("pid", os.getpid())  # unless it is about another process
    if IDENTITY.worker is not None:
        event.setdefault("worker", IDENTITY.worker)
    return event


def _hash_users(_: Any, __: str, event: EventDict) -> EventDict:
    if isinstance(event.get("user"), str):
        event["user"] = IDENTITY.name(event["user"])
    for name in _STATE_FIELDS:
        value = event.get(name)
        if isinstance(value, str) and (found := _STATE_KEY.fullmatch(value)):
            event[name] = f"{found[1]}:{IDENTITY.name(found[2])}{found[3]}"
    return event


def _escape_event(_: Any, __: str, event: EventDict) -> EventDict:
    return {_escape_value(name): _escape_value(value) for name, value in event.items()}


def _escape_value(value: Any) -> Any:
    if isinstance(value, str):
        return escape_controls(mask_secrets(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_escape_value(member) for member in value]
    if isinstance(value, dict):
        return {_escape_value(name): _escape_value(member) for name, member in value.items()}
    return value


def _rendering(style: str) -> list[Processor]:
    if style == "json":
        return [_add_process, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]


def _replace_stack_trace(_: Any, __: str, event: EventDict) -> EventDict:
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
