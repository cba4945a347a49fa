"""Copies of what sources have: of each definition the last good one, while its source is away or broken."""

import asyncio
from collections.abc import Sequence

import structlog
from msgspec import Struct

from app.contracts.definition import Finding
from app.contracts.errors import Fault, InvalidDefinitionError
from app.contracts.flow import Flow
from app.contracts.ports.sources import DefinitionSource, DefinitionSourceError, FoundDefinition
from app.flow.validation import parse_flow
from app.services.definitions.publisher import SourcedFlow

log = structlog.get_logger("sources")

SHOWN_FAULTS = 10
MAX_SHOWN = 2000


class SourceMirror:
    """The definitions of a source. ``flows`` are by slug; of two with one slug the first counts. ``known``
    once the source could be read; ``away`` says why it cannot be now ("": it can)."""

    def __init__(self, source: DefinitionSource, *, overrides: bool = False, creates: bool = True) -> None:
        self.source = source
        self.known = False
        self.flows: dict[str, SourcedFlow] = {}
        self._overrides = overrides
        self._creates = creates
        self._kept: dict[str, _Kept] = {}
        self.away = ""
        self._reported = ""

    @property
    def faults(self) -> list[str]:
        """Everything that is wrong there, each with its place."""
        return [self.away] if self.away else [kept.fault for kept in self._kept.values() if kept.fault]

    def is_missing(self, flow_id: str) -> bool:
        """True if a flow may be there that cannot be read, and could not be read before."""
        missing = {kept.flow_id for kept in self._kept.values() if kept.good is None}
        return flow_id not in self.flows and (not self.known or flow_id in missing or None in missing)

    def may_own(self, flow_id: str, source: str) -> bool:
        """True if the version of a flow that names ``source`` is the copy of what is missing here."""
        return self.source.produced(source) and self.is_missing(flow_id)

    async def refresh(self, *, report: bool = True, advise: bool = True) -> None:
        """Read the source again; what cannot be read stays as it was. ``report`` faults that are new, once
        each, and ``advise`` of what is odd in definitions that are new."""
        try:
            found = await self.source.load()
        except DefinitionSourceError as refusal:
            self.away = str(refusal)
        else:
            self.away = ""
            self.known = True
            await self._take(found, report=report, advise=advise)
        if report:
            self._report_away()

    async def _take(self, found: Sequence[FoundDefinition], *, report: bool, advise: bool) -> None:
        kept: dict[str, _Kept] = {}
        for definition in found:
            before = self._kept.get(definition.place)
            if before is not None and before.digest == definition.digest:
                kept[definition.place] = before
                continue
            now = kept[definition.place] = await asyncio.to_thread(
                self._check, definition, before, advise=advise
            )
            if report:
                _report(definition.place, now, before)
        flows = self._by_slug(kept)
        for flow_id in self.flows.keys() - flows.keys():
            log.warning(
                "a flow is gone from its source and stays as it is; delete it to retire it",
                flow=flow_id,
                source=self.source.name,
            )
        self.flows, self._kept = flows, kept

    def _by_slug(self, kept: "dict[str, _Kept]") -> dict[str, SourcedFlow]:
        known = {id(each.good) for each in self._kept.values()}
        flows: dict[str, SourcedFlow] = {}
        for good in (each.good for each in kept.values() if each.good is not None):
            first = flows.setdefault(good.flow.flow, good)
            if first is not good and not {id(first), id(good)} <= known:
                log.warning("two definitions of one flow; the first counts", at=first.place, too=good.place)
        return flows

    def _check(self, found: FoundDefinition, before: "_Kept | None", *, advise: bool) -> "_Kept":
        flow, findings, fault = check_found(found)
        if flow is None:
            return _Kept(found.digest, before.good if before else None, fault, _flow_id(found.raw))
        for finding in findings if advise else ():
            log.warning("definition", place=found.place, at=finding.pointer, finding=finding.message)
        return _Kept(
            found.digest,
            SourcedFlow(flow, found.place, found.source, self._overrides, self._creates),
            "",
            flow.flow,
        )

    def _report_away(self) -> None:
        if self.away == self._reported:
            return
        if self.away:
            log.warning("definitions cannot be read; what is known stays", fault=self.away[:MAX_SHOWN])
        else:
            log.info("definitions can be read again", source=self.source.name)
        self._reported = self.away


class _Kept(Struct, frozen=True):
    """The content of a place: the last good flow there, and the fault of what is there now. ``flow_id``
    is None when that cannot be told."""

    digest: str
    good: SourcedFlow | None
    fault: str
    flow_id: str | None


def check_found(found: FoundDefinition) -> tuple[Flow | None, list[Finding], str]:
    """The flow, with its warnings; or None, and what is wrong with it and where."""
    if found.fault:
        return None, [], found.fault
    try:
        flow, findings = parse_flow(found.raw)
    except InvalidDefinitionError as refusal:
        shown = "; ".join(f"{found.place}: {_line_of(fault)}" for fault in refusal.faults[:SHOWN_FAULTS])
        more = len(refusal.faults) - SHOWN_FAULTS
        return None, [], f"{shown} (and {more} more)" if more > 0 else shown
    return flow, findings, ""


def _line_of(fault: Fault) -> str:
    inside = fault.pointer.lstrip("/").replace("/", ".") or "(whole)"
    return f"{inside}: {fault.message}"


def _report(place: str, now: _Kept, before: _Kept | None) -> None:
    if now.fault:
        stays = "the last good one stays" if now.good else "there is no good one yet"
        log.warning(f"a definition cannot be used; {stays}", fault=now.fault[:MAX_SHOWN])
    elif before is not None and before.fault:
        log.info("a definition can be used again", place=place)


def _flow_id(raw: object) -> str | None:
    flow_id = raw.get("flow") if isinstance(raw, dict) else None
    return flow_id if isinstance(flow_id, str) else None
