"""``token``."""

import re
from datetime import timedelta
from pathlib import Path

import click

from app.auth.tokens import issue_token
from app.cli.command import main, say
from app.contracts.ids import RULE, is_id
from app.process.data_directory import read_jwt_secret
from config.settings import Settings, SettingsError, load_settings

_SHORT_DURATION = re.compile(r"(\d{1,9})([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@main.command()
@click.option("--user", required=True, help="The user's id (the token's 'sub').")
@click.option("--role", "roles", multiple=True, help="A role; may be repeated.")
@click.option("--scope", "scopes", multiple=True, help="A scope, such as flow:admin; may be repeated.")
@click.option("--ttl", default="1h", show_default=True, help="How long it is valid: 30s, 15m, 1h, 7d.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data of the embedded servers.")
def token(
    user: str, roles: tuple[str, ...], scopes: tuple[str, ...], ttl: str, data_dir: Path | None
) -> None:
    """Print a signed token for the configured secret."""
    match = _SHORT_DURATION.match(ttl)
    if match is None:
        raise click.BadParameter("takes a number and s, m, h or d, such as 1h", param_hint="--ttl")
    if not is_id(user):
        raise click.BadParameter(RULE, param_hint="--user")
    settings = load_settings(data_dir=data_dir)
    valid_for = timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    say(signed_token(settings, user, valid_for, roles, scopes))


def signed_token(
    settings: Settings, user: str, ttl: timedelta, roles: tuple[str, ...] = (), scopes: tuple[str, ...] = ()
) -> str:
    """A token that a server with these settings takes. Raises SettingsError, EmbeddedError."""
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value()
    elif settings.embedded and not (settings.jwt_public_key or settings.jwks_url):
        secret = read_jwt_secret(settings.data_dir)
    else:
        raise SettingsError("FLOW_JWT_SECRET: tokens can be made here only with the shared secret")
    return issue_token(
        secret,
        user,
        ttl=ttl,
        roles=roles,
        scopes=scopes,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )
