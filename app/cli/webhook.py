"""``webhook``: signatures of webhooks, for developers of services."""

import sys
import time
from typing import BinaryIO, TextIO

import click
import msgspec

from app.cli.command import echo, main
from app.outbound.webhook_diagnosis import explain
from app.outbound.webhook_signatures import (
    ID_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    TOLERANCE_SECONDS,
    SecretError,
    decode_secret,
    signature_headers,
    verify,
)

MAX_BODY_BYTES = 16_777_216

_secret_option = click.option(
    "--secret",
    "secrets",
    multiple=True,
    required=True,
    envvar="WEBHOOK_SECRET",
    help="A secret of the service, whsec_…; can be repeated. Or WEBHOOK_SECRET in the environment.",
)
_body_argument = click.argument("body", type=click.File("rb"), default="-")


@main.group()
def webhook() -> None:
    """Signatures of webhooks: why one is refused, and signed test requests."""


@webhook.command("verify")
@_secret_option
@click.option("--id", "event_id", help="The header webhook-id.")
@click.option("--timestamp", help="The header webhook-timestamp.")
@click.option("--signature", help="The header webhook-signature.")
@click.option(
    "--headers",
    "headers_file",
    type=click.File("r"),
    help="A file with the headers instead: lines such as 'webhook-id: evt_…', or a JSON object.",
)
@click.option("--any-age", is_flag=True, help="Do not check the age, for a request that was recorded.")
@_body_argument
def verify_command(
    secrets: tuple[str, ...],
    event_id: str | None,
    timestamp: str | None,
    signature: str | None,
    headers_file: TextIO | None,
    any_age: bool,
    body: BinaryIO,
) -> None:
    """Print "valid", or why the signature of a request is refused.

    BODY is a file with the bytes of the request's body, by default the standard input. Exits with 1 if the
    signature is refused.
    """
    headers: dict[str, str] = {} if headers_file is None else _read_headers(headers_file.read())
    given = {ID_HEADER: event_id, TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: signature}
    headers |= {name: text for name, text in given.items() if text is not None}
    keys, received = _decode_secrets(secrets), _read_body(body)
    fault = verify(keys, headers, received, time.time(), None if any_age else TOLERANCE_SECONDS)
    if fault is None:
        echo("valid")
        return
    echo(f"refused: {fault.text}")
    for sentence in explain(fault, keys, headers, received):
        echo(f"  {sentence}")
    sys.exit(1)


@webhook.command("sign")
@_secret_option
@click.option("--id", "event_id", default="evt_test", show_default=True, help="The id of the event.")
@click.option(
    "--timestamp", type=click.IntRange(0, 10**11), help="Seconds since 1970, by default the present time."
)
@_body_argument
def sign_command(secrets: tuple[str, ...], event_id: str, timestamp: int | None, body: BinaryIO) -> None:
    """Print the headers of a signed request, to test a receiver.

    BODY is a file with the bytes of the body, by default the standard input.
    """
    at = int(time.time()) if timestamp is None else timestamp
    try:
        headers = signature_headers(_decode_secrets(secrets), event_id, at, _read_body(body))
    except ValueError as refusal:
        raise click.BadParameter(str(refusal), param_hint="--id") from None
    for name, text in headers.items():
        echo(f"{name}: {text}")


def _decode_secrets(secrets: tuple[str, ...]) -> list[bytes]:
    try:
        return [decode_secret(secret) for secret in secrets]
    except SecretError as refusal:
        raise click.BadParameter(str(refusal), param_hint="--secret") from None


def _read_body(body: BinaryIO) -> bytes:
    found = body.read(MAX_BODY_BYTES + 1)
    if len(found) > MAX_BODY_BYTES:
        raise click.BadParameter(f"must have at most {MAX_BODY_BYTES} bytes", param_hint="BODY")
    return found


def _read_headers(text: str) -> dict[str, str]:
    """Read lines of HTTP, as ``curl -i`` prints them, or an object as JSON; other lines are skipped."""
    if text.lstrip().startswith("{"):
        try:
            found = msgspec.json.decode(text, type=dict[str, str | list[str]])
        except msgspec.MsgspecError:
            raise click.BadParameter(
                "must be lines of headers, or a JSON object with texts", param_hint="--headers"
            ) from None
        pairs = [(name, each if isinstance(each, str) else " ".join(each)) for name, each in found.items()]
    else:
        lines = [line.lstrip("<> ").partition(":") for line in text.splitlines()]
        pairs = [(name, value) for name, colon, value in lines if colon]
    return {name.strip().lower(): value.strip() for name, value in pairs}
