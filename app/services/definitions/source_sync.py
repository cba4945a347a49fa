"""Sources: all places beside the database where definitions come from, the first that has a flow first."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from functools import partial

import structlog

from app.contracts.errors import FlowError, FlowStateCorruptionError
from app.contracts.ports.sources import DefinitionSourceError
from app.services.definitions.publisher import Definitions, SourcedFlow, SyncResult
from app.services.definitions.source_mirror import SourceMirror
from config.log import describe

log = structlog.get_logger("sources")

SETTLE_EVERY_SECONDS = 5.0
AGAIN_AFTER_SECONDS = 5.0


class Sources:
    """Publishes what sources have (decision 3). Every worker does: what a flow is published over is told by
    the store, so that of several the first does it and the others find it done. Of each flow it knows what it
    offered last, and the version that was the newest after that."""

    def __init__(self, definitions: Definitions, copies: Sequence[SourceMirror]) -> None:
        self._definitions = definitions
        self._copies = copies
        self._taken: dict[str, tuple[SourcedFlow, int | None]] = {}
        self._settled = False
        self._stirred = asyncio.Event()

    async def take_up(self) -> list[str]:
        """At a start: read all, and publish what the store has not; which flows. Raises
        DefinitionSourceError with every fault of what is of this machine; what is away is only reported."""
        await asyncio.gather(*(copy.refresh(report=not copy.source.local) for copy in self._copies))
        faults = [fault for copy in self._copies if copy.source.local for fault in copy.faults]
        if faults:
            raise DefinitionSourceError("; ".join(faults))
        return await self._publish(starting=True)

    async def follow(self) -> None:
        """Take up what changes, until cancelled. Without a ``take_up`` before it, as in a worker that
        another process prepared, what was published once is left alone."""
        if not self._copies:
            return
        if not self._settled:
            await asyncio.gather(*(self._look(copy, advise=False) for copy in self._copies))
        self._stirred.set()
        async with asyncio.TaskGroup() as tasks:
            for copy in self._copies:
                tasks.create_task(self._follow(copy))
            tasks.create_task(self._settle())

    async def _follow(self, copy: SourceMirror) -> None:
        while True:
            try:
                async with aclosing(copy.source.changes()) as changes:
                    async for _ in changes:
                        await self._look(copy)
                        self._stirred.set()
            except Exception as error:  # noqa: BLE001 - without it the source is never read again
                log.error("source not followed", source=copy.source.name, **describe(error))
            await asyncio.sleep(AGAIN_AFTER_SECONDS)

    @staticmethod
    async def _look(copy: SourceMirror, *, advise: bool = True) -> None:
        try:
            await copy.refresh(advise=advise)
        except Exception as error:  # noqa: BLE001 - of one source; it must not hold up the others
            log.error("source not read", source=copy.source.name, **describe(error))

    async def _settle(self) -> None:
        """Publish what changed, and now and then what a caller put in the place of a flow whose source comes
        before the database."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_EVERY_SECONDS):
                    await self._stirred.wait()
            self._stirred.clear()
            try:
                published = await self._publish()
                if published:
                    log.info("definitions published", flows=published)
            except FlowError as error:
                log.warning("definitions not taken up yet", code=error.code)
            except Exception as error:  # noqa: BLE001 - one failure must not end the loop
                log.error("definitions not taken up", **describe(error))

    async def _publish(self, *, starting: bool = False) -> list[str]:
        published = []
        for flow_id, (number, offered) in self._first_hits().items():
            before, since = self._taken.get(flow_id, (None, None))
            changed = before is not offered
            if not changed and not offered.overrides:
                continue
            if before is None and not self._settled and self._copies[number].source.local:
                since = None if starting else 0
            hold_back = partial(self._is_missing_above, number, flow_id)
            try:
                taken = await self._definitions.publish_from_source(
                    offered, changed=changed, since=since, hold_back=hold_back
                )
            except FlowStateCorruptionError as error:  # of one flow; it must not hold up the others
                log.error("unreadable definition", flow=flow_id, reason=error.details["reason"])
                self._taken[flow_id] = offered, None
                continue
            if starting or (self._settled and changed):
                _report_outranked(offered, taken, starting=starting)
            if taken.published:
                published.append(flow_id)
            if taken.version is not None:
                self._taken[flow_id] = offered, taken.version
        self._settled = True
        return published

    def _is_missing_above(self, number: int, flow_id: str, source: str) -> bool:
        """True if a version that names ``source`` is the last good copy of a source before the one with this
        number, which cannot be read now."""
        return any(copy.may_own(flow_id, source) for copy in self._copies[:number])

    def _first_hits(self) -> dict[str, tuple[int, SourcedFlow]]:
        """Each flow as the first source has it that has it, with the number of that source."""
        hits: dict[str, tuple[int, SourcedFlow]] = {}
        for number, copy in enumerate(self._copies):
            for flow_id, offered in copy.flows.items():
                hits.setdefault(flow_id, (number, offered))
        return hits


def _report_outranked(offered: SourcedFlow, taken: SyncResult, *, starting: bool) -> None:
    """Log that a caller's version is used instead of a source: at a start, and at each ignored change."""
    newest = taken.outranked_by
    if newest is None or not (starting or taken.hides(offered)):
        return
    (log.info if starting else log.warning)(
        "a definition is not used, a caller's version counts more",
        flow=offered.flow.flow,
        place=offered.place,
        version=newest.version,
        source=newest.source,
        by=newest.published_by,
        retired=newest.retired,
        hand_back=f"server-flow flows hand-back {offered.flow.flow}",
    )
