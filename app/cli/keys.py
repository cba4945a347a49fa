"""``keys``: the keys that wrap the data keys of stored data."""

import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import msgspec

from app.cli.command import echo, main, on_store, with_service
from app.cli.origin import CLI_CALLER
from app.services import FlowService
from app.services.administration.clear_data import SealingReport
from app.services.administration.key_rotation import KeyRotation, RotationReport, WrappingKeyUse
from config.encryption import create_wrapping_key
from config.settings import SettingsError

PROGRESS_SECONDS = 2.0
NOT_ENCRYPTED = "FLOW_ENCRYPTION_KEYS: is not set, so stored data is not encrypted"

T = TypeVar("T")


@main.group()
def keys() -> None:
    """Keys that encrypt stored data."""


@keys.command()
def generate() -> None:
    """Print a new entry of FLOW_ENCRYPTION_KEYS."""
    echo(create_wrapping_key())


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@on_store
def list_keys(as_json: bool) -> None:
    """List the wrapping keys, with the number of users whose data needs them."""

    async def run(rotation: KeyRotation) -> list[WrappingKeyUse]:
        return await rotation.list_keys()

    found = _with_rotation(run)
    if as_json:
        echo(msgspec.json.encode(found).decode())
        return
    for key in found:
        echo(f"{key.id}  {key.owners:>8} data keys  {_meaning(key)}")


def _meaning(key: WrappingKeyUse) -> str:
    if key.current:
        return "wraps new data keys"
    if not key.known:
        return "missing in FLOW_ENCRYPTION_KEYS"
    return (
        "can be removed once every worker has the first key" if key.unused else "run: server-flow keys rotate"
    )


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@on_store
def rotate(as_json: bool) -> None:
    """Wrap all data keys with the first wrapping key. Can be repeated; exits with 1 if some remain."""
    printed_at = time.monotonic()

    def progress(rewrapped: int, total: int) -> None:
        nonlocal printed_at
        if not as_json and time.monotonic() - printed_at >= PROGRESS_SECONDS:
            printed_at = time.monotonic()
            echo(f"{rewrapped} of {total} data keys")

    async def run(rotation: KeyRotation) -> RotationReport:
        return await rotation.rotate(progress, caller=CLI_CALLER)

    report = _with_rotation(run)
    if as_json:
        echo(msgspec.json.encode(report).decode())
    else:
        echo(f"{report.rewrapped} data keys wrapped with {report.key}, {report.remaining} remain")
    if report.remaining:
        sys.exit(1)


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@on_store
def seal(as_json: bool) -> None:
    """Encrypt what was stored before encryption was switched on. Can be repeated."""
    printed_at = time.monotonic()

    def progress(collection: str, checked: int, sealed: int) -> None:
        nonlocal printed_at
        if not as_json and time.monotonic() - printed_at >= PROGRESS_SECONDS:
            printed_at = time.monotonic()
            echo(f"{collection}: {checked} documents checked, {sealed} encrypted")

    async def run(service: FlowService) -> SealingReport:
        if service.clear_data is None:
            raise SettingsError(NOT_ENCRYPTED)
        return await service.clear_data.seal(progress, caller=CLI_CALLER)

    report = with_service(run)
    if as_json:
        echo(msgspec.json.encode(report).decode())
    else:
        echo(f"{report.checked} documents checked, {report.sealed} encrypted")


def _with_rotation(use: Callable[[KeyRotation], Awaitable[T]]) -> T:
    async def run(service: FlowService) -> T:
        if service.key_rotation is None:
            raise SettingsError(NOT_ENCRYPTED)
        return await use(service.key_rotation)

    return with_service(run)
