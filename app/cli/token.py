"""``token``: signed tokens for the configured secret."""

import re
from datetime import timedelta
from pathlib import Path

import click

from app.auth.claims import ClaimNames
from app.auth.policy import SCOPES, SERVICE
from app.auth.tokens import issue_token
from app.cli.command import echo, main
from app.contracts.callers import service_caller
from app.contracts.identifiers import ID_RULE, is_id
from app.contracts.integration import is_alias
from app.flow.lint.spelling import is_role, nearest
from app.kit.durations import MAX_DURATION, parse_duration
from app.process.data_directory import read_jwt_secret
from config.settings import Settings, SettingsError, load_settings

_SHORT_DURATION = re.compile(r"(\d{1,9})([smhd])\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MIN_TTL = timedelta(seconds=1)


@main.command()
@click.option("--user", help="The user's id (the token's 'sub').")
@click.option("--role", "roles", multiple=True, help="A role; can be repeated.")
@click.option("--group", "groups", multiple=True, help="A group; can be repeated.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="A scope: flow:use, flow:service, flow:read, flow:admin; can be repeated.",
)
@click.option(
    "--service",
    help="Limit the token to a service, by its alias: flow:service for its own steps alone. Without --user.",
)
@click.option(
    "--ttl",
    default="PT1H",
    show_default=True,
    help="The time of validity: PT15M, PT1H, P7D, P2W; 15m, 1h and 7d for short.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory of the embedded servers.")
def token(
    user: str | None,
    roles: tuple[str, ...],
    groups: tuple[str, ...],
    scopes: tuple[str, ...],
    service: str | None,
    ttl: str,
    data_dir: Path | None,
) -> None:
    """Print a signed token for the configured secret."""
    valid_for = _read_ttl(ttl)
    user, scopes = _subject(user, scopes, service)
    _check_words(roles, groups, scopes)
    settings = load_settings(data_dir=data_dir)
    echo(signed_token(settings, user, valid_for, roles, scopes, groups, service))


def _subject(user: str | None, scopes: tuple[str, ...], service: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the user and the scopes of the token: for a service they follow from its alias."""
    if service is None:
        if user is None:
            raise click.UsageError("Missing option '--user', or '--service'.")
        if not is_id(user):
            raise click.BadParameter(ID_RULE, param_hint="--user")
        return user, scopes
    if user is not None or scopes:
        raise click.UsageError("--service needs neither --user nor --scope: it names both.")
    if not is_alias(service):
        raise click.BadParameter(
            "must be 1 to 64 lower-case letters, digits, dots, dashes and underscores", param_hint="--service"
        )
    return service_caller(service).user_id, (SERVICE,)


def _read_ttl(text: str) -> timedelta:
    """Read an ISO 8601 duration, or a number of one unit such as ``15m``."""
    short = _SHORT_DURATION.match(text)
    try:
        given = timedelta(seconds=int(short[1]) * _SECONDS[short[2]]) if short else parse_duration(text)
    except (ValueError, OverflowError) as refusal:
        raise click.BadParameter(f"{refusal}; or 15m, 1h, 7d", param_hint="--ttl") from None
    if not _MIN_TTL <= given <= MAX_DURATION:
        raise click.BadParameter(f"{text!r} must be between a second and 100 years", param_hint="--ttl")
    return given


def _check_words(roles: tuple[str, ...], groups: tuple[str, ...], scopes: tuple[str, ...]) -> None:
    """Refuse roles and groups that no flow can name, and misspelled scopes."""
    for role in roles:
        if not is_role(role):
            raise click.BadParameter(f"{role!r} cannot name a role", param_hint="--role")
    for group in groups:
        if not is_role(group):
            raise click.BadParameter(f"{group!r} cannot name a group", param_hint="--group")
    for scope in (word for words in scopes for word in words.split()):
        meant = nearest(scope, SCOPES) or nearest(f"flow:{scope}", SCOPES)
        if scope not in SCOPES and (meant is not None or scope.casefold().startswith("flow:")):
            raise click.BadParameter(
                f"there is no scope {scope!r}; did you mean {meant or ' or '.join(SCOPES)}?",
                param_hint="--scope",
            )


def signed_token(
    settings: Settings,
    user: str,
    ttl: timedelta,
    roles: tuple[str, ...] = (),
    scopes: tuple[str, ...] = (),
    groups: tuple[str, ...] = (),
    service: str | None = None,
) -> str:
    """Create a token that a server with these settings accepts. Raises SettingsError, EmbeddedError."""
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value()
    elif settings.embedded and not settings.has_jwt_keys:
        secret = read_jwt_secret(settings.data_dir)
    else:
        raise SettingsError("FLOW_JWT_SECRET: tokens can be created here only with the shared secret")
    return issue_token(
        secret,
        user,
        ttl=ttl,
        roles=roles,
        scopes=scopes,
        groups=groups,
        service=service,
        audience=settings.jwt_audience,
        issuer=settings.expected_issuer,
        names=ClaimNames(*settings.jwt_claims),
    )
