"""Every option of a training run, defined once: name, type, range, default, help, section, and other tools' names.

The command line and configuration files are read by these definitions, so they and TrainConfig cannot drift apart.
Knows what a valid setting is; knows nothing of files' contents, of click or of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from stellar_local.errors import UsageError
from stellar_local.prompts import is_template_path, load_template

from .option import Option, define, described

ALL_LINEAR = "all-linear"
# alpaca-lora's options for Weights & Biases: understood, and answered with a warning.
WANDB = ("wandb_project", "wandb_run_name", "wandb_watch", "wandb_log_model")
_TRIAL = ("auto", "on", "off")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Creating one checks it: raises UsageError naming the option that is wrong.

    A path may be given as text, and names of modules as text with commas; None is an option's default.
    """

    base: Path = define("Adapter", "Base model: a Hugging Face folder.", alias="base_model", kind=Path, metavar="DIR")
    data: Path = define(
        "Data", "Training data: triples as JSON or JSONL.", alias="data_path", kind=Path, metavar="FILE"
    )
    out: Path = define(
        "Run", "Folder that receives the adapter.", alias="output_dir", kind=Path, metavar="DIR", decides=False
    )

    val_data: Path | None = define(
        "Data", "Rows to measure the loss on: another file.", None, kind=Path, metavar="FILE"
    )
    val_set_size: float = define(
        "Data", "Rows of --data held out instead: a number, or a fraction such as 0.05.", 0.0, least=0, metavar="N|X"
    )
    template: str = define(
        "Data",
        "Prompt template: a name or a .json file. Empty means bayling, as the default does (in alpaca-lora: alpaca).",
        "bayling",
        "prompt_template_name",
        metavar="NAME|FILE",
        is_path=is_template_path,
    )
    cutoff_len: int = define("Data", "Longest sample in tokens, prompt and answer together.", 512, least=2)
    over_long: str = define(
        "Data",
        "Longer samples are left out (drop), lose the end of their answer (truncate), or become several (split); "
        "each is counted.",
        "drop",
        choices=("drop", "truncate", "split"),
    )
    train_on_inputs: bool = define("Data", "Learn the prompts too, not the answers alone.", False)
    add_eos_token: bool = define("Data", "End each answer with the end token; without it a model rambles on.", True)
    group_by_length: bool = define("Data", "Let samples of about the same length meet in a step.", False)

    lora_r: int = define("Adapter", "Rank of the adapter.", 8, least=1, most=8192)
    lora_alpha: int = define("Adapter", "Scale of the adapter; its weight is alpha / r.", 16, least=1)
    lora_dropout: float = define("Adapter", "Dropout on the adapter's input.", 0.05, least=0, below=1)
    lora_target_modules: tuple[str, ...] = define(
        "Adapter",
        f"Modules that get an adapter: names with commas, or {ALL_LINEAR}.",
        ("q_proj", "k_proj", "v_proj", "o_proj"),
    )
    use_rslora: bool = define("Adapter", "Weigh the adapter by alpha / √r (rsLoRA): better for high ranks.", False)
    use_dora: bool = define("Adapter", "Learn direction and size apart (DoRA): slower, needs more memory.", False)

    epochs: float = define("Optimisation", "Passes over the data.", 3.0, "num_epochs", above=0, most=1e6)
    max_steps: int = define("Optimisation", "End after this many optimizer steps; 0: as --epochs says.", 0, least=0)
    batch_size: int = define("Optimisation", "Rows per optimizer step.", 32, least=1)
    learning_rate: float = define("Optimisation", "Peak learning rate.", 3e-4, above=0)
    scheduler: str = define(
        "Optimisation",
        "How the learning rate falls from its peak.",
        "linear",
        "lr_scheduler_type",
        choices=("linear", "cosine", "constant"),
    )
    warmup_ratio: float = define(
        "Optimisation", "Share of the steps in which the learning rate rises to it.", 0.03, least=0, below=1
    )
    warmup_steps: int = define("Optimisation", "The number of these steps, instead of the share.", 0, least=0)
    weight_decay: float = define("Optimisation", "Weight decay of AdamW.", 0.0, least=0, most=10)
    max_grad_norm: float = define("Optimisation", "Longest gradient; longer ones are scaled; 0: any.", 1.0, least=0)
    loraplus_ratio: float = define(
        "Optimisation",
        "Learning rate of B over that of A (LoRA+), such as 16; 0: off.",
        0.0,
        "loraplus_lr_ratio",
        least=0,
    )
    neftune_alpha: float = define(
        "Optimisation", "Noise on the embeddings (NEFTune), such as 5; 0: off.", 0.0, "neftune_noise_alpha", least=0
    )
    eval_steps: int = define(
        "Optimisation", "Steps between measurements of the held-out loss; 0: after each pass.", 0, least=0
    )
    early_stopping: int = define(
        "Optimisation", "Stop after this many measurements without a better one; 0: never.", 0, least=0
    )
    seed: int = define(
        "Optimisation", "Seed of the adapter's start, the order of the rows and dropout.", 42, least=0, most=2**32 - 1
    )

    memory: str = define(
        "Memory",
        "Memory that may be used, such as 8GiB; auto is what is free. What is left at auto below is chosen to fit.",
        "auto",
        metavar="auto|SIZE",
        decides=False,
    )
    dtype: str = define(
        "Memory",
        "Precision of the base; nf4 is 4 bits (QLoRA, on CUDA).",
        "auto",
        choices=("auto", "float32", "bfloat16", "nf4"),
    )
    packing: int = define(
        "Memory",
        "Tokens computed at once: samples lie side by side without seeing one another.",
        0,
        "pack_len",
        metavar="auto|N",
        words={"auto": 0},
        least=0,
        decides=False,
    )
    micro_batch_size: int = define(
        "Memory",
        "Compute at most so many rows at once; 0: as many as --packing holds. The result is the same.",
        0,
        least=0,
        decides=False,
    )
    checkpointing: str = define(
        "Memory", "Compute layers again instead of keeping what they hold.", "auto", choices=_TRIAL, decides=False
    )
    offload: str = define(
        "Memory", "Keep the layers' inputs in the host's memory.", "auto", choices=_TRIAL, decides=False
    )
    threads: int = define("Memory", "CPU threads; 0: one per core.", 0, least=0, most=512, decides=False)

    save_steps: int = define(
        "Run", "Steps between checkpoints, from which a killed run goes on.", 50, least=1, decides=False
    )
    resume_from_checkpoint: str = define(
        "Run",
        "Begin with this adapter, or go on from this checkpoint. A killed run goes on by itself, without it.",
        "",
        metavar="DIR",
        is_path=bool,
    )

    def __post_init__(self) -> None:
        for item in options():
            object.__setattr__(self, item.name, item.check(getattr(self, item.name), item.flag))
        if self.val_set_size >= 1 and self.val_set_size != int(self.val_set_size):
            raise UsageError(
                f"--val-set-size is {self.val_set_size:g}, but must be a whole number of rows or a fraction below 1"
            )
        if self.val_data is not None and self.val_set_size:
            raise UsageError(
                "--val-data and --val-set-size are both given", "choose one of them: --val-set-size 0 holds none out"
            )
        for name in ("early_stopping", "eval_steps"):
            if getattr(self, name) and self.val_data is None and not self.val_set_size:
                raise UsageError(
                    f"{option(name).flag} needs rows to measure the loss on",
                    "give them with --val-data FILE, or hold some out with --val-set-size 0.05",
                )
        load_template(self.template)

    def notes(self) -> list[str]:
        """What is valid but likely to disappoint, a sentence each: said before a run."""
        if self.add_eos_token:
            return []
        return ["--add-eos-token is False: the model does not learn to end its answers, and may go on without end"]

    def as_json(self) -> dict[str, Any]:
        """All settings as JSON values: what `training.json` records."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def deciding(self) -> dict[str, Any]:
        """The settings that decide which adapter comes out: two runs with the same ones are the same run.

        A checkpoint inside --out is this run's own, from which it goes on in any case.
        """
        values = {name: value for name, value in self.as_json().items() if option(name).decides}
        if self.resume_from_checkpoint and self.out.resolve() in Path(self.resume_from_checkpoint).resolve().parents:
            values["resume_from_checkpoint"] = ""
        return values


@cache
def _options() -> Mapping[str, Option]:
    return {item.name: described(item) for item in fields(TrainConfig)}


def options() -> list[Option]:
    """Every option of TrainConfig, in order."""
    return list(_options().values())


def option(name: str) -> Option:
    """The option of one field."""
    return _options()[name]


@cache
def _spellings() -> Mapping[str, str]:
    names = {item.name: item.name for item in options()}
    return {**names, **{item.alias: item.name for item in options() if item.alias}, **{name: name for name in WANDB}}


def field_of(spelling: str) -> str:
    """The field (or one of WANDB) that `lora-r`, `lora_r` or another tool's name means; "" where it is none."""
    return _spellings().get(spelling.replace("-", "_"), "")


def nearest(spelling: str, more: tuple[str, ...] = ()) -> str:
    """The name, ours or another tool's or one of `more`, that looks most like a mistaken one; "" if none does."""
    known = [name for name in (*_spellings(), *more) if name not in WANDB]
    return next(iter(get_close_matches(spelling.replace("-", "_").lower(), known, 1, 0.6)), "")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
