"""The command `stellar train`: words and a file to one TrainConfig, and help in sections.

Knows click; imports neither torch nor Transformers, so that `--help` is quick. StellarErrors are left to the program's
main.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stellar_local.console import warn
from stellar_local.errors import ExitCode, UsageError
from stellar_local.files import expanded

from .arguments import HELP, pairs
from .config import WANDB, TrainConfig, options
from .config_file import read_config_file
from .option import SECTIONS, yes_or_no

_NOTHING = ("", "false", "none", "null", "0")


class _TrainCommand(click.Command):
    """A command whose words are read by `arguments`, and whose help has a section for each of SECTIONS."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        read = pairs(args)
        if any(name == HELP for name, _ in read):
            return super().parse_args(ctx, ["--help"])
        return super().parse_args(ctx, [f"--{name.replace('_', '-')}={text}" for name, text in read])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = {item.name: item.section for item in options()}
        for section in SECTIONS:
            records = [
                record
                for parameter in self.get_params(ctx)
                if sections.get(str(parameter.name), SECTIONS[-1]) == section
                and (record := parameter.get_help_record(ctx)) is not None
            ]
            with formatter.section(section):
                formatter.write_dl(records)


def _all_options(command: Callable[..., None]) -> Callable[..., None]:
    """Every option of TrainConfig, as a text that may be missing: what it means is the option's own."""
    for name in WANDB:
        command = click.option(f"--{name.replace('_', '-')}", name, hidden=True, help="Of alpaca-lora; unused.")(
            command
        )
    for item in reversed(options()):
        default = item.shown_default
        note = " [required]" if item.required else f" [default: {default}]" if default else ""
        command = click.option(item.flag, item.name, metavar=item.metavar, help=item.help + note)(command)
    return command


@click.command(cls=_TrainCommand, options_metavar="--base DIR --data FILE --out DIR [OPTIONS]")
@_all_options
@click.option("--config", metavar="FILE", help="Take options from a TOML file, or from the training.json of a run.")
@click.option("--overwrite", metavar="[BOOL]", help="Remove what another run left in --out and start anew.")
def train(config: str | None, overwrite: str | None, **texts: str | None) -> None:
    """Train a LoRA adapter on instruction triples.

    A run that was killed or stopped with Ctrl-C goes on when the same command is given again.

    \b
    Example:
      stellar data build --out train.json
      stellar train --base ./base --data train.json --out ./adapter --epochs 3

    A command line of alpaca-lora works as it is: its names (--base_model, --data_path, --output_dir, --num_epochs,
    --prompt_template_name) are understood, and _ is as good as -. BOOL is True or False; the option alone means True,
    and with "no" before its name False. Defaults are ours.

    A --config file has the same names, such as lora_r = 16 on a line of its own, and its paths start at its folder;
    options beside it win over it.
    """
    made = configured(texts, expanded(config) if config else None)
    for note in made.notes():
        warn(note)
    from .run import train as run
    from .stopping import Terminated

    try:
        run(made, overwrite=overwrite is not None and yes_or_no(overwrite, "--overwrite"))
    except Terminated:
        raise SystemExit(ExitCode.TERMINATED) from None


def configured(texts: dict[str, str | None], file: Path | None = None) -> TrainConfig:
    """The TrainConfig of a command line's texts, by field name, over those of a file. Raises UsageError.

    What is asked of Weights & Biases is answered with a warning.
    """
    values: dict[str, Any] = read_config_file(file) if file else {}
    given = {name: text for name, text in texts.items() if text is not None}
    for item in options():
        if item.name in given:
            values[item.name] = item.read(given[item.name], item.flag)
    if missing := [item.flag for item in options() if item.required and item.name not in values]:
        verb, listed = (
            "is" if len(missing) == 1 else "are",
            " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]])),
        )
        raise UsageError(f"{listed} {verb} not given", "stellar train --base DIR --data FILE --out DIR; see --help")
    asked = [name for name in WANDB if {**values, **given}.get(name, "").strip("'\"").lower() not in _NOTHING]
    if asked:
        flags = ", ".join(f"--{name}" for name in asked)
        warn(f"{flags}: Weights & Biases is not used; logs are written for TensorBoard and as CSV instead")
    return TrainConfig(**{name: value for name, value in values.items() if name not in WANDB})
