"""The command `stellar eval text`: options to a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...errors import ExitCode
from ...flags import system_option
from ..flags import evaluation_options, measurement, sampling_of
from ..measuring import measure
from .answering import FreeText
from .triples import read_references

_LONGEST = 512  # tokens of an answer


@click.command()
@click.option(
    "--data",
    "paths",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Instruction triples that no model was trained on, JSON or JSON lines (may be repeated).",
)
@system_option
@evaluation_options()
def text(paths: tuple[Path, ...], system: str | None, **given: Any) -> None:
    """Compare the answers of MODEL… with reference answers: chrF, BLEU and how long they are.

    Each row's `instruction` and `input` are answered, greedily and with at most 512 tokens unless options say
    otherwise, and compared with its `output`. Scores are sacrebleu's, of each language by itself: BLEU reads Chinese
    with the tokenizer "zh" and English with "13a", and the signatures say so. Prefer chrF, and compare only models that
    were given the same data.

    \b
    Example: stellar eval text demo/model --data held-out.jsonl
             stellar eval text a.gguf b.gguf --data zh.jsonl --data en.jsonl --max-tokens 256
    """
    references, broken = read_references(paths)
    task = FreeText(paths, references, sampling_of(given, max_tokens=_LONGEST), system, len(broken))
    code = measure(task, measurement(given)).code or (ExitCode.FAILED if broken else ExitCode.DONE)
    if code:
        raise SystemExit(code)
