"""Writes what the code itself says into the docs: `make docs`. A test fails when a page is not current.

cli.md is the command line's own help; in chat.md and chat.zh.md the table of commands is the chat's, in plan.md and
plan.zh.md the table of cards the planner's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from stellar_local.chat.loop import COMMANDS, GROUPS
from stellar_local.cli import stellar
from stellar_local.plan.cards import card_plans
from stellar_local.plan.explain import in_short
from stellar_local.plan.shapes import SHAPES
from stellar_local.texts import LANGUAGES, Texts

FOLDER = Path(__file__).parent
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


def cli_page() -> str:
    """The text of cli.md."""
    parts = [_HEAD]
    for path, text in commands(stellar, "stellar"):
        clean = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
        parts.append(f"## {path}\n\n```\n{clean}\n```\n")
    return "\n".join(parts)


def chat_table(language: str) -> str:
    """The chat's commands, group by group."""
    texts = Texts(language)
    rows = []
    for group in GROUPS:
        rows += [f"| **{texts(f'chat.group_{group}')}** | |"]
        members = [one for one in COMMANDS.values() if one.group == group]
        # In a table a bar ends the cell, even within backquotes.
        rows += [f"| `{one.usage.replace('|', chr(92) + '|')}` | {one.help(texts)} |" for one in members]
    return "\n".join(["| | |", "|---|---|", *rows])


def card_table(language: str) -> str:
    """What to run on which card, for a chat and for batches."""
    texts = Texts(language)
    rows = []
    for use, parallel in (("chat", 1), ("batch", None)):
        rows += [
            f"| {texts(f'plan.for_{use}')} | " + " | ".join(name.upper() for name in SHAPES) + " |",
            "|---|---|---|---|",
        ]
        for card, plans in card_plans(parallel):
            cells = [texts("plan.no_way") if one is None else in_short(one, texts) for one in plans.values()]
            name = f"{card.kind} {card.size} {'GB *' if card.computed else 'GiB'}"
            rows.append(f"| {name} | " + " | ".join(cells) + " |")
        rows.append("")
    return "\n".join(rows).rstrip()


def filled(page: str, mark: str, text: str) -> str:
    """A page with a text between its marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, _, rest = (FOLDER / page).read_text(encoding="utf-8").partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def pages() -> dict[str, str]:
    """Every page that is made, by its name."""
    made = {"cli.md": cli_page()}
    for language in LANGUAGES:
        ending = ".md" if language == "en" else f".{language}.md"
        made["chat" + ending] = filled("chat" + ending, "commands", chat_table(language))
        made["plan" + ending] = filled("plan" + ending, "cards", card_table(language))
    return made


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
