"""Write failures of a database that still answers reads or pings, such as a full disk."""

from collections.abc import Mapping
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

DISK_FULL = "the disk of the database is full"
CANNOT_WRITE = "the database cannot write"

_OUT_OF_DISK_SPACE = 14031
_INTERNAL_ERRORS = {1, 8}
_SIGNS_OF_FULL_DISK = ("no space left", "disk quota exceeded", "file too large", "os error 28")
_SIGNS_OF_STORAGE = ("wiredtiger", "wt_panic", "wterror", "internal server error", *_SIGNS_OF_FULL_DISK)
"""Parts of the messages of an embedded server whose disk is full or broken. The Python server reports every
failure of its storage as ``internal server error``."""


def storage_failure(code: object, message: object) -> str | None:
    """Return why the database cannot write, if an error code and message mean that."""
    text = message.lower() if isinstance(message, str) else ""
    if code == _OUT_OF_DISK_SPACE or any(sign in text for sign in _SIGNS_OF_FULL_DISK):
        return DISK_FULL
    if code in _INTERNAL_ERRORS and any(sign in text for sign in _SIGNS_OF_STORAGE):
        return CANNOT_WRITE
    return None


def failures_in(details: Mapping[str, Any] | None) -> list[str]:
    """Return the storage failures in the answer to a command, also to one with many writes."""
    if details is None:
        return []
    concern = details.get("writeConcernError")
    faults = [details, *details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
    faults += [concern] if isinstance(concern, dict) else []
    found = (storage_failure(fault.get("code"), fault.get("errmsg")) for fault in faults)
    return [reason for reason in found if reason is not None]


class LastFailure:
    """The last failed write of this process, until a later write succeeds."""

    def __init__(self) -> None:
        self.reason: str | None = None


LAST_FAILURE = LastFailure()


class WriteProbe:
    """Writes one small document to a server, in a database of its own."""

    def __init__(self, url: str, timeout_ms: int) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            url,
            maxPoolSize=1,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
            appname="server-flow probe",
        )
        self._writes = 0

    def failure(self) -> str | None:
        """Write once. Returns the reason if that fails."""
        self._writes += 1
        try:
            self._client["server_flow_probe"]["writes"].update_one(
                {"_id": "last"}, {"$set": {"writes": self._writes}}, upsert=True
            )
        except OperationFailure as refusal:
            return next(iter(failures_in(refusal.details)), CANNOT_WRITE)
        except PyMongoError:
            return "it does not answer writes"
        return None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
