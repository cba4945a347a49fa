"""``flows diff`` and ``flows migrate``: from one version to another."""

import sys
import time
from collections.abc import Mapping, Sequence

import click
import msgspec
from msgspec import structs

from app.cli.command import on_store, say, with_service
from app.cli.flows import flows
from app.cli.origin import CLI_CALLER, CLI_ORIGIN
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.migration import (
    FlowDiff,
    MemberChange,
    MigrateCommand,
    MigrationReport,
    Sample,
    StepMigration,
)
from app.services import FlowService

PROGRESS_SECONDS = 2.0
FAILURES_SHOWN = 20
_SIGNS = (("+", "added"), ("-", "removed"))


@flows.command("diff")
@click.argument("flow_id", metavar="ID")
@click.argument("earlier", metavar="A", type=click.IntRange(min=1))
@click.argument("later", metavar="B", type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@on_store
def diff(flow_id: str, earlier: int, later: int, as_json: bool) -> None:
    """Show how version B differs from A, and what that means for states that run on A."""

    async def run(service: FlowService) -> FlowDiff:
        return await service.migration.diff(flow_id, earlier, later, CLI_CALLER)

    found = with_service(run)
    if as_json:
        say(msgspec.json.encode(found).decode())
        return
    say(f"{found.flow} v{found.from_version} -> v{found.to_version}: {found.verdict}")
    for line in _differences(found):
        say(f"  {line}")
    for reason in found.reasons:
        say(f"{reason.effect:<10}  {reason.pointer}: {reason.message}")


def _differences(found: FlowDiff) -> list[str]:
    lines = [f"~ flow: {_names(found.members)}"] if found.members else []
    for sign, member in _SIGNS:
        lines += [f"{sign} step {step}" for step in getattr(found.steps, member)]
    lines += [f"~ step {changed.step}: {_names(changed.members)}" for changed in found.steps.changed]
    for sign, member in _SIGNS:
        places = getattr(found.transitions, member)
        lines += [f"{sign} {place.step}: {place.transition} -> {place.to}" for place in places]
    lines += [f"~ {c.step}: {c.transition}: {_names(c.members)}" for c in found.transitions.changed]
    return lines


def _names(members: Sequence[MemberChange]) -> str:
    return ", ".join(change.member for change in members)


@flows.command("migrate")
@click.argument("flow_id", metavar="ID")
@click.option("--from", "from_version", required=True, type=click.IntRange(min=1), help="The old version.")
@click.option("--to", "to_version", required=True, type=click.IntRange(min=1), help="The new version.")
@click.option("--map", "pairs", multiple=True, metavar="OLD=NEW", help="Where states of a step go on.")
@click.option("--leave", "left", multiple=True, metavar="STEP", help="A step whose states stay as they are.")
@click.option("--dry-run", is_flag=True, help="Say what would become of the states, change nothing.")
@on_store
def migrate(
    flow_id: str,
    from_version: int,
    to_version: int,
    pairs: tuple[str, ...],
    left: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Move running states to another version. It can be run again; exits with 1 when states remain."""
    command = MigrateCommand(from_version, to_version, _mapping(pairs, left), dry_run)

    async def run(service: FlowService) -> MigrationReport:
        return await _run(service, flow_id, command)

    report = with_service(run)
    if dry_run:
        _print_rehearsal(report)
        return
    say(f"{report.moved} states moved, {report.failed} failed, {report.remaining} remain")
    for failure in report.failures[:FAILURES_SHOWN]:
        say(f"  {failure.user_id}: {failure.error.code}: {failure.error.message}", err=True)
    if report.remaining:
        sys.exit(1)


class _Progress:
    """Says now and then how many were moved; ``before`` is how many earlier calls moved."""

    def __init__(self) -> None:
        self.before = 0
        self._told = time.monotonic()

    def __call__(self, moved: int) -> None:
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            say(f"{self.before + moved} moved")


async def _run(service: FlowService, flow_id: str, command: MigrateCommand) -> MigrationReport:
    """Ask until nothing more is moved; the last report, with all that was moved."""
    progress = _Progress()
    while True:
        try:
            report = await service.migration.migrate(flow_id, command, origin=CLI_ORIGIN, progress=progress)
        except InvalidRequestError as refusal:
            raise InvalidRequestError(
                [_as_option(fault, command.mapping) for fault in refusal.faults]
            ) from None
        progress.before += report.moved
        if command.dry_run or not report.remaining or not report.moved:
            return structs.replace(report, moved=progress.before)
        say(f"{progress.before} moved, {report.remaining} to go")


def _as_option(fault: Fault, mapping: Mapping[str, str | None]) -> Fault:
    """Members of the request are options here."""
    member, _, step = fault.pointer.strip("/").partition("/")
    step = step.replace("~1", "/").replace("~0", "~")
    if member != "mapping":
        return Fault(f"--{member}", fault.message)
    leaves = step in mapping and mapping[step] is None
    message = fault.message.replace("or to null to", "or --leave it to")
    return Fault(f"{'--leave' if leaves else '--map'} {step}", message)


def _mapping(pairs: Sequence[str], left: Sequence[str]) -> dict[str, str | None]:
    mapping: dict[str, str | None] = {}
    for pair in pairs:
        old, _, new = pair.partition("=")
        if not old or not new:
            raise click.BadParameter(f"{pair!r} is not OLD=NEW", param_hint="--map")
        if old in mapping:
            raise click.BadParameter(f"step {old!r} is mapped twice", param_hint="--map")
        mapping[old] = new
    for step in left:
        if step in mapping:
            raise click.BadParameter(f"step {step!r} is mapped, too", param_hint="--leave")
        mapping[step] = None
    return mapping


def _print_rehearsal(report: MigrationReport) -> None:
    say(f"{report.flow} v{report.from_version} -> v{report.to_version}, nothing was changed:")
    for step in report.steps:
        say(f"  {step.step} -> {step.to or '-'}: {_counts(step)}")
        if step.advice:
            say(f"      {step.advice}")
    for proposal in report.proposals:
        say(f"maybe --map {proposal.step}={proposal.to}  ({proposal.confidence:.0%}: {proposal.reason})")


def _counts(step: StepMigration) -> str:
    counted = (
        ("fit", step.fit),
        ("need a mapping", step.need_mapping),
        ("stuck", step.stuck),
        ("left", step.left),
    )
    return ", ".join(_counted(name, sample) for name, sample in counted if sample.count) or "none"


def _counted(name: str, sample: Sample) -> str:
    more = ", …" if sample.count > len(sample.user_ids) else ""
    return f"{sample.count} {name} ({', '.join(sample.user_ids)}{more})"
