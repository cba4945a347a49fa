"""The text that ``serve`` prints once it answers."""

import ipaddress
import shlex
import sys
from datetime import timedelta
from pathlib import Path

from app.auth.policy import ADMIN
from app.cli.token import signed_token
from app.web.bundle import Bundle
from config.settings import Settings

DEMO_USER = "demo"
DEMO_TOKEN_TTL = timedelta(hours=1)
FIRST_TOKEN_TTL = timedelta(hours=12)


def welcome_text(
    address: str,
    host: str,
    settings: Settings,
    data_dir: Path | None,
    first_flow: str | None,
    bundle: Bundle,
    *,
    is_terminal: bool,
) -> str:
    """Compose the text.

    Args:
        address: Where the service answers.
        host: The interface that it listens on.
        settings: Including the servers in use.
        data_dir: Of the embedded servers, None if there are none.
        first_flow: A flow for the example, if everybody may see one.
        bundle: The pages, if they are built.
        is_terminal: The output is a terminal. Otherwise it may be stored in a log, and has no token.
    """
    shows_tokens = is_terminal and data_dir is not None and settings.jwt_secret is not None
    lines = [""]
    if not bundle.exists:
        lines += ["The pages for browsers are not built; build them with: server-flow web build", ""]
    elif shows_tokens and _is_loopback(host):
        # In the fragment, which browsers never send: no server and no log gets the token from there.
        token = signed_token(settings, DEMO_USER, DEMO_TOKEN_TTL)
        lines += [
            f"Open {address}/#token={token}",
            f"  (in a browser; signs in as the user '{DEMO_USER}', for an hour)",
            "",
        ]
    lines.append(f"server-flow serves at {address}   (API: {address}/docs)")
    if data_dir is not None:
        lines.append(f"Data: {data_dir}   (embedded servers, for one machine)")
    if shows_tokens and first_flow is not None:
        lines += _example(address, settings, first_flow)
    where = f" --data-dir {shlex.quote(str(data_dir))}" if data_dir is not None else ""
    lines += [
        "",
        f"{'More tokens' if shows_tokens else 'Tokens'}: {shlex.quote(sys.argv[0])} token --user ada{where}",
        "Ctrl-C stops it.",
        "",
    ]
    return "\n".join(lines)


def _example(address: str, settings: Settings, flow_id: str) -> list[str]:
    token = signed_token(settings, "ada", FIRST_TOKEN_TTL, scopes=(ADMIN,))
    return [
        "",
        f"Start the flow {flow_id} for the user 'ada' (again: the state that it has by then):",
        f"  curl -X POST {address}/api/flow/{flow_id}/start -H 'Authorization: Bearer {token}'",
    ]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
