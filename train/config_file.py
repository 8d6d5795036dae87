"""A file with the options of a training run: TOML, or the training.json of an earlier run.

Knows how such files are written and names the line of what is wrong in them; what a value may be, each option knows.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from stellar_local.console import fitted, one_line
from stellar_local.errors import UsageError
from stellar_local.files import expanded, read_text

from .config import WANDB, field_of, nearest, option

_WHAT = "configuration file"


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings that a file gives, by field name (or by one of config.WANDB), each checked by itself.

    Keys are options' names, ours or alpaca-lora's, with `-` or `_`. Paths in a TOML file start at its folder. A record
    (training.json) holds them as its run was given them, from the folder in which it was started, and they stay so.
    Raises UsageError with file and line for an unknown key or a wrong value, StellarError if it cannot be read.
    """
    source = read_text(path, _WHAT)
    is_json = path.suffix.lower() == ".json"
    data = _parsed_json(source, path) if is_json else _parsed_toml(source, path)
    record = is_json and isinstance(data.get("config"), dict)
    found: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in (data["config"] if record else data).items():
        where = _where(path, source, key, is_json)
        shown = _short(key)
        if isinstance(value, dict):
            raise UsageError(f"{where}: {shown} is a section, but options have none", "write each as: name = value")
        name = field_of(key)
        if not name:
            near = nearest(key)
            hint = f"did you mean {near}?" if near else "stellar train --help lists all options, without the --"
            raise UsageError(f"{where}: unknown option: {shown}", hint)
        if name in keys:
            raise UsageError(f"{where}: {_short(keys[name])} and {shown} are the same option", "leave one of them out")
        keys[name] = key
        if name in WANDB:
            found[name] = str(value)
        elif value is not None:  # JSON's null: not set
            value = option(name).check(value, f"{where}: {shown}")
            found[name] = value if record else _beside(path.parent, name, value)
    return found


def _beside(folder: Path, name: str, value: Any) -> Any:
    """`value`, or the path from `folder` where it is one."""
    if value is None or not option(name).is_path(str(value)):
        return value
    return type(value)(folder / expanded(str(value)))


def _parsed_toml(source: str, path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(source))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        hint = 'texts stand in quotes and yes or no is true or false, for example: base = "bayling-13b"'
        raise UsageError(f"{_WHAT} {path} is not TOML: {_short(str(error))}", hint) from error


def _parsed_json(source: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{_WHAT} {path} is not JSON: {_short(str(error))}", "give a TOML file, or training.json"
        ) from error
    if not isinstance(data, dict):
        raise UsageError(f"{_WHAT} {path} is not a JSON object", "give a TOML file, or an adapter's training.json")
    return data


def _where(path: Path, source: str, key: str, is_json: bool) -> str:
    """`run.toml, line 3`, as far as the line of a key can be found: the parsers don't tell it."""
    written = re.escape(json.dumps(key, ensure_ascii=False)[1:-1])
    pattern = rf'"{written}"\s*:' if is_json else rf"""^\s*(?:\[+\s*)?["']?{written}["']?\s*[=.\]]"""
    found = re.search(pattern, source, re.MULTILINE)
    return f"{path}, line {source.count(chr(10), 0, found.end()) + 1}" if found else str(path)


def _short(text: str) -> str:
    return fitted(one_line(text), 100)
