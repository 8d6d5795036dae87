"""The commands `stellar convert` and `stellar import-gguf`: options to calls, results to lines. Knows no format."""

from __future__ import annotations

import os
from pathlib import Path

import click

_FOLDER = _FILE = click.Path(path_type=Path)


@click.command()
@click.option("--base", type=_FOLDER, metavar="DIR", help="The base model: a Hugging Face folder.")
@click.option(
    "--delta-base",
    type=_FOLDER,
    metavar="DIR",
    help="The original LLaMA, if --base holds weight differences from it, as BayLing 1.0 does.",
)
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
@click.option(
    "--imatrix",
    type=_FILE,
    metavar="FILE",
    help="An importance matrix of this model: the lowest levels need one, the others profit.",
)
@click.option("--hf", type=_FOLDER, metavar="DIR", help="Also write the merged model as a Hugging Face folder.")
@click.option(
    "--hf-dtype", metavar="DTYPE", help="float32, float16 or bfloat16 for --hf. [default: as the base is stored]"
)
@click.option(
    "--lora-gguf", type=_FILE, metavar="FILE", help="Also write the adapter alone as a GGUF, to apply at run time."
)
@click.option(
    "--license",
    "licence",
    metavar="ID",
    help="The licence to state in the files, such as apache-2.0. [default: what the base's README.md says]",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Read every file again, compare it with manifest.json, load it, and measure what each level lost. "
    "Without --base: verify what is in --out.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: one per physical core]"
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on stdout.")
@click.option("--list-levels", is_flag=True, help="Explain the levels, with their sizes, and exit.")
def convert(
    base: Path | None,
    delta_base: Path | None,
    adapters: tuple[str, ...],
    out: Path | None,
    levels: str,
    name: str | None,
    template: str | None,
    imatrix: Path | None,
    hf: Path | None,
    hf_dtype: str | None,
    lora_gguf: Path | None,
    licence: str | None,
    verify: bool,
    threads: int | None,
    as_json: bool,
    list_levels: bool,
) -> None:
    """Merge LoRA adapters into a base and write it at one or more levels of precision, as GGUF files.

    Reads each weight once and holds little in memory, whatever the model's size. Run again, it keeps what is finished
    and goes on where it was stopped.

    \b
    Example:
      stellar convert --base bayling-13b --adapter stellarspeak-lora \\
          --out stellarspeak-13b --levels Q8_0,Q4_K_M
      stellar convert --verify --out stellarspeak-13b
    """
    _one_thread_a_product()
    from stellar_local.console import warn
    from stellar_local.errors import ExitCode, StellarError, UsageError

    from . import report

    if list_levels:
        click.echo(report.levels_text(as_json))
        return
    if base is None and not (verify and out is not None):
        raise UsageError("no base model given", "give its folder with --base")
    if base is None and (adapters or hf is not None or lora_gguf is not None or imatrix is not None):
        raise UsageError("no base model given", "give its folder with --base; --verify alone takes --out alone")
    if verify and out is None:
        raise UsageError("--verify checks the files in --out, which is not given", "give their folder with --out")
    made = checks = None
    if base is not None:
        from .adapter import parse_adapter
        from .export import export
        from .job import Order
        from .levels import parse_levels

        made = export(
            Order(
                base,
                [parse_adapter(text) for text in adapters],
                out,
                parse_levels(levels, imatrix is not None) if out is not None else [],
                name=name,
                template=template,
                threads=threads,
                hf=hf,
                hf_dtype=hf_dtype,
                lora_gguf=lora_gguf,
                imatrix=imatrix,
                delta_base=delta_base,
                about={"license": licence} if licence else {},
            )
        )
        report.say_made(made)
    if verify and out is not None:
        from .verify import record
        from .verify import verify as check_folder

        checks = check_folder(out, None if made is None else [item.level for item in made.levels], threads)
        report.say_checks(checks)
        try:
            record(out, checks)
        except StellarError as error:  # a folder that is only read
            warn(f"the figures are not written down: {error.message}")
    if as_json:
        click.echo(report.summary(made, out, checks))
    if checks is not None and not all(check.sound for check in checks):
        raise SystemExit(int(ExitCode.FAILED))


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
