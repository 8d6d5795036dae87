"""Groups of commands that are imported only when they are asked for, so that help and light commands stay light.

Knows click and where our packages lie; knows no command.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .errors import StellarError

_ROOT = Path(__file__).resolve().parent.parent


class Commands(click.Group):
    """A group whose commands stand in `mounted`: name → (module, attribute, the line in the group's help)."""

    def __init__(self, *arguments: Any, mounted: Mapping[str, tuple[str, str, str]], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._mounted = mounted

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._mounted)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._mounted:
            return None
        module, attribute, _ = self._mounted[cmd_name]
        if not module.startswith(f"{__package__}."):
            _own_package(module.partition(".")[0])
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in self._mounted.items()])


def _own_package(name: str) -> None:
    """Import our package `name` from beside this one: a train.py in the user's folder must not take its place."""
    folder = _ROOT / name
    if str(getattr(sys.modules.get(name), "__file__", "")) == str(folder / "__init__.py"):
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise StellarError(f"the package {name} is missing beside {__package__}", "reinstall stellar-local")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
