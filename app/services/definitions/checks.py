"""Checks of definitions, which take processor time: they run in threads, one at a time in each queue.

Definitions that are published have a queue of their own and never wait for checks alone. Checks alone are
bounded in number, in number for one user, in the time of one check, and in the total time for one user.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from app.contracts.callers import Caller
from app.contracts.definition import Finding
from app.contracts.errors import CheckTimeoutError, RateLimitedError
from app.contracts.flow import Flow
from app.flow.lint.findings import MAX_FINDINGS, arranged
from app.flow.lint.services import service_findings
from app.flow.validation import check_flow, parse_flow
from app.kit.deadline import DeadlineExceededError, deadline

MAX_CHECKS = 4
"""Checks alone that wait or run."""
MAX_CHECKS_OF_USER = 2
MAX_CHECK_SECONDS = 10.0
"""The time of one check."""
MAX_SECONDS_OF_USER = 20.0
"""The time of a user's checks within ``WINDOW_SECONDS``."""
WINDOW_SECONDS = 60.0
MAX_KNOWN_USERS = 10_000

_PUBLISHING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publishing")
_CHECKING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="validation")


def no_services() -> Collection[str]:
    """Return the registered services where there is no registry."""
    return ()


class DefinitionChecks:
    """Runs the checks of publications, and checks alone.

    Administrators are warned of services that nobody has registered, by ``registered``.
    """

    def __init__(
        self, registered: Callable[[], Collection[str]] = no_services, *, seconds: float = MAX_CHECK_SECONDS
    ) -> None:
        self._registered = registered
        self._seconds = seconds
        self._waiting = 0
        self._of_users: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[list[Finding] | None]] = set()
        self._used: dict[str, tuple[float, float]] = {}
        """By user: seconds of checks that counted at a time; they decay over ``WINDOW_SECONDS``."""

    async def parse_for_publishing(self, raw: object) -> tuple[Flow, list[Finding]]:
        """Parse a definition that is to be published, behind other publications alone."""
        flow, findings = await asyncio.get_running_loop().run_in_executor(_PUBLISHING, parse_flow, raw)
        return flow, self._with_services(raw, findings)

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
        # The check continues, and counts, even if the caller disconnects.
        findings = await asyncio.shield(task)
        if findings is None:
            raise CheckTimeoutError(self._seconds)
        # Others would learn from it which services are registered.
        return self._with_services(raw, findings) if caller.is_administrator else findings

    def _with_services(self, raw: object, findings: list[Finding]) -> list[Finding]:
        registered = self._registered()
        if not registered or not isinstance(raw, dict) or len(findings) >= MAX_FINDINGS:
            return findings
        return arranged(raw, [*findings, *service_findings(raw, registered)])

    async def _run(self, raw: object, user_id: str | None) -> list[Finding] | None:
        try:
            findings, seconds = await asyncio.get_running_loop().run_in_executor(_CHECKING, self._check, raw)
        finally:
            self._waiting -= 1
            self._of_users[user_id or ""] -= 1
            self._of_users += Counter()  # without those that are zero
        if user_id is not None:
            self._count(user_id, seconds)
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
            if self._of_users[user_id] >= MAX_CHECKS_OF_USER:
                raise RateLimitedError(
                    f"{MAX_CHECKS_OF_USER} definitions of this user are being checked already", 1
                )
            excess = self._used_by(user_id) - MAX_SECONDS_OF_USER
            if excess > 0:
                wait = excess * WINDOW_SECONDS / MAX_SECONDS_OF_USER
                raise RateLimitedError(
                    "The checks of this user's definitions have used up their processor time", wait
                )
        if self._waiting >= MAX_CHECKS:
            raise RateLimitedError("Too many definitions are waiting to be checked", 1)

    def _used_by(self, user_id: str) -> float:
        used, since = self._used.get(user_id, (0.0, 0.0))
        elapsed = time.monotonic() - since
        return max(0.0, used - elapsed * MAX_SECONDS_OF_USER / WINDOW_SECONDS)

    def _count(self, user_id: str, seconds: float) -> None:
        if user_id not in self._used and len(self._used) >= MAX_KNOWN_USERS:
            self._used.clear()
        self._used[user_id] = self._used_by(user_id) + seconds, time.monotonic()
