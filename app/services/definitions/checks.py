"""Checks of definitions: they take processor time, so that they run in threads, one at a time in each queue.

Who publishes is in a queue of its own, and never waits for callers who only ask what is wrong. These are
bounded: how many wait, how many are of one user, how long one takes, and how much of the time one user gets.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.contracts.callers import Caller
from app.contracts.definition import Finding
from app.contracts.errors import CheckTimeoutError, RateLimitedError
from app.flow.validation import check_flow
from app.kit.deadline import DeadlineExceededError, deadline

CHECKS_WAITING = 4
"""Of callers who only ask, with the one that runs."""
CHECKS_OF_A_USER = 2
CHECK_SECONDS = 10.0
"""That one check may take."""
SECONDS_OF_A_USER = 20.0
"""That a user's checks may take within a minute."""
WINDOW_SECONDS = 60.0
KNOWN_USERS = 10_000

_PUBLISHING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publishing")
_ASKING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="validation")
T = TypeVar("T")


class DefinitionChecks:
    """Runs checks for those who publish and for those who only ask."""

    def __init__(self, seconds: float = CHECK_SECONDS) -> None:
        self._seconds = seconds
        self._waiting = 0
        self._of_users: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[list[Finding] | None]] = set()
        self._used: dict[str, tuple[float, float]] = {}
        """By user: how many seconds of checks count at which time; they count less and less."""

    async def parse_for_publishing(self, parse: Callable[[object], T], raw: object) -> T:
        """Run the check of a definition that is to be published, behind others of these alone."""
        return await asyncio.get_running_loop().run_in_executor(_PUBLISHING, parse, raw)

    async def check(self, raw: object, caller: Caller) -> list[Finding]:
        """Check a definition for a caller who does not publish it.

        Trusted callers have no limits of their own.

        Raises:
            RateLimitedError: Too many checks are waiting, or the caller has used up its share.
            CheckTimeoutError: The check took too long.
        """
        user_id = None if caller.trusted else caller.user_id
        self._require_room(user_id)
        self._waiting += 1
        self._of_users[user_id or ""] += 1
        task = asyncio.ensure_future(self._run(raw, user_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # It runs on, and counts, also when the caller goes away.
        findings = await asyncio.shield(task)
        if findings is None:
            raise CheckTimeoutError(self._seconds)
        return findings

    async def _run(self, raw: object, user_id: str | None) -> list[Finding] | None:
        try:
            findings, took = await asyncio.get_running_loop().run_in_executor(_ASKING, self._check, raw)
        finally:
            self._waiting -= 1
            self._of_users[user_id or ""] -= 1
            self._of_users += Counter()  # without those that are zero
        if user_id is not None:
            self._count(user_id, took)
        return findings

    def _check(self, raw: object) -> tuple[list[Finding] | None, float]:
        began = time.monotonic()
        try:
            with deadline(self._seconds):
                return check_flow(raw), time.monotonic() - began
        except DeadlineExceededError:
            return None, time.monotonic() - began

    def _require_room(self, user_id: str | None) -> None:
        if user_id is not None:
            if self._of_users[user_id] >= CHECKS_OF_A_USER:
                raise RateLimitedError(f"{CHECKS_OF_A_USER} definitions of this user are checked already", 1)
            over = self._used_by(user_id) - SECONDS_OF_A_USER
            if over > 0:
                wait = over * WINDOW_SECONDS / SECONDS_OF_A_USER
                raise RateLimitedError("The definitions of this user took long to check", wait)
        if self._waiting >= CHECKS_WAITING:
            raise RateLimitedError("Definitions are checked one after another here", 1)

    def _used_by(self, user_id: str) -> float:
        used, since = self._used.get(user_id, (0.0, 0.0))
        passed = time.monotonic() - since
        return max(0.0, used - passed * SECONDS_OF_A_USER / WINDOW_SECONDS)

    def _count(self, user_id: str, seconds: float) -> None:
        if user_id not in self._used and len(self._used) >= KNOWN_USERS:
            self._used.clear()
        self._used[user_id] = self._used_by(user_id) + seconds, time.monotonic()
