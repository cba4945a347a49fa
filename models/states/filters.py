"""Conditions of queries on states."""

from datetime import datetime

from models.codec import Document
from models.indexed import not_expired


def keys_of(flow_id: str) -> tuple[str, str]:
    """Return the bounds of the keys of a flow's states: ":" or ";" follows the flow, and "<" comes next."""
    return f"{flow_id}:", f"{flow_id}<"


def running(version: int, now: datetime) -> Document:
    """Return the condition of the active and paused states on a version."""
    return {"version": version, "status": {"$in": ["active", "paused"]}, **not_expired(now)}
