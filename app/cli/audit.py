"""``audit``: the record of administrative acts."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from app.cli.command import echo, main, on_store, with_service
from app.cli.json_arguments import convert_options
from app.contracts.audit import AuditEntry, AuditFilter, AuditVerification, UnreadableEntry
from app.contracts.wire.administration import ErasureReceiptView
from app.contracts.wire.audit import AuditEntryView, audit_entry, audit_entry_view
from app.contracts.wire.times import iso
from app.flow.audit_chain import AuditChain
from app.services import FlowService
from app.services.administration.erasure_receipts import receipt_fault

PAGE_SIZE = 500
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@main.group()
def audit() -> None:
    """The record of administrative acts."""


@audit.command("list")
@click.option("--action", help="Only this action, such as user.erase; definition.* is all of definitions.")
@click.option("--target", help="Only this target, such as flow:order.")
@click.option("--actor", help="Only acts of this user, service or account.")
@click.option("--user", "user_id", help="Only acts that concern the data of this user.")
@click.option("--since", metavar="TIME", help="Only entries of this time or later (ISO 8601).")
@click.option("--after", type=click.IntRange(0, 2**53), default=0, help="Only entries after this number.")
@click.option("--limit", type=int, default=1000, show_default=True, help="The largest number of entries.")
@on_store
def list_command(user_id: str | None, after: int, limit: int, **options: Any) -> None:
    """Print entries, the oldest first."""
    given = {name: value for name, value in options.items() if value is not None}
    only: AuditFilter = convert_options(given, AuditFilter)

    async def run(service: FlowService) -> None:
        subject = None if user_id is None else await service.audit.pseudonyms.user(user_id)
        wanted = msgspec.structs.replace(only, subject=subject)
        at, left = after, limit
        while left > 0:
            page = await service.audit.page(at, min(PAGE_SIZE, left), wanted)
            for entry in page.items:
                echo(_line(entry))
            left -= len(page.items)
            if page.next is None:
                return
            at = int(page.next)

    with_service(run)


@audit.command()
@on_store
def export() -> None:
    """Print all entries as JSON lines, for an archive that verify --file checks."""

    async def run(service: FlowService) -> None:
        async for entry in service.audit.all():
            if isinstance(entry, UnreadableEntry):
                raise click.ClickException(f"entry {entry.sequence}: {entry.reason}; see 'audit verify'")
            echo(msgspec.json.encode(audit_entry_view(entry)).decode())

    with_service(run)


@audit.command()
@click.option("--file", "file", type=_FILE, help="Check an export; needs no server.")
@click.option("--receipt", "receipt_file", type=_FILE, help="Check the receipt of an erasure, too.")
@click.option("--expect-head", default="", metavar="HASH", help="The head that an earlier check printed.")
@on_store
def verify(file: Path | None, receipt_file: Path | None, expect_head: str) -> None:
    """Check the chain of all entries, and print its head.

    Exits with 1 and the first broken entry if one was changed, removed, inserted or moved. Store the head
    elsewhere, and pass it the next time: only so can you notice that the newest entries were removed.
    """
    receipt = None if receipt_file is None else _receipt(receipt_file)
    chain = AuditChain(expect_head)
    confirming: list[AuditEntry] = []

    def check(entry: AuditEntry | UnreadableEntry) -> None:
        chain.add(entry)
        if receipt is not None and isinstance(entry, AuditEntry):
            confirming.extend([entry] if entry.sequence == receipt.audit_sequence else [])

    async def run(service: FlowService) -> None:
        async for entry in service.audit.all():
            check(entry)

    if file is None:
        with_service(run)
    else:
        for entry in _entries(file):
            check(entry)
    found = chain.result()
    _print_verification(found)
    fault = None if receipt is None else receipt_fault(receipt, confirming[0] if confirming else None)
    if receipt is not None:
        echo("receipt: confirmed" if fault is None else f"receipt: not confirmed, {fault}")
    if found.broken is not None or fault is not None:
        sys.exit(1)


def _print_verification(found: AuditVerification) -> None:
    echo(f"entries: {found.entries}")
    echo(f"head: {found.head or '-'}")
    if found.unfinished:
        echo(f"unfinished: {', '.join(map(str, found.unfinished))}")
    if found.broken is None:
        echo("chain: whole")
    else:
        echo(f"chain: broken at entry {found.broken.sequence}, {found.broken.reason}")


def _entries(file: Path) -> Iterator[AuditEntry | UnreadableEntry]:
    """Read the entries of an export."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield audit_entry(msgspec.json.decode(line, type=AuditEntryView))
            except (msgspec.DecodeError, ValueError) as fault:
                yield UnreadableEntry(number, f"line {number} cannot be read ({fault})")


def _receipt(file: Path) -> ErasureReceiptView:
    """Read a receipt: the output of ``user erase``, or its member ``receipt``."""
    try:
        found = msgspec.json.decode(file.read_bytes())
        inner = found.get("receipt", found) if isinstance(found, dict) else found
        return msgspec.convert(inner, ErasureReceiptView)
    except msgspec.DecodeError as fault:
        raise click.ClickException(f"{file} is not the receipt of an erasure: {fault}") from None


def _line(entry: AuditEntry) -> str:
    act = entry.act
    parts = [f"{entry.sequence:>6}", iso(entry.at), entry.outcome, act.action, act.target, act.actor]
    if isinstance(entry.of, int):
        parts.append(f"of={entry.of}")
    if isinstance(entry.error, str):
        parts.append(f"error={entry.error}")
    return "  ".join([*parts, *(f"{name}={value}" for name, value in act.details.items())])
