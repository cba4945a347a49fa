"""Publication of definitions from sources: of those that have a flow, the first one is used."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from functools import partial

import structlog

from app.contracts.errors import DefinitionSourceError, FlowError, FlowStateCorruptionError
from app.services.definitions.publisher import Definitions
from app.services.definitions.source_mirror import SourceMirror
from app.services.definitions.sourced_flow import SourcedFlow, SyncResult
from config.log import describe

log = structlog.get_logger("sources")

SYNC_EVERY_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5.0


class Sources:
    """Publishes the flows of sources (decision 3).

    Every worker does. A version is published over the newest one in the store, so that one of several workers
    publishes it and the others find it published.

    Args:
        definitions: Publishes the flows.
        mirrors: Copies of the sources, in the order of their precedence.
    """

    def __init__(self, definitions: Definitions, mirrors: Sequence[SourceMirror]) -> None:
        self._definitions = definitions
        self._mirrors = mirrors
        self._offered: dict[str, tuple[SourcedFlow, int | None]] = {}
        """By slug: the last offer, and the newest version after it."""
        self._synced = False
        self._source_changed = asyncio.Event()

    async def publish_all(self) -> list[str]:
        """Read all sources at a start, and publish the flows that the store lacks; return their slugs.

        A remote source that is unavailable is only logged.

        Raises:
            DefinitionSourceError: Sources on this machine have faults; all of them are listed.
        """
        await asyncio.gather(*(mirror.refresh(report=not mirror.source.local) for mirror in self._mirrors))
        faults = [fault for mirror in self._mirrors if mirror.source.local for fault in mirror.faults]
        if faults:
            raise DefinitionSourceError("; ".join(faults))
        return await self._publish(starting=True)

    async def follow(self) -> None:
        """Publish what changes in sources, until cancelled.

        Without ``publish_all`` before it, as in a worker that another process prepared, a flow that was ever
        published stays as it is until its source changes.
        """
        if not self._mirrors:
            return
        if not self._synced:
            await asyncio.gather(*(self._refresh(mirror, advise=False) for mirror in self._mirrors))
        self._source_changed.set()
        async with asyncio.TaskGroup() as tasks:
            for mirror in self._mirrors:
                tasks.create_task(self._watch(mirror))
            tasks.create_task(self._sync())

    async def _watch(self, mirror: SourceMirror) -> None:
        while True:
            try:
                async with aclosing(mirror.source.changes()) as changes:
                    async for _ in changes:
                        await self._refresh(mirror)
                        self._source_changed.set()
            except Exception as error:  # noqa: BLE001 - otherwise the source is never read again
                log.error("definition source watch failed", source=mirror.source.name, **describe(error))
            await asyncio.sleep(RETRY_AFTER_SECONDS)

    @staticmethod
    async def _refresh(mirror: SourceMirror, *, advise: bool = True) -> None:
        try:
            await mirror.refresh(advise=advise)
        except Exception as error:  # noqa: BLE001 - one source must not hold up the others
            log.error("definition source read failed", source=mirror.source.name, **describe(error))

    async def _sync(self) -> None:
        """Publish flows when a source changes, and at intervals those of sources that override callers."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC_EVERY_SECONDS):
                    await self._source_changed.wait()
            self._source_changed.clear()
            try:
                published = await self._publish()
                if published:
                    log.info("definitions published", flows=published)
            except FlowError as error:
                log.warning("definitions not published yet", code=error.code)
            except Exception as error:  # noqa: BLE001 - one failure must not end the loop
                log.error("definition sync failed", **describe(error))

    async def _publish(self, *, starting: bool = False) -> list[str]:
        published = []
        for flow_id, (number, offered) in self._first_hits().items():
            before, since = self._offered.get(flow_id, (None, None))
            changed = before is not offered
            if not changed and not offered.overrides:
                continue
            if before is None and not self._synced and self._mirrors[number].source.local:
                since = None if starting else 0
            hold_back = partial(self._is_missing_above, number, flow_id)
            try:
                result = await self._definitions.publish_from_source(
                    offered, changed=changed, since=since, hold_back=hold_back
                )
            except FlowStateCorruptionError as error:  # one flow must not hold up the others
                log.error("unreadable definition", flow=flow_id, reason=error.details["reason"])
                self._offered[flow_id] = offered, None
                continue
            if starting or (self._synced and changed):
                _report_outranked(offered, result, starting=starting)
            if result.published:
                published.append(flow_id)
            if result.version is not None:
                self._offered[flow_id] = offered, result.version
        self._synced = True
        return published

    def _is_missing_above(self, number: int, flow_id: str, source: str) -> bool:
        """Return true if ``source`` comes before the source with this number and cannot be read now."""
        return any(mirror.may_own(flow_id, source) for mirror in self._mirrors[:number])

    def _first_hits(self) -> dict[str, tuple[int, SourcedFlow]]:
        """Return each flow as its first source has it, with the number of that source."""
        hits: dict[str, tuple[int, SourcedFlow]] = {}
        for number, mirror in enumerate(self._mirrors):
            for flow_id, offered in mirror.flows.items():
                hits.setdefault(flow_id, (number, offered))
        return hits


def _report_outranked(offered: SourcedFlow, result: SyncResult, *, starting: bool) -> None:
    """Log that a caller's version takes precedence: at a start, and at each ignored change of the source."""
    newest = result.outranked_by
    if newest is None or not (starting or result.hides(offered)):
        return
    (log.info if starting else log.warning)(
        "definition outranked by a caller's version",
        flow=offered.flow.flow,
        place=offered.place,
        version=newest.version,
        source=newest.source,
        by=newest.published_by,
        retired=newest.retired,
        hand_back=f"server-flow flows hand-back {offered.flow.flow}",
    )
