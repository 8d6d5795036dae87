"""Every run-time option, defined once: its type, range, help, and where its value comes from.

In rising order: the default here, the model's own metadata (`Spec.key`), config.toml in the user's configuration
folder, a STELLAR_* variable, a flag. The command line builds its flags from these definitions, and batch
input takes its fields' names and checks from them. Knows nothing of models.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import UsageError
from .files import read_text
from .spec import option, specs


@dataclass(frozen=True)
class RuntimeOptions:
    """How a model is loaded."""

    ctx: int | None = option(
        None,
        "Context size in tokens [default: the model's own, at most 4096, or what fits].",
        int,
        least=16,
        most=1 << 20,
        metavar="N",
    )
    gpu_layers: int | None = option(
        None,
        "Layers to offload to the GPU [default: auto, all that fit].",
        int,
        least=0,
        words={"auto": None},
        metavar="auto|N",
    )
    kv: str | None = option(
        None,
        "Type of the KV cache [default: auto, f16 where it fits].",
        str,
        choices=("f16", "q8_0", "q4_0"),
        words={"auto": None},
        metavar="auto|f16|q8_0|q4_0",
    )
    threads: int | None = option(
        None,
        "CPU threads [default: one per physical core, of the fast ones where they differ].",
        int,
        least=1,
        most=512,
        metavar="N",
    )
    batch_size: int = option(
        512, "Tokens of prompts computed at once; more takes more memory.", int, least=1, most=1 << 16, metavar="N"
    )
    flash_attn: str = option(
        "auto",
        "Flash attention: auto, as suits the device and its memory; a quantized --kv needs it.",
        str,
        choices=("auto", "on", "off"),
    )
    mmap: str = option(
        "auto",
        "Map the model's file into memory instead of reading it: auto, unless a GPU shares the main memory.",
        str,
        choices=("auto", "on", "off"),
    )
    mlock: str = option(
        "off", "Lock the model in main memory, so that it is never swapped out.", str, choices=("on", "off")
    )
    tensor_split: tuple[float, ...] = option(
        (),
        "Shares of the model for several GPUs, one for each, in their order: 3,1 [default: auto, by free memory].",
        float,
        many=True,
        separator=",",
        least=0,
        most=1e6,
        most_items=16,
        words={"auto": ()},
        metavar="auto|A,B,…",
    )
    template: str | None = option(
        None,
        "Prompt template: a shipped one's name or a .json file [default: the model's own].",
        str,
        metavar="NAME|FILE",
    )
    lora: tuple[str, ...] = option(
        (),
        "LoRA adapter in GGUF, and its scale (may be repeated).",
        str,
        many=True,
        metavar="FILE[:SCALE]",
    )
    level: str | None = option(
        None, "Which level of a converted folder [default: the best that fits].", str, metavar="LEVEL"
    )


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen, and when to stop. Temperature 0 always takes the likeliest token."""

    temperature: float = option(
        0.7, "Randomness; 0 is greedy.", float, least=0, most=100, metavar="X", key="general.sampling.temp"
    )
    top_k: int = option(
        40,
        "Keep the K likeliest tokens; 0 keeps all.",
        int,
        least=0,
        most=1 << 30,
        metavar="K",
        key="general.sampling.top_k",
    )
    top_p: float = option(
        0.95,
        "Keep tokens up to this total probability.",
        float,
        least=0,
        most=1,
        metavar="P",
        key="general.sampling.top_p",
    )
    min_p: float = option(
        0.05,
        "Drop tokens below this share of the likeliest's probability.",
        float,
        least=0,
        most=1,
        metavar="P",
        key="general.sampling.min_p",
    )
    repeat_penalty: float = option(
        1.0,
        "Penalty on repeated tokens; 1 is none.",
        float,
        least=0.01,
        most=100,
        metavar="X",
        key="general.sampling.penalty_repeat",
    )
    repeat_last_n: int = option(
        64,
        "How many last tokens the three penalties see; 0 is none, -1 the whole context.",
        int,
        least=-1,
        most=1 << 20,
        metavar="N",
        key="general.sampling.penalty_last_n",
    )
    presence_penalty: float = option(
        0.0, "Taken off the logits of tokens that occurred.", float, least=-100, most=100, metavar="X"
    )
    frequency_penalty: float = option(
        0.0, "Taken off the logits of tokens for each time they occurred.", float, least=-100, most=100, metavar="X"
    )
    typical_p: float = option(
        1.0, "Keep typical tokens up to this total probability; 1 is off.", float, least=0, most=1, metavar="P"
    )
    dry_multiplier: float = option(
        0.0, "Strength of DRY, which breaks up repeated sequences; 0 is off.", float, least=0, most=100, metavar="X"
    )
    dry_base: float = option(
        1.75, "Growth of DRY's penalty with each token of a repetition.", float, least=1, most=100, metavar="X"
    )
    dry_allowed_length: int = option(
        2, "Longest repetition that DRY leaves alone.", int, least=0, most=1 << 20, metavar="N"
    )
    dry_penalty_last_n: int = option(
        -1, "How many last tokens DRY sees; 0 is none, -1 the whole context.", int, least=-1, most=1 << 20, metavar="N"
    )
    xtc_probability: float = option(
        0.0,
        "How often XTC drops the likeliest tokens; 0 is off.",
        float,
        least=0,
        most=1,
        metavar="P",
        key="general.sampling.xtc_probability",
    )
    xtc_threshold: float = option(
        0.1,
        "XTC drops all tokens above this probability but the least of them.",
        float,
        least=0,
        most=1,
        metavar="P",
        key="general.sampling.xtc_threshold",
    )
    mirostat: int = option(
        0,
        "Mirostat 1 or 2, which replaces all filters and penalties above; 0 is off.",
        int,
        least=0,
        most=2,
        metavar="0|1|2",
        key="general.sampling.mirostat",
    )
    mirostat_tau: float = option(
        5.0,
        "The surprise per token, in bits, that Mirostat aims at.",
        float,
        least=0,
        most=20,
        metavar="X",
        key="general.sampling.mirostat_tau",
    )
    mirostat_eta: float = option(
        0.1,
        "How fast Mirostat adapts.",
        float,
        least=0,
        most=1,
        metavar="X",
        key="general.sampling.mirostat_eta",
    )
    logit_bias: tuple[tuple[int, float], ...] = option(
        (),
        "Add BIAS to a token's logit; -100 forbids it (may be repeated).",
        dict,
        many=True,
        least=-100,
        most=100,
        metavar="TOKEN=BIAS",
    )
    # 2**32 - 1 is left out: to llama.cpp it means a random seed.
    seed: int | None = option(
        None,
        "Random seed [default: random, a new one].",
        int,
        least=0,
        most=(1 << 32) - 2,
        words={"random": None},
        metavar="N|random",
    )
    logprobs: int | None = option(
        None,
        "Give each token's log-probability, and those of the N likeliest.",
        int,
        least=0,
        most=20,
        metavar="N",
    )
    max_tokens: int | None = option(
        None, "Longest answer in tokens [default: what the context holds].", int, least=1, most=1 << 30, metavar="N"
    )
    stop: tuple[str, ...] = option(
        (), "End the answer at this text (may be repeated).", str, many=True, most_items=64, metavar="TEXT"
    )


NOT_IN_CHAT = ("logprobs",)  # of the sampling options: only a record can show them


@dataclass(frozen=True)
class ChatOptions:
    """How a chat looks and what it does when the context is full."""

    overflow: str = option(
        "drop",
        "When the context is full: drop whole oldest turns, shift out half of the middle, or stop with an error.",
        str,
        choices=("drop", "shift", "error"),
    )
    style: str = option("rich", "Answers rendered as Markdown, or as they are.", str, choices=("rich", "simple"))
    keys: str = option("emacs", "Editing keys.", str, choices=("emacs", "vi"))
    ui_lang: str | None = option(
        None,
        "Language of the chat's own texts [default: auto, by the locale].",
        str,
        choices=("en", "zh"),
        words={"auto": None},
        metavar="auto|en|zh",
    )
    kv_cache: int = option(
        2048,
        "Largest file, in MiB, that keeps a session's KV memory for its next start; 0 keeps none.",
        int,
        least=0,
        most=1 << 20,
        metavar="MIB",
    )


Options = TypeVar("Options", RuntimeOptions, SamplingOptions, ChatOptions)


def config_path() -> Path:
    """The user's configuration file: $STELLAR_CONFIG, or config.toml in the platform's configuration folder."""
    if chosen := os.environ.get("STELLAR_CONFIG"):
        return Path(chosen)
    from platformdirs import user_config_path

    return user_config_path("stellar-local") / "config.toml"


def read_config(path: Path | None = None) -> dict[str, Any]:
    """The configuration file's values, by snake_case name; {} where there is no file. Raises UsageError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    path = path or config_path()
    if not path.exists():
        return {}
    try:
        data = tomllib.loads(read_text(path, "configuration file"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"configuration file {path} is not TOML: {error}", "mend it or move it away") from error
    values = {key.replace("-", "_"): value for key, value in data.items()}
    known = {**specs(RuntimeOptions), **specs(SamplingOptions), **specs(ChatOptions)}
    if unknown := set(values) - set(known):
        raise UsageError(
            f"configuration file {path} has unknown options: {', '.join(sorted(unknown))}",
            f"known are {', '.join(sorted(known))}",
        )
    return {name: known[name][1].check(value, f"{path}: {name}") for name, value in values.items()}


def model_defaults(kind: type[Any], metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The defaults that a model's metadata states, by option name; and what cannot be used of them, in words."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, (_, spec) in specs(kind).items():
        if spec.key in metadata:
            try:
                found[name] = spec.check(metadata[spec.key], spec.key)
            except UsageError as error:
                notes.append(f"a setting of the model is left out: {error.message}")
    return found, notes


def resolve(
    kind: type[Options],
    flags: Mapping[str, Any],
    config: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Options:
    """Build options from flags (None or () where not given), STELLAR_* variables, the configuration file, and the
    model's own defaults. Raises UsageError for a wrong value.
    """
    environ = os.environ if environ is None else environ
    chosen: dict[str, Any] = {}
    for name, (item, spec) in specs(kind).items():
        variable = f"STELLAR_{name.upper()}"
        flag = flags.get(name)
        if flag is not None and flag != ():
            chosen[name] = spec.check(flag, f"--{name.replace('_', '-')}")
        elif environ.get(variable):
            chosen[name] = spec.check(environ[variable], variable)
        elif name in config:
            chosen[name] = config[name]
        elif model and name in model:
            chosen[name] = model[name]
        else:
            chosen[name] = None if item.default is MISSING else item.default
    return kind(**chosen)
