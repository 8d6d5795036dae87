"""The command `stellar eval likelihood`: options to passages, a reference and a task. Knows click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...errors import UsageError
from ...flags import system_option
from ..flags import evaluation_options, measurement
from ..measuring import measure
from .passages import read_passages
from .reference import PLACES, keep
from .task import Likelihood

_FILE = click.Path(path_type=Path)
_CHUNK = 512


@click.command()
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=_FILE,
    metavar="FILE",
    help="What to score: JSON rows with instruction and output, of which the answer is scored; rows with text; or a "
    "text file. May be repeated.",
)
@click.option(
    "--reference",
    type=_FILE,
    metavar="MODEL",
    help="Compare every model's distributions with this one's, such as the F16 file: KL divergence, same top token.",
)
@click.option(
    "--places",
    type=click.IntRange(1, 1 << 20),
    default=PLACES,
    show_default=True,
    metavar="N",
    help="Tokens at which they are compared; each takes 128 to 500 KB of disk for a while.",
)
@click.option(
    "--chunk",
    type=click.IntRange(8, 1 << 17),
    default=_CHUNK,
    show_default=True,
    metavar="N",
    help="Tokens that a text file is cut into, as llama-perplexity's --ctx-size.",
)
@system_option
@evaluation_options(sampling=False)
def likelihood(
    data: tuple[Path, ...], reference: Path | None, places: int, chunk: int, system: str | None, **given: Any
) -> None:
    """How likely texts are to models: loss, perplexity, bits per byte; and how far a level is from its reference.

    Loss is in nats a token, of answers alone where rows have instruction and output. Give base and tuned model the
    same --template: under a foreign one a model is blamed for what it never saw. Between models with different
    vocabularies only bits per byte compare.

    \b
    Example: stellar eval likelihood demo/model --all-levels --data held-out.jsonl
             stellar eval likelihood model-Q8_0.gguf model-Q4_K_M.gguf --data text.txt --reference model-F16.gguf
    """
    how = measurement(given)
    if reference is not None and reference.is_dir():
        raise UsageError(f"--reference names a folder: {reference}", "give the file of one level, such as the F16 one")
    passages = read_passages(data, chunk)[: how.limit]
    settings: dict[str, Any] = {"passages": passages, "data": data, "system": system, "chunk": chunk}
    if reference is None:
        code = measure(Likelihood(**settings), how).code
    else:
        kept = keep(reference, how, passages, places, system, data)
        if kept.code:
            raise SystemExit(kept.code)
        about = {"label": kept.label, "sha256": kept.sha256, "places": places}
        code = measure(Likelihood(**settings, rows=kept.rows, reference=about), how).code
        if not code:
            kept.discard()
    if code:
        raise SystemExit(code)
