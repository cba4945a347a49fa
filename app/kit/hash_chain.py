"""Hash chains: each link's hash covers what the link states and the hash of the link before it.

The history of a state (app.flow.history_forms) and the audit log are such chains. What a link covers is
encoded as deterministic JSON: members in the order of their names, and none that is absent.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from msgspec import json


def json_hash(covered: Any, salt: str = "") -> str:
    """Return the SHA-256 of a value as deterministic JSON, after a salt, in hexadecimal digits."""
    return sha256(salt.encode() + json.encode(covered, order="deterministic")).hexdigest()


def link_hash(tag: str, previous_hash: str, *covered: str | Mapping[str, Any]) -> str:
    """Return the hash of a link: that of ``[tag, previous_hash, *covered]``.

    Args:
        tag: Names the form of the link, so that a link of one form never passes for one of another.
        previous_hash: The hash of the link before it, "" if it is the first.
        covered: What the link states.
    """
    return json_hash([tag, previous_hash, *covered])


def link_fault(head: str | None, previous_hash: str, kind: str, *, pruned: bool = False) -> str | None:
    """Return why a link does not follow the links before it; None if it does.

    Args:
        head: The hash of the last link before it, None if there is none.
        previous_hash: The hash that the link names.
        kind: The noun for a link in the reason.
        pruned: The first links may have been removed.
    """
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    if head is None:
        return None if previous_hash == "" or pruned else f"the {plural} before it are missing"
    return None if previous_hash == head else f"it does not follow the {kind} before it"
