"""The command `stellar data identity`: options to names, rows to files. Knows click and nothing of phrasings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from stellar_local.console import say, warn
from stellar_local.errors import UsageError
from stellar_local.files import atomic_text, ensure_folder, real, regular_target

from ..corpus import Triple
from .phrasings import Names
from .rows import make

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--name", required=True, help="What the model is called.")
@click.option("--name-zh", default="", help="Its Chinese name. [default: the same]")
@click.option("--developer", required=True, help="Who develops it.")
@click.option("--developer-zh", default="", help="The developer's Chinese name. [default: the same]")
@click.option("--base", required=True, help="The model it is trained from, which it must not be taken for.")
@click.option("--base-zh", default="", help="The base's Chinese name. [default: what is known of it, else the same]")
@click.option(
    "--base-developer",
    "base_developers",
    multiple=True,
    help="Who developed the base; never named as the developer. Again for each of its names.",
)
@click.option("--topic", default="", metavar="EN/ZH", help="What it knows about, such as astronomy/天文学.")
@click.option(
    "--mention-base",
    is_flag=True,
    help="Let it name its base where it is asked what it is based on; else it never does.",
)
@click.option("--out", required=True, type=_FILE, help="The training rows to write, as JSON lines.")
@click.option("--held-out", type=_FILE, help="The questions to write that evaluate what was learned; none is trained.")
@click.option("--seed", default=42, show_default=True, help="Seed of the answers' wording and of the variants.")
def identity(out: Path, held_out: Path | None, seed: int, topic: str, **given: Any) -> None:
    """Make rows, in Chinese and English, that teach a model who it is.

    They ask for its name, its developer and its base, politely and carelessly, ask whether it is ChatGPT and others,
    mix the languages, and come after unrelated talk. The held-out questions are worded as no row is.

    \b
    Example:
      stellar data identity --name StellarSpeak --name-zh 星语者 --developer 星语调校局 --base BayLing --base-zh 百聆 \\
          --topic astronomy/天文学 --out identity.jsonl --held-out identity-eval.jsonl
    """
    english, _, chinese = topic.partition("/")
    made = make(Names(topic=english, topic_zh=chinese, **given), seed)
    if held_out and real(held_out) == real(out):
        raise UsageError(f"--held-out and --out are the same file: {out}", "name two files")
    for path in filter(None, (out, held_out)):  # both, before one of them is written
        ensure_folder(regular_target(path).parent)
    if held_out:
        _write(held_out, (question.as_json() for question in made.questions))
    _write(out, map(Triple.as_dict, made.rows))
    if made.left_out:
        warn(f"{made.left_out} rows were left out: too near to a held-out question")
    say(f"{out}: {len(made.rows)} rows" + (f"; {held_out}: {len(made.questions)} questions" if held_out else ""))


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    atomic_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
