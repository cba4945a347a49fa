"""``user``: stored data of one user."""

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from app.cli.command import echo, main, on_store, with_service
from app.cli.origin import CLI_CALLER, CLI_ORIGIN
from app.contracts.wire.administration import ErasureView, erasure_view, personal_data_view
from app.services import FlowService
from config.log import IDENTITY

QUESTION = "This ends all states of the user and cannot be undone. Continue?"


@main.group()
def user() -> None:
    """Stored data of one user."""


@user.command()
@click.option("--user", "user_id", required=True, help="The user.")
@on_store
def export(user_id: str) -> None:
    """Print all states and history as JSON."""

    async def run(service: FlowService) -> Any:
        return personal_data_view(await service.personal_data.export(user_id, caller=CLI_CALLER))

    echo(msgspec.json.format(msgspec.json.encode(with_service(run)).decode(), indent=2))


@user.command("log-name")
@click.option("--user", "user_id", required=True, help="The user.")
@on_store
def log_name(user_id: str) -> None:
    """Print the pseudonym of the user in the logs."""

    async def run(_: FlowService) -> str:
        return IDENTITY.name(user_id)

    echo(with_service(run))


@user.command()
@click.option("--user", "user_id", required=True, help="The user.")
@on_store
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
@click.option("--yes", "confirmed", is_flag=True, help="Erase without a question.")
def erase(user_id: str, *, as_json: bool, confirmed: bool) -> None:
    """End all states, erase the user's input, destroy the data keys, and print the receipt."""
    if not confirmed:  # the question is no part of a receipt that is written to a file
        click.confirm(QUESTION, abort=True, err=True)

    async def run(service: FlowService) -> ErasureView:
        return erasure_view(await service.personal_data.erase(user_id, CLI_ORIGIN))

    receipt = with_service(run)
    if as_json:
        echo(msgspec.json.format(msgspec.json.encode(receipt).decode(), indent=2))
        return
    for line in _receipt_lines(receipt):
        echo(line)


def _receipt_lines(receipt: ErasureView) -> Iterator[str]:
    """Return the text of a receipt: a table of two columns."""
    yield f"user\t{receipt.user_id}"
    yield f"erased\t{receipt.erased_at} by {receipt.erased_by}"
    yield f"states\t{len(receipt.receipts)} ended, {receipt.states_pseudonymised} of others changed"
    yield (
        f"records\t{receipt.records_erased} erased, "
        f"{receipt.records_pseudonymised} of others have a pseudonym now"
    )
    for key in receipt.destroyed_keys:
        yield f"data key\t{key} destroyed"
    for record in receipt.receipts:
        yield f"history\t{record.id}\t{record.hash}"
    if receipt.receipt is not None:
        yield f"audit entry\t{receipt.receipt.audit_sequence}\t{receipt.receipt.audit_hash}"
        yield f"salt\t{receipt.receipt.claims.salt}"
