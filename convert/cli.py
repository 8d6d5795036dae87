"""The commands `stellar convert` and `stellar import-gguf`: options to calls, results to lines. Knows no format."""

from __future__ import annotations

import os
from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--base", type=_FOLDER, metavar="DIR", help="The base model: a Hugging Face folder.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="DIR[:WEIGHT]",
    help="A LoRA adapter to merge, with its weight (1 if none is given). May be repeated.",
)
@click.option("--out", type=_FOLDER, metavar="DIR", help="Where the GGUF files go.")
@click.option(
    "--levels",
    default="Q8_0,Q4_K_M",
    show_default=True,
    metavar="A,B,…",
    help="The levels to write, in one pass; --list-levels explains them.",
)
@click.option("--name", metavar="NAME", help="What the files are called: NAME-LEVEL.gguf. [default: the name of --out]")
@click.option(
    "--template",
    metavar="NAME|FILE",
    help="The prompt template to store. [default: the one the adapter was trained with, else the base's own]",
)
@click.option("--hf", type=_FOLDER, metavar="DIR", help="Also write the merged model as a Hugging Face folder.")
@click.option(
    "--hf-dtype", metavar="DTYPE", help="float32, float16 or bfloat16 for --hf. [default: as the base is stored]"
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: one per physical core]"
)
@click.option("--list-levels", is_flag=True, help="Explain the levels and exit.")
def convert(
    base: Path | None,
    adapters: tuple[str, ...],
    out: Path | None,
    levels: str,
    name: str | None,
    template: str | None,
    hf: Path | None,
    hf_dtype: str | None,
    threads: int | None,
    list_levels: bool,
) -> None:
    """Merge LoRA adapters into a base and write it at one or more levels of precision, as GGUF files.

    Reads each weight once and holds little in memory, whatever the model's size.

    \b
    Example:
      stellar convert --base bayling-13b --adapter stellarspeak-lora \\
          --out stellarspeak-13b --levels Q8_0,Q4_K_M
    """
    _one_thread_a_product()
    from stellar_local.console import say
    from stellar_local.errors import UsageError

    from .levels import LEVELS, parse_levels

    if list_levels:
        for level in LEVELS.values():
            click.echo(f"{level.name:8} {level.purpose}")
        return
    if base is None:
        raise UsageError("no base model given", "give its folder with --base")
    from .adapter import parse_adapter
    from .export import export
    from .job import Order
    from .space import readable

    made = export(
        Order(
            base,
            [parse_adapter(text) for text in adapters],
            out,
            parse_levels(levels) if out is not None else [],
            name=name,
            template=template,
            threads=threads,
            hf=hf,
            hf_dtype=hf_dtype,
        )
    )
    for item in made.levels:
        say(f"{item.level:8} {readable(item.size):>11}  {item.bits_per_weight:5.2f} bits per weight  {item.file}")
    if hf is not None:
        say(f"merged Hugging Face folder: {hf}")


def _one_thread_a_product() -> None:
    """One thread for each of NumPy's matrix products, before it loads: the pass has a worker on every core."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(name, "1")


@click.command("import-gguf")
@click.argument("file", type=_FOLDER, metavar="FILE")
@click.option("--out", required=True, type=_FOLDER, metavar="DIR", help="The Hugging Face folder to make.")
@click.option("--dtype", default="float32", show_default=True, help="float32, float16 or bfloat16.")
def import_gguf(file: Path, out: Path, dtype: str) -> None:
    """Turn a GGUF file of a LLaMA, of any level, into a Hugging Face folder: a base for training and converting.

    Quantized weights become what they stand for; what quantizing lost stays lost.

    \b
    Example:
      stellar import-gguf SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
    """
    from stellar_local.console import say

    from .gguf_import import import_gguf as run

    run(file, out, dtype)
    say(f"Hugging Face folder: {out}")
