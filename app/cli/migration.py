"""``flows diff`` and ``flows migrate``: differences of versions, and moves between them."""

import sys
import time
from collections.abc import Mapping, Sequence

import click
import msgspec
from msgspec import UNSET, structs

from app.cli.command import echo, on_store, with_service
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
MAX_SHOWN_FAILURES = 20
_SIGNS = (("+", "added"), ("-", "removed"))


@flows.command("diff")
@click.argument("flow_id", metavar="ID")
@click.argument("earlier", metavar="A", type=click.IntRange(min=1))
@click.argument("later", metavar="B", type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@on_store
def diff(flow_id: str, earlier: int, later: int, as_json: bool) -> None:
    """Show how version B differs from A, with the effect on states that run on A."""

    async def run(service: FlowService) -> FlowDiff:
        return await service.migration.diff(flow_id, earlier, later, CLI_CALLER)

    found = with_service(run)
    if as_json:
        echo(msgspec.json.encode(found).decode())
        return
    echo(f"{found.flow} v{found.from_version} -> v{found.to_version}: {found.verdict}")
    for line in _differences(found):
        echo(f"  {line}")
    for reason in found.reasons:
        echo(f"{reason.effect:<10}  {reason.pointer}: {reason.message}")


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
@click.option(
    "--map", "pairs", multiple=True, metavar="OLD=NEW", help="The new step for states of an old one."
)
@click.option(
    "--leave", "left", multiple=True, metavar="STEP", help="A step whose states stay on the old version."
)
@click.option("--dry-run", is_flag=True, help="Show the result for the states; change nothing.")
@on_store
def migrate(
    flow_id: str,
    from_version: int,
    to_version: int,
    pairs: tuple[str, ...],
    left: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Move running states to another version. Can be repeated; exits with 1 if states remain."""
    command = MigrateCommand(from_version, to_version, _mapping(pairs, left), dry_run)

    async def run(service: FlowService) -> MigrationReport:
        return await _run(service, flow_id, command)

    report = with_service(run)
    if dry_run:
        _print_rehearsal(report)
        return
    echo(f"{report.moved} states moved, {report.failed} failed, {report.remaining} remain")
    for failure in report.failures[:MAX_SHOWN_FAILURES]:
        name = failure.user_id if failure.entity_id is UNSET else f"{failure.user_id} {failure.entity_id}"
        echo(f"  {name}: {failure.error.code}: {failure.error.message}", err=True)
    if report.remaining:
        sys.exit(1)


class _Progress:
    """Prints the number of moved states at intervals; ``before`` is the number that earlier calls moved."""

    def __init__(self) -> None:
        self.before = 0
        self._printed_at = time.monotonic()

    def __call__(self, moved: int) -> None:
        if time.monotonic() - self._printed_at >= PROGRESS_SECONDS:
            self._printed_at = time.monotonic()
            echo(f"{self.before + moved} moved")


async def _run(service: FlowService, flow_id: str, command: MigrateCommand) -> MigrationReport:
    """Repeat the call until nothing more is moved; return the last report with the total."""
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
        echo(f"{progress.before} moved, {report.remaining} to go")


def _as_option(fault: Fault, mapping: Mapping[str, str | None]) -> Fault:
    """Convert a fault of a member of the request to one of an option."""
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
            raise click.BadParameter(f"{pair!r} must be OLD=NEW", param_hint="--map")
        if old in mapping:
            raise click.BadParameter(f"step {old!r} is mapped twice", param_hint="--map")
        mapping[old] = new
    for step in left:
        if step in mapping:
            raise click.BadParameter(f"step {step!r} is mapped, too", param_hint="--leave")
        mapping[step] = None
    return mapping


def _print_rehearsal(report: MigrationReport) -> None:
    echo(f"{report.flow} v{report.from_version} -> v{report.to_version}, nothing was changed:")
    for step in report.steps:
        echo(f"  {step.step} -> {step.to or '-'}: {_counts(step)}")
        if step.advice:
            echo(f"      {step.advice}")
    for proposal in report.proposals:
        echo(f"maybe --map {proposal.step}={proposal.to}  ({proposal.confidence:.0%}: {proposal.reason})")


def _counts(step: StepMigration) -> str:
    counted = (
        ("fit", step.fit),
        ("need a mapping", step.need_mapping),
        ("stuck", step.stuck),
        ("left", step.left),
    )
    return ", ".join(_sample_text(name, sample) for name, sample in counted if sample.count) or "none"


def _sample_text(name: str, sample: Sample) -> str:
    more = ", …" if sample.count > len(sample.user_ids) else ""
    entities = [""] * len(sample.user_ids) if sample.entity_ids is UNSET else sample.entity_ids
    listed = [f"{user} {entity}".rstrip() for user, entity in zip(sample.user_ids, entities, strict=True)]
    return f"{sample.count} {name} ({', '.join(listed)}{more})"
