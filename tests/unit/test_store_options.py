"""Every command that opens a store takes the options that say which."""

from collections.abc import Iterator

import click

from app.cli.command import COMMANDS, main

WITHOUT_A_STORE = {
    "check-config",
    "data export",
    "flows validate",
    "keys generate",
    "serve",
    "services redis-url",
    "token",
    "web build",
    "webhook sign",
    "webhook verify",
    "worker",
}
"""They open none, or take it as an argument, or have options of their own that say it."""


def leaves(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for part in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), part)
        path = f"{name} {part}".strip()
        if isinstance(command, click.Group):
            yield from leaves(command, path)
        elif command is not None:
            yield path, command


def test_every_command_on_a_store_says_which() -> None:
    for name in COMMANDS:
        main.get_command(click.Context(main), name)
    commands = dict(leaves(main, ""))
    takes = {name: {option.name for option in command.params} for name, command in commands.items()}
    without = {name for name, options in takes.items() if not {"data_dir", "create"} <= options}
    assert without == WITHOUT_A_STORE
