"""Every option of a training run, defined once: name, type, default, help, and alpaca-lora's spelling.

`cli` generates its click options from `options()`, so the command line and TrainConfig cannot drift apart. Knows
what a valid setting is; knows nothing of files' contents, of click or of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stellar_local.errors import UsageError
from stellar_local.prompts import load_template

ALL_LINEAR = "all-linear"


def parse_modules(value: str) -> tuple[str, ...]:
    """`q_proj,v_proj`, `[q_proj,v_proj]`, `['q_proj', 'v_proj']` → ("q_proj", "v_proj"). Raises UsageError.

    alpaca-lora reads this option as a Python literal; shells and Windows strip its quotes or leave them, so
    brackets and quotes are ignored wherever they stand.
    """
    names = tuple(part.strip(" \t\"'[]()") for part in value.split(","))
    names = tuple(dict.fromkeys(name for name in names if name))
    if not names:
        raise UsageError(
            f"no module named in {value!r}", "for example --lora-target-modules q_proj,k_proj,v_proj,o_proj"
        )
    return names


def parse_share(value: str) -> float:
    """`200` → 200.0 rows, `0.05` → a twentieth of the rows. Raises UsageError."""
    try:
        return float(value)
    except ValueError as error:
        raise UsageError(f"not a number of rows or a fraction: {value!r}", "for example 200 or 0.05") from error


def _option(
    help: str,
    default: Any = MISSING,
    alias: str = "",
    kind: Any = None,
    parse: Callable[[str], Any] | None = None,
    decides: bool = True,
) -> Any:
    """A field of TrainConfig; `decides` says whether it changes the adapter that comes out."""
    return field(
        default=default,
        metadata={
            "help": help,
            "alias": alias,
            "kind": kind if kind is not None else type(default),
            "parse": parse,
            "decides": decides,
        },
    )


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Creating one checks it: raises UsageError naming the option that is wrong."""

    base: Path = _option("Base model: a Hugging Face folder.", alias="base_model", kind=Path)
    data: Path = _option("Training data: triples as JSON or JSONL.", alias="data_path", kind=Path)
    out: Path = _option("Folder that receives the adapter.", alias="output_dir", kind=Path, decides=False)
    template: str = _option("Prompt template: a name or a .json file.", "bayling", "prompt_template_name")
    epochs: float = _option("Passes over the data.", 3.0, "num_epochs")
    learning_rate: float = _option("Peak learning rate.", 3e-4)
    batch_size: int = _option("Rows per optimizer step.", 32)
    micro_batch_size: int = _option("Rows computed at once; more needs more memory.", 4)
    cutoff_len: int = _option("Longest sample in tokens; longer ones are left out and counted.", 512)
    val_set_size: float = _option(
        "Rows held out to measure the loss: a number or a fraction.", 0.0, kind=str, parse=parse_share
    )
    lora_r: int = _option("Rank of the adapter.", 8)
    lora_alpha: int = _option("Scale of the adapter; its weight is alpha / r.", 16)
    lora_dropout: float = _option("Dropout on the adapter's input.", 0.05)
    lora_target_modules: tuple[str, ...] = _option(
        f"Modules that get an adapter: names with commas, or {ALL_LINEAR}.",
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        kind=str,
        parse=parse_modules,
    )
    train_on_inputs: bool = _option("Learn the prompts too, not the answers alone.", False)
    max_steps: int = _option("Stop after this many optimizer steps (0: as --epochs says).", 0)
    warmup_ratio: float = _option("Share of the steps in which the learning rate rises.", 0.03)
    scheduler: str = _option(
        "How the learning rate falls after that.", "linear", "lr_scheduler_type", kind=("linear", "cosine", "constant")
    )
    seed: int = _option("Seed of the adapter's start, the order of the rows and dropout.", 42)
    dtype: str = _option(
        "Precision of the base: auto is bfloat16 on CUDA, else float32.", "auto", kind=("auto", "float32", "bfloat16")
    )
    save_steps: int = _option("Steps between checkpoints, from which a killed run goes on.", 50, decides=False)
    threads: int = _option("CPU threads (0: one per core).", 0, decides=False)

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size", "micro_batch_size", "lora_r", "lora_alpha", "save_steps"):
            self._check(name, getattr(self, name) > 0, "must be greater than 0")
        self._check("cutoff_len", self.cutoff_len >= 2, "must be at least 2")
        for name in ("max_steps", "threads", "val_set_size", "seed"):
            self._check(name, getattr(self, name) >= 0, "must not be negative")
        for name in ("lora_dropout", "warmup_ratio"):
            self._check(name, 0 <= getattr(self, name) < 1, "must be at least 0 and less than 1")
        for name, value in asdict(self).items():
            self._check(name, not isinstance(value, float) or math.isfinite(value), "must be a finite number")
        for name, most in (
            ("seed", 2**32 - 1),
            ("threads", 512),
            ("epochs", 1e6),
            ("max_steps", 10**9),
            ("lora_r", 8192),
        ):
            self._check(name, getattr(self, name) <= most, f"must be at most {most:,.0f}")
        whole = self.val_set_size < 1 or self.val_set_size == int(self.val_set_size)
        self._check("val_set_size", whole, "must be a whole number of rows or a fraction below 1")
        if self.batch_size % self.micro_batch_size:
            raise UsageError(
                f"--batch-size {self.batch_size} is not a multiple of --micro-batch-size {self.micro_batch_size}",
                f"for example --micro-batch-size {math.gcd(self.batch_size, self.micro_batch_size)}; same result",
            )
        for name in ("scheduler", "dtype"):
            choices = option(name).kind
            self._check(name, getattr(self, name) in choices, f"must be one of {', '.join(choices)}")
        load_template(self.template)

    def _check(self, name: str, valid: bool, rule: str) -> None:
        if not valid:
            value = getattr(self, name)
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UsageError(f"--{name.replace('_', '-')} is {shown}, but {rule}")

    def steps(self, rows: int) -> int:
        """The number of optimizer steps of a whole run over `rows` rows."""
        return self.max_steps or math.ceil(self.epochs * math.ceil(rows / self.batch_size))

    def as_json(self) -> dict[str, Any]:
        """All settings as JSON values: what `training.json` records."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def deciding(self) -> dict[str, Any]:
        """The settings that decide which adapter comes out: two runs with the same ones are the same run."""
        return {name: value for name, value in self.as_json().items() if option(name).decides}


@dataclass(frozen=True)
class Option:
    """One option as the command line sees it.

    `kind` is a type, or a tuple of the texts that may be chosen; `parse` turns the text into the field's value.
    """

    name: str
    help: str
    kind: Any
    default: Any
    required: bool
    decides: bool
    parse: Callable[[str], Any] | None
    spellings: tuple[str, ...]


def options() -> list[Option]:
    """Every option of TrainConfig, in order, with all spellings: ours, and alpaca-lora's underscores and names."""
    return [_describe(item) for item in fields(TrainConfig)]


def option(name: str) -> Option:
    """The option of one field."""
    return next(found for found in options() if found.name == name)


def _describe(item: Field[Any]) -> Option:
    about: Mapping[str, Any] = item.metadata
    names = [item.name.replace("_", "-"), item.name]
    if about["alias"]:
        names += [about["alias"], about["alias"].replace("_", "-")]
    required = item.default is MISSING
    return Option(
        name=item.name,
        help=about["help"],
        kind=about["kind"],
        default=None if required else item.default,
        required=required,
        decides=about["decides"],
        parse=about["parse"],
        spellings=tuple(dict.fromkeys(f"--{name}" for name in names)),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
