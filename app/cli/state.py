"""``state``: one user's states in one flow."""

import sys
from collections.abc import Callable
from typing import Any, get_args

import click
import msgspec
from msgspec import UNSET

from app.cli.command import echo, main, on_store, with_service
from app.cli.explanation import print_explanation
from app.cli.json_arguments import read_json
from app.cli.origin import CLI_CALLER, CLI_ORIGIN
from app.contracts.callers import trusted_caller
from app.contracts.commands import SetCommand
from app.contracts.ports.states import ListedStatus
from app.contracts.results import Recovered, Verification
from app.contracts.wire.administration import recovery_view
from app.contracts.wire.explanations import ExplanationView
from app.contracts.wire.states import state_view
from app.contracts.wire.times import iso
from app.services import FlowService
from app.services.definitions.tokens import TokenComparison

PAGE_SIZE = 500


@main.group()
def state() -> None:
    """One user's state in one flow."""


def _state_options(command: Callable[..., None]) -> Callable[..., None]:
    command = on_store(command)
    command = click.option(
        "--entity", "entity_id", help="The entity of the state, if a user has many states in the flow."
    )(command)
    command = click.option("--flow", "flow_id", required=True, help="The flow.")(command)
    return click.option("--user", "user_id", required=True, help="The user.")(command)


@state.command()
@_state_options
def show(user_id: str, flow_id: str, entity_id: str | None) -> None:
    """Print the state as JSON."""

    async def run(service: FlowService) -> Any:
        found = await service.get_flow_state(
            user_id, flow_id, entity_id=entity_id, caller=trusted_caller(user_id)
        )
        if found is None:  # read as another, who sees how the state of the user ended
            found = await service.require_flow_state(user_id, flow_id, entity_id=entity_id, caller=CLI_CALLER)
        return state_view(found)

    _print_json(with_service(run))


@state.command("list")
@click.option("--user", "user_id", required=True, help="The user.")
@click.option("--flow", "flow_id", required=True, help="A flow with many states for each user.")
@click.option("--status", type=click.Choice(get_args(ListedStatus)), help="Only states with this status.")
@on_store
def list_states(user_id: str, flow_id: str, status: ListedStatus | None) -> None:
    """Print the states of a user in a flow, the newest first, one line for each."""

    async def run(service: FlowService) -> None:
        after = None
        while True:
            page = await service.list_flow_states(
                user_id,
                flow_id,
                status=status,
                after=after,
                limit=PAGE_SIZE,
                caller=trusted_caller(user_id),
            )
            for found in page.states:
                echo(f"{found.entity}\t{found.status}\t{found.step}\t{iso(found.updated_at)}")
            if page.next is None:
                return
            after = page.next

    with_service(run)


@state.command()
@click.option("--flow", "flow_id", required=True, help="The flow.")
@click.argument("match", metavar="FIELD=VALUE")
@on_store
def find(flow_id: str, match: str) -> None:
    """Print the states of all users with a value in a searchable field, such as /orderNumber=A-1."""

    async def run(service: FlowService) -> None:
        after = None
        while True:
            page = await service.search.find(
                flow_id, match, trusted_caller("cli"), after=after, limit=PAGE_SIZE
            )
            for each in page.states:
                entity = each.entity or "-"
                echo(f"{each.user_id}\t{entity}\t{each.status}\t{each.step}\t{iso(each.updated_at)}")
            if page.next is None:
                return
            after = page.next

    with_service(run)


@state.command()
@_state_options
def history(user_id: str, flow_id: str, entity_id: str | None) -> None:
    """Print the history, the oldest record first, one line for each."""

    async def run(service: FlowService) -> None:
        after = None
        while True:
            page = await service.page_flow_history(
                user_id,
                flow_id,
                after=after,
                limit=PAGE_SIZE,
                entity_id=entity_id,
                caller=trusted_caller(user_id),
            )
            for r in page.items:
                way = f"{r.from_step or '-'} -> {r.to_step}" if r.success else f"at {r.from_step}: {r.error}"
                echo(f"{iso(r.timestamp)}\t{r.epoch[-6:]}.{r.revision}\t{r.transition}\t{way}\t{r.actor}")
            if page.next is None:
                return
            after = page.next

    with_service(run)


@state.command()
@_state_options
@click.option("--transition", help="The transition to explain, by default all of the step.")
@click.option("--to", help="A step to find the shortest way to.")
@click.option("--payload", metavar="JSON", help="The payload that would be sent.")
@click.option("--role", "roles", multiple=True, help="A role of the owner's token; several are possible.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    user_id: str,
    flow_id: str,
    entity_id: str | None,
    transition: str | None,
    to: str | None,
    payload: str | None,
    roles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain which transitions the owner may run now, why not, and the way to a step."""
    given = UNSET if payload is None else read_json(payload, dict[str, Any])

    async def run(service: FlowService) -> ExplanationView:
        return await service.explanations.explain(
            user_id,
            flow_id,
            caller=trusted_caller(user_id),
            transition=transition,
            to=to,
            payload=given,
            roles=roles,
            entity_id=entity_id,
        )

    found = with_service(run)
    if as_json:
        _print_json(found)
    else:
        print_explanation(found)


@state.command("set")
@_state_options
@click.argument("body", metavar="JSON")
def set_state(user_id: str, flow_id: str, entity_id: str | None, body: str) -> None:
    """Replace the whole state (repair), for example with '{"step": "verification"}'."""
    command = read_json(body, SetCommand)

    async def run(service: FlowService) -> Any:
        wanted = msgspec.structs.replace(command, flow=flow_id)
        return state_view(
            await service.set_flow_state(user_id, wanted, entity_id=entity_id, origin=CLI_ORIGIN)
        )

    _print_json(with_service(run))


@state.command()
@_state_options
def clear(user_id: str, flow_id: str, entity_id: str | None) -> None:
    """Remove the state; its history stays."""

    async def run(service: FlowService) -> bool:
        return await service.clear_flow_state(user_id, flow_id, entity_id=entity_id, origin=CLI_ORIGIN)

    echo("cleared" if with_service(run) else "there was no state")


@state.command()
@_state_options
def verify(user_id: str, flow_id: str, entity_id: str | None) -> None:
    """Verify the hash chain of the history; exits with 1 and prints the first broken link, if any."""

    async def run(service: FlowService) -> Verification:
        return await service.verify_flow_history(
            user_id, flow_id, entity_id=entity_id, caller=trusted_caller(user_id)
        )

    found = with_service(run)
    notes = [f"{found.records} records"]
    notes += [f"{found.unsealed} older than the chain"] if found.unsealed else []
    notes += [f"{found.erased} erased"] if found.erased else []
    echo(f"{'whole' if found.whole else 'BROKEN'}: {', '.join(notes)}; head {found.head or '-'}")
    if found.broken is not None:
        echo(f"first broken link: {found.broken.id}: {found.broken.reason}")
        sys.exit(1)


@state.command()
@_state_options
def token(user_id: str, flow_id: str, entity_id: str | None) -> None:
    """Print the state as a token for addresses (?flow=); it authorises nothing."""

    async def run(service: FlowService) -> str:
        made = await service.tokens.encode(
            user_id, flow_id, entity_id=entity_id, caller=trusted_caller(user_id)
        )
        return made.token

    echo(with_service(run))


@state.command("compare-token")
@click.option("--user", "user_id", required=True, help="The user.")
@on_store
@click.argument("token", metavar="TOKEN")
def compare_token(user_id: str, token: str) -> None:
    """Compare a token with the stored state of its flow; exits with 1 when they differ."""

    async def run(service: FlowService) -> TokenComparison:
        return await service.tokens.compare(user_id, token, caller=trusted_caller(user_id))

    found = with_service(run)
    echo(f"{found.hint.flow} v{found.version}: {found.hint.step}")
    if found.state is None:
        echo("there is no state")
    for name in found.differences:
        echo(f"{name} differs")
    if not found.matches:
        sys.exit(1)


@state.command()
@_state_options
def recover(user_id: str, flow_id: str, entity_id: str | None) -> None:
    """Rebuild a damaged state from its history; a valid one stays as it is."""

    async def run(service: FlowService) -> Recovered:
        return await service.administration.recover_flow(
            user_id, flow_id, entity_id=entity_id, origin=CLI_ORIGIN
        )

    done = with_service(run)
    _print_json(recovery_view(done))


def _print_json(value: Any) -> None:
    echo(msgspec.json.format(msgspec.json.encode(value).decode(), indent=2))
