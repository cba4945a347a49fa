"""``flows diagram``: a flow as a diagram."""

from pathlib import Path
from typing import cast, get_args

import click

from app.cli.command import on_store, with_service
from app.cli.flows import flows
from app.cli.origin import CLI_CALLER
from app.diagrams.formats import Format, diagram
from app.flow.validation import parse_flow
from app.services import FlowService
from app.services.definitions.diagrams import DrawnFlow
from app.sources.files import FileSource


@flows.command("diagram")
@click.argument("flow_id", metavar="[ID]", required=False)
@click.option("--format", "form", type=click.Choice(get_args(Format)), default="mermaid", show_default=True)
@click.option(
    "--user", "user_id", help="Highlight the current step of this user, on the version of the state."
)
@click.option("--entity", "entity_id", help="The entity of the state, if a user has many in the flow.")
@click.option(
    "--version", type=click.IntRange(1, 999_999_999), help="Draw this version instead of the newest."
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Draw the definition in a file instead of a flow; needs no server.",
)
@on_store
def draw(
    flow_id: str | None,
    form: str,
    user_id: str | None,
    entity_id: str | None,
    version: int | None,
    file: Path | None,
) -> None:
    """Print a diagram of a flow: Mermaid, DOT or SVG."""
    if (flow_id is None) == (file is None):
        raise click.UsageError("name a flow by its ID, or a definition with --file")
    if entity_id is not None and user_id is None:
        raise click.UsageError("--entity requires a --user")
    if file is not None and (user_id is not None or version is not None):
        raise click.UsageError("--user and --version apply to a flow, not to a --file")
    if file is None:
        text = _draw_published(cast("str", flow_id), cast("Format", form), user_id, entity_id, version)
    else:
        ((_, raw),) = FileSource(file).read().items()
        text = diagram(parse_flow(raw)[0], cast("Format", form))
    # As bytes: a terminal may not have the characters, a file is UTF-8.
    click.echo(text.encode(), nl=False)


def _draw_published(
    flow_id: str, form: Format, user_id: str | None, entity_id: str | None, version: int | None
) -> str:
    async def run(service: FlowService) -> DrawnFlow:
        return await service.diagrams.draw(
            flow_id, form, caller=CLI_CALLER, user_id=user_id, entity_id=entity_id, version=version
        )

    drawn = with_service(run)
    if user_id is not None and drawn.step is None:
        click.echo(f"{user_id} has no state in {flow_id}: no step is highlighted", err=True)
    return drawn.text
