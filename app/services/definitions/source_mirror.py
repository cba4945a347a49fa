"""Copies of sources: the last valid version of each definition, while its source is unavailable or broken."""

import asyncio
from collections.abc import Sequence

import structlog
from msgspec import Struct

from app.contracts.definition import Finding
from app.contracts.errors import DefinitionSourceError, Fault, InvalidDefinitionError
from app.contracts.flow import Flow
from app.contracts.ports.sources import DefinitionSource, FoundDefinition
from app.flow.validation import parse_flow
from app.services.definitions.sourced_flow import SourcedFlow

log = structlog.get_logger("sources")

MAX_FAULTS = 10
MAX_LOGGED_CHARACTERS = 2000


class SourceMirror:
    """The definitions of a source.

    Args:
        source: The source.
        overrides: The source comes before the database.
        creates: Its flows are published even if the database does not have them.

    Attributes:
        flows: The flows by slug. Of two definitions with one slug the first is used.
        known: The source has been read at least once.
        unavailable_reason: The reason why the source cannot be read now, "" if it can.
    """

    def __init__(self, source: DefinitionSource, *, overrides: bool = False, creates: bool = True) -> None:
        self.source = source
        self.known = False
        self.flows: dict[str, SourcedFlow] = {}
        self._overrides = overrides
        self._creates = creates
        self._entries: dict[str, _Entry] = {}
        self.unavailable_reason = ""
        self._reported = ""

    @property
    def faults(self) -> list[str]:
        """Everything that is wrong with the source, each with its place."""
        return (
            [self.unavailable_reason]
            if self.unavailable_reason
            else [entry.fault for entry in self._entries.values() if entry.fault]
        )

    def is_missing(self, flow_id: str) -> bool:
        """Return true if the source may have a flow that could never be read."""
        missing = {entry.flow_id for entry in self._entries.values() if entry.valid is None}
        return flow_id not in self.flows and (not self.known or flow_id in missing or None in missing)

    def may_own(self, flow_id: str, source: str) -> bool:
        """Return true if a version that names ``source`` is the copy of a flow that is missing here."""
        return self.source.produced(source) and self.is_missing(flow_id)

    async def refresh(self, *, report: bool = True, advise: bool = True) -> None:
        """Read the source again. What cannot be read stays as it was.

        Args:
            report: Log faults that are new, once each.
            advise: Log the warnings of definitions that are new.
        """
        try:
            found = await self.source.load()
        except DefinitionSourceError as refusal:
            self.unavailable_reason = str(refusal)
        else:
            self.unavailable_reason = ""
            self.known = True
            await self._update(found, report=report, advise=advise)
        if report:
            self._report_availability()

    async def _update(self, found: Sequence[FoundDefinition], *, report: bool, advise: bool) -> None:
        entries: dict[str, _Entry] = {}
        for definition in found:
            before = self._entries.get(definition.place)
            if before is not None and before.digest == definition.digest:
                entries[definition.place] = before
                continue
            now = entries[definition.place] = await asyncio.to_thread(
                self._check, definition, before, advise=advise
            )
            if report:
                _report(definition.place, now, before)
        flows = self._by_slug(entries)
        for flow_id in self.flows.keys() - flows.keys():
            log.warning(
                "flow missing from its source, stays published until it is deleted",
                flow=flow_id,
                source=self.source.name,
            )
        self.flows, self._entries = flows, entries

    def _by_slug(self, entries: "dict[str, _Entry]") -> dict[str, SourcedFlow]:
        known = {id(entry.valid) for entry in self._entries.values()}
        flows: dict[str, SourcedFlow] = {}
        for entry in entries.values():
            if entry.valid is None:
                continue
            first = flows.setdefault(entry.valid.flow.flow, entry.valid)
            if first is not entry.valid and not {id(first), id(entry.valid)} <= known:
                log.warning("duplicate definition ignored", used=first.place, ignored=entry.valid.place)
        return flows

    def _check(self, found: FoundDefinition, before: "_Entry | None", *, advise: bool) -> "_Entry":
        flow, findings, fault = check_found(found)
        if flow is None:
            return _Entry(found.digest, before.valid if before else None, fault, _flow_id(found.raw))
        for finding in findings if advise else ():
            log.warning(
                "definition has a warning", place=found.place, at=finding.pointer, finding=finding.message
            )
        return _Entry(
            found.digest,
            SourcedFlow(flow, found.place, found.source, self._overrides, self._creates),
            "",
            flow.flow,
        )

    def _report_availability(self) -> None:
        if self.unavailable_reason == self._reported:
            return
        if self.unavailable_reason:
            log.warning(
                "definition source unavailable, last valid definitions stay in use",
                fault=self.unavailable_reason[:MAX_LOGGED_CHARACTERS],
            )
        else:
            log.info("definition source available again", source=self.source.name)
        self._reported = self.unavailable_reason


class _Entry(Struct, frozen=True):
    """The content of a place.

    Attributes:
        digest: The digest of the present content.
        valid: The last valid flow there.
        fault: The fault of the present content, "" if it has none.
        flow_id: The flow that the present content names, None if that cannot be read.
    """

    digest: str
    valid: SourcedFlow | None
    fault: str
    flow_id: str | None


def check_found(found: FoundDefinition) -> tuple[Flow | None, list[Finding], str]:
    """Return the flow with its warnings; or None, and what is wrong with it and where."""
    if found.fault:
        return None, [], found.fault
    try:
        flow, findings = parse_flow(found.raw)
    except InvalidDefinitionError as refusal:
        shown = "; ".join(f"{found.place}: {_line_of(fault)}" for fault in refusal.faults[:MAX_FAULTS])
        more = len(refusal.faults) - MAX_FAULTS
        return None, [], f"{shown} (and {more} more)" if more > 0 else shown
    return flow, findings, ""


def _line_of(fault: Fault) -> str:
    inside = fault.pointer.lstrip("/").replace("/", ".") or "(whole)"
    return f"{inside}: {fault.message}"


def _report(place: str, now: _Entry, before: _Entry | None) -> None:
    if now.fault and now.valid:
        log.warning(
            "invalid definition, last valid one stays in use", fault=now.fault[:MAX_LOGGED_CHARACTERS]
        )
    elif now.fault:
        log.warning("invalid definition, no valid one yet", fault=now.fault[:MAX_LOGGED_CHARACTERS])
    elif before is not None and before.fault:
        log.info("definition valid again", place=place)


def _flow_id(raw: object) -> str | None:
    flow_id = raw.get("flow") if isinstance(raw, dict) else None
    return flow_id if isinstance(flow_id, str) else None
