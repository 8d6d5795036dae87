"""The command `stellar eval likelihood`: options to passages, a reference and a task. Knows click."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ...errors import ExitCode, UsageError
from ...files import ensure_folder, exclusive, require_file
from ...flags import system_option
from ..flags import evaluation_options, measurement
from ..measuring import Measurement, measure, unfinished
from ..subject import known_hash
from .passages import read_passages
from .reference import PLACES, keep
from .task import COMPARED, Likelihood

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
    help="Compare every model's distributions with this one's, such as the F16 file: KL divergence, same top token. It "
    "runs without --lora.",
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
    vocabularies only bits per byte compare. For --limit a row counts as one item, and so does a whole text file.

    \b
    Example: stellar eval likelihood demo/model --all-levels --data held-out.jsonl
             stellar eval likelihood model-Q8_0.gguf model-Q4_K_M.gguf --data text.txt --reference model-F16.gguf
    """
    how = measurement(given)
    if reference is not None and reference.is_dir():
        raise UsageError(f"--reference names a folder: {reference}", "give the file of one level, such as the F16 one")
    passages, broken = read_passages(data, chunk)
    passages = passages[: how.limit]
    settings: dict[str, Any] = {"passages": passages, "data": data, "system": system, "chunk": chunk}
    code = (
        measure(Likelihood(**settings), how).code if reference is None else _compare(reference, settings, places, how)
    )
    if code or broken:
        raise SystemExit(code or ExitCode.FAILED)


def _compare(reference: Path, settings: dict[str, Any], places: int, how: Measurement) -> ExitCode:
    """Measure with a reference, which is run only where something is left to be compared with it."""
    require_file(reference, "reference model", "check the path given with --reference")
    ensure_folder(how.out)
    about = {"label": reference.stem, "sha256": known_hash(reference, how.out), "places": places}
    task = Likelihood(**settings, reference=about)
    if not unfinished(task, how):
        return measure(task, how).code
    with exclusive(how.out / ".reference.lock", how.out):
        kept = keep(reference, how, settings["passages"], places, settings["system"], settings["data"])
        if kept.code:
            return kept.code
        measured = measure(replace(task, rows=kept.rows), how)
        if not measured.code:
            kept.discard()
    compared = [{metric.name for metric in summary.metrics} for summary in measured.summaries]
    if not all(COMPARED in names for names in compared):
        return measured.code or ExitCode.FAILED
    return measured.code
