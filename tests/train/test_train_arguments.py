"""The words after `stellar train`: alpaca-lora's command lines as python-fire takes them, and what it gets wrong."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import train.run
from stellar_local.errors import StellarError, UsageError
from train import cli
from train.arguments import pairs
from train.config import TrainConfig, options

OURS = "--base b --data d --out o"
# Option → a value that is not its default, as text; whatever is not here takes 16.
VALUES = {
    "val_data": "v.json",
    "template": "alpaca",
    "over_long": "split",
    "lora_target_modules": "v_proj",
    "lora_dropout": "0.25",
    "warmup_ratio": "0.25",
    "lora_alpha": "8",
    "scheduler": "cosine",
    "dtype": "nf4",
    "weight_decay": "0.1",
    "memory": "8GiB",
    "checkpointing": "on",
    "offload": "off",
    "add_eos_token": "False",
    **dict.fromkeys(("train_on_inputs", "group_by_length", "use_rslora", "use_dora"), "true"),
    "loraplus_ratio": "12",
    "resume_from_checkpoint": "old",
}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: a command line, as a text for a POSIX shell or as words → the run that it starts."""
    seen: list[tuple[TrainConfig, bool]] = []
    monkeypatch.setattr(train.run, "train", lambda config, overwrite: seen.append((config, overwrite)))

    def parse(line: str | list[str], overwrite: bool = False) -> TrainConfig:
        words = shlex.split(line) if isinstance(line, str) else line
        result = CliRunner().invoke(cli.train, words, standalone_mode=False)
        if result.exception:
            raise result.exception
        assert seen[-1][1] is overwrite
        return seen[-1][0]

    return parse


def config(**values: Any) -> TrainConfig:
    return TrainConfig(base=Path("b"), data=Path("d"), out=Path("o"), **values)


def test_defaults_come_from_the_dataclass(parsed: Any) -> None:
    assert parsed(OURS) == config()


def test_the_makers_command_line(parsed: Any) -> None:
    line = (
        "--base_model './BayLing-13B' --data_path 'data/train.json' --output_dir './lora' --batch_size 256"
        " --micro_batch_size 2 --num_epochs 3 --learning_rate 1e-4 --cutoff_len 256 --val_set_size 2000 --lora_r 8"
        " --lora_alpha 16 --lora_dropout 0.05 --lora_target_modules '[q_proj,k_proj,v_proj,o_proj]'"
        " --train_on_inputs False --add_eos_token False --group_by_length --prompt_template_name bayling"
    )
    expected = TrainConfig(
        base=Path("BayLing-13B"),
        data=Path("data/train.json"),
        out=Path("lora"),
        batch_size=256,
        micro_batch_size=2,
        epochs=3.0,
        learning_rate=1e-4,
        cutoff_len=256,
        val_set_size=2000,
        lora_r=8,
        lora_alpha=16,
        lora_dropout=0.05,
        lora_target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
        train_on_inputs=False,
        add_eos_token=False,
        group_by_length=True,
        template="bayling",
    )
    assert parsed(line) == expected
    assert parsed(line.split()) == expected  # cmd.exe leaves the single quotes, and fire takes them off


@pytest.mark.parametrize("option", [item for item in options() if not item.required], ids=lambda item: item.name)
def test_every_spelling_of_every_option(option: Any, parsed: Any) -> None:
    text = VALUES.get(option.name, "16")
    more = " --val_set_size 7" if option.name in ("eval_steps", "early_stopping") else ""
    names = {name for base in (option.name, option.alias) if base for name in (base, base.replace("_", "-"))}
    lines = [line for name in names for line in (f"--{name} {text}", f"--{name}={text}", f"-{name} {text}")]
    results = {getattr(parsed(f"{OURS}{more} {line}"), option.name) for line in lines}
    assert len(results) == 1
    assert results != {option.default}


@pytest.mark.parametrize("word", ["False", "false", "FALSE", "0", "no", "off", "None", "'False'", '"false"', ""])
@pytest.mark.parametrize("name", ["train_on_inputs", "add-eos-token"])
def test_false_means_false(word: str, name: str, parsed: Any) -> None:
    for line in ([f"--{name}", word], [f"--{name}={word}"]):
        assert getattr(parsed([*OURS.split(), *line]), name.replace("-", "_")) is False


@pytest.mark.parametrize("word", ["True", "true", "1", "yes", "on", "'True'"])
def test_true_means_true(word: str, parsed: Any) -> None:
    assert parsed([*OURS.split(), "--train_on_inputs", word]).train_on_inputs is True


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--train-on-inputs", True),
        ("--train_on_inputs --seed 3", True),
        ("--notrain_on_inputs", False),
        ("--train_on_inputs --no-train-on-inputs", False),
        ("--notrain_on_inputs --train_on_inputs True", True),
    ],
)
def test_a_switch_needs_no_value(line: str, expected: bool, parsed: Any) -> None:
    assert parsed(f"{line} {OURS}").train_on_inputs is expected
    assert parsed(f"{OURS} {line}").train_on_inputs is expected


@pytest.mark.parametrize(
    "value",
    [
        "q_proj,v_proj",
        "[q_proj,v_proj]",
        "'[q_proj,v_proj]'",
        "\"['q_proj', 'v_proj']\"",
        '\'["q_proj","v_proj"]\'',
        "\"'[q_proj,v_proj]'\"",
        "[q_proj, v_proj]",
        "[ q_proj , v_proj ]",
        "\\'[q_proj, v_proj]\\'",
        "(q_proj, v_proj)",
        "q_proj, v_proj",
        "q_proj ,v_proj",
        "'q_proj v_proj'",
    ],
)
@pytest.mark.parametrize("joint", [" ", "="])
def test_target_modules_in_all_spellings(value: str, joint: str, parsed: Any) -> None:
    made = parsed(f"--lora_target_modules{joint}{value} --train_on_inputs False {OURS}")
    assert made == config(lora_target_modules=("q_proj", "v_proj"))


def test_empty_and_none_are_the_default(parsed: Any) -> None:
    line = "--prompt_template_name '' --resume_from_checkpoint None --val-data= --seed None --packing auto --memory ''"
    assert parsed(f"{OURS} {line}") == config()


def test_numbers_as_python_writes_them(parsed: Any) -> None:
    made = parsed(f"{OURS} --cutoff_len 1e3 --batch_size 1_000 --num_epochs 2 --val_set_size .05 --max_steps 5.0")
    assert made == config(cutoff_len=1000, batch_size=1000, epochs=2.0, val_set_size=0.05, max_steps=5)
    assert isinstance(made.max_steps, int)


def test_a_home_folder(parsed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert parsed("--base=~/b --data d --out o").base == tmp_path / "b"


def test_overwrite_is_a_switch_too(parsed: Any) -> None:
    parsed(f"--overwrite {OURS}", overwrite=True)
    parsed(f"--overwrite False {OURS}")


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("--lora_rank 8", "unknown option: --lora_rank", "did you mean --lora-r?"),
        ("--lora-target-module x", "unknown option: --lora-target-module", "--lora-target-modules?"),
        ("--xyzzy 3", "unknown option: --xyzzy", "--help lists all"),
        ("--nolora_r", "unknown option: --nolora_r", ""),
        ("--batch-size", "--batch-size needs a value", ""),
        ("--batch-size --seed 3", "--batch-size needs a value", ""),
        ("--batch-size many", "--batch-size is 'many', but must be a whole number", ""),
        ("--batch-size ''", "--batch-size is ''", ""),
        ("--batch-size 0.5", "--batch-size is 0.5", ""),
        ("--seed -1", "--seed is -1, but must be a whole number of at least 0", ""),
        ("--train_on_inputs maybe", "--train-on-inputs is 'maybe', but must be true or false", ""),
        ("--notrain_on_inputs=True", "--notrain_on_inputs takes no value", "--train-on-inputs True"),
        ("--overwrite perhaps", "--overwrite is 'perhaps', but must be true or false", ""),
        ("--lora_target_modules [q_proj, v_proj", "has no end: [q_proj, v_proj", "close it with ]"),
        ("--lora_target_modules [q_proj, --seed 3", "has no end: [q_proj,", "close it with ]"),
        ("--lora_target_modules q_proj v_proj", "unexpected word: v_proj", "with commas"),
        ("more", "unexpected word: more", "--name value"),
        ("--seed 3 -- --trace", "unexpected word: --", ""),
        ("--early_stopping 2", "--early-stopping needs rows", "--val-data"),
        ("--config absent.toml", "configuration file not found: absent.toml", ""),
    ],
)
def test_what_is_refused(line: str, message: str, hint: str, parsed: Any) -> None:
    with pytest.raises(StellarError) as caught:
        parsed(f"{OURS} {line}")
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("--wandb_project '' --wandb_watch False --wandb-log-model=None", ""),
        (
            "--wandb_project stars --wandb_run_name first --wandb_watch gradients",
            "wandb_project.*wandb_run_name.*watch",
        ),
        ("--add_eos_token False", "may go on without end"),
    ],
)
def test_warnings(line: str, warned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.run, "train", lambda config, overwrite: None)
    result = CliRunner().invoke(cli.train, shlex.split(f"{OURS} {line}"), standalone_mode=False)
    assert result.exception is None
    assert result.stderr.count("warning") == (1 if warned else 0)
    assert re.search(warned, result.stderr)
    assert result.stdout == ""


@given(st.lists(st.text(max_size=12) | st.sampled_from(["--seed", "-h", "--lora_target_modules", "[a,", "--", "-x"])))
def test_any_words_are_pairs_or_a_sentence(words: list[str]) -> None:
    try:
        found = pairs(words)
    except UsageError as error:
        assert "\n" not in error.message
    else:
        assert len(found) <= len(words)
