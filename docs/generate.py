"""Writes docs/cli.md from the command line's own help: `make docs`. A test fails when the file is not current."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from stellar_local.cli import stellar

PAGE = Path(__file__).with_name("cli.md")
_HEAD = """# The `stellar` command

Made from `--help` by `make docs`; edit the code, not this page.

Exit codes: 0 done, 1 failed (or some items failed), 2 wrong usage, 3 a missing extra, 130 Ctrl-C,
143 SIGTERM.
Run-time options also come from `config.toml` in the user's configuration folder (or the file that `STELLAR_CONFIG`
names) and from variables such as `STELLAR_TEMPERATURE`; a flag wins over a variable, a variable over the file, and the
file over what the model itself recommends.
"""


def commands(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Every command with its help text, groups before their members."""
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, info_name=path, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from commands(member, name, context)


def page() -> str:
    """The page's text."""
    parts = [_HEAD]
    for path, text in commands(stellar, "stellar"):
        clean = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
        parts.append(f"## {path}\n\n```\n{clean}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
