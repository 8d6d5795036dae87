"""The commands `stellar train` (which is `command`'s) and `stellar data`, a group of others' commands.

Knows click; imports neither torch nor Transformers, so that `--help` is quick and `data` works without them.
StellarErrors are left to the program's main.
"""

from __future__ import annotations

import click

from .building.command import build
from .checking.command import check
from .command import train as train
from .identity.command import identity
from .importing.command import import_data


@click.group()
def data() -> None:
    """Make training files out of instruction triples.

    \b
    Example:
      stellar data build --out train.json --repeat identity=2
    """


for _command in (import_data, build, identity, check):
    data.add_command(_command)
