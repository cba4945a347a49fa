"""``deliveries``: events for services, those that failed and those that are sent again."""

from collections.abc import Callable
from typing import Any, get_args

import click

from app.cli.command import echo, main, on_store, with_service
from app.cli.json_arguments import convert_options, shown_json
from app.cli.origin import CLI_CALLER
from app.contracts.deliveries import DeadLetterFilter, FailureReason, Lane
from app.contracts.delivery_commands import ReplayCommand
from app.contracts.pages import Page
from app.contracts.wire.deliveries import delivery_view
from app.contracts.wire.times import iso
from app.services import FlowService
from app.services.integrations.letters import FoundDelivery, LettersResult
from app.services.integrations.replay import ReplayResult

PAGE_SIZE = 500


@main.group()
def deliveries() -> None:
    """Events for services: dead letters, failing states, replays."""


def _filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select dead letters."""
    for option in (
        click.option("--id", "ids", multiple=True, help="Only these events; can be repeated."),
        click.option("--until", metavar="TIME", help="Given up before this time (ISO 8601)."),
        click.option("--since", metavar="TIME", help="Given up at this time or later (ISO 8601)."),
        click.option("--entity", "entity_id", help="Only states with this entity."),
        click.option("--user", "user_id", help="Only states of this user."),
        click.option("--flow", "flow_id", help="Only states of this flow."),
        click.option("--type", help="Only events of this type."),
        click.option("--reason", type=click.Choice(get_args(FailureReason)), help="Only this reason."),
        click.option("--service", help="Only events of this service."),
    ):
        command = option(command)
    return command


_dry_run = click.option("--dry-run", is_flag=True, help="Count, and change nothing.")


_everything = click.option("--all", "everything", is_flag=True, help="All of them, without other options.")


def _selected(options: dict[str, Any], *, everything: bool, dry_run: bool) -> DeadLetterFilter:
    """Return the filter of a change, which must name letters. Raises click.UsageError."""
    only = _only(options)
    if only == DeadLetterFilter() and not everything and not dry_run:
        raise click.UsageError("Select dead letters by options such as --service or --id, or pass --all.")
    return only


def _only(options: dict[str, Any]) -> DeadLetterFilter:
    given = {name: value for name, value in options.items() if value not in (None, ())}
    names = {"flow_id": "flowId", "user_id": "userId", "entity_id": "entityId"}
    return convert_options({names.get(name, name): value for name, value in given.items()}, DeadLetterFilter)


@deliveries.command("list")
@_filter_options
@on_store
def list_command(**options: Any) -> None:
    """Print dead letters.

    A line has the service, the event, the reason, the type, the flow, the user, the time, and the failure.
    """
    only = _only(options)

    async def run(service: FlowService) -> int:
        after, number = None, 0
        while True:
            found = await service.integrations.letters.list_letters(
                only, after=after, limit=PAGE_SIZE, caller=CLI_CALLER
            )
            for letter in found.page.items:
                state = f"{letter.state_id.flow_id}\t{letter.state_id.user_id}"
                head = f"{letter.alias}\t{letter.id}\t{letter.reason}\t{letter.type}"
                echo(f"{head}\t{state}\t{iso(letter.died_at)}\t{letter.detail}")
            number += len(found.page.items)
            after = found.page.next
            if after is None:
                return number

    if not with_service(run):
        echo("There are no dead letters.", err=True)


@deliveries.command()
@click.argument("service")
@on_store
def failing(service: str) -> None:
    """Print the states whose event is tried again.

    A line has the flow, the user, the number of failures, the time of the next attempt, and the last failure.
    """

    async def read(flows: FlowService, after: str | None) -> Page[Lane]:
        return await flows.integrations.letters.list_failing(
            service, after=after, limit=PAGE_SIZE, caller=CLI_CALLER
        )

    async def run(flows: FlowService) -> int:
        after, number = None, 0
        while True:
            page = await read(flows, after)
            for lane in page.items:
                state = f"{lane.id.state_id.flow_id}\t{lane.id.state_id.user_id}"
                again = "-" if lane.due_at is None else iso(lane.due_at)
                last = str(lane.attempts[-1].error) if lane.attempts else "-"
                echo(f"{state}\t{lane.failures} failures\t{again}\t{last}")
            number += len(page.items)
            after = page.next
            if after is None:
                return number

    if not with_service(run):
        echo("No events have failed that are tried again; see 'server-flow deliveries list', too.", err=True)


@deliveries.command()
@click.argument("service")
@click.argument("event")
@on_store
def show(service: str, event: str) -> None:
    """Print an event of a service as JSON, with all attempts."""

    async def run(flows: FlowService) -> FoundDelivery:
        return await flows.integrations.letters.find_delivery(service, event, CLI_CALLER)

    found = with_service(run)
    echo(shown_json(delivery_view(found.logged, found.letter)))


@deliveries.command()
@_filter_options
@_everything
@_dry_run
@on_store
def redeliver(dry_run: bool, everything: bool, **options: Any) -> None:
    """Deliver the events of dead letters.

    The options are those of the list.
    """
    only = _selected(options, everything=everything, dry_run=dry_run)

    async def run(service: FlowService) -> LettersResult:
        return await service.integrations.letters.redeliver(only, CLI_CALLER, dry_run=dry_run)

    result = with_service(run)
    verb = "would be redelivered" if dry_run else "are redelivered by the workers"
    echo(f"{result.changed} of {result.matched} dead letters {verb}")


@deliveries.command()
@_filter_options
@_everything
@_dry_run
@on_store
def drop(dry_run: bool, everything: bool, **options: Any) -> None:
    """Remove dead letters, undelivered.

    The options are those of the list.
    """
    only = _selected(options, everything=everything, dry_run=dry_run)

    async def run(service: FlowService) -> LettersResult:
        return await service.integrations.letters.drop(only, CLI_CALLER, dry_run=dry_run)

    result = with_service(run)
    echo(f"{result.changed} dead letters {'would be dropped' if dry_run else 'dropped'}")


@deliveries.command()
@click.argument("service")
@click.option("--since", metavar="TIME", help="Changes at this time or later (ISO 8601).")
@click.option("--until", metavar="TIME", help="Changes before this time (ISO 8601).")
@click.option("--from-revision", type=int, help="Changes from this revision on, of one state.")
@click.option("--epoch", help="The epoch of the revision, by default the present one.")
@click.option("--flow", help="Only states of this flow.")
@click.option("--user", help="Only states of this user.")
@click.option("--entity", help="Only states with this entity.")
@_dry_run
@on_store
def replay(service: str, dry_run: bool, **options: Any) -> None:
    """Deliver again what was delivered before.

    The events have their former ids, and are marked as a replay.
    """
    names = {"from_revision": "fromRevision", "flow": "flowId", "user": "userId", "entity": "entityId"}
    given = {names.get(name, name): value for name, value in options.items() if value is not None}
    command = {**given, "dryRun": dry_run}

    async def run(flows: FlowService) -> tuple[int, int]:
        states = changes = 0
        after: str | None = None
        while True:
            page: ReplayResult = await flows.integrations.replays.replay(
                service, convert_options({**command, "after": after}, ReplayCommand), CLI_CALLER
            )
            states, changes, after = states + page.states, changes + page.changes, page.next
            if after is None:
                return states, changes

    states, changes = with_service(run)
    verb = "would be replayed" if dry_run else "are replayed by the workers"
    echo(f"{changes} changes of {states} states {verb}")
