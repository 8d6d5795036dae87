"""The command line of `stellar train` and `stellar data`: every spelling, every wrong value, nothing heavy loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT

from stellar_local.errors import StellarError, UsageError
from train import cli
from train.config import TrainConfig, options, parse_modules

PATHS = {"base": Path("base"), "data": Path("data.json"), "out": Path("out")}


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> TrainConfig:
    """The TrainConfig that a command line gives."""
    import train.run

    seen: list[TrainConfig] = []
    monkeypatch.setattr(train.run, "train", lambda config, overwrite: seen.append(config))
    result = CliRunner().invoke(cli.train, list(arguments), standalone_mode=False)
    if result.exception:
        raise result.exception
    return seen[0]


OURS = ["--base", "b", "--data", "d", "--out", "o"]


def test_defaults_come_from_the_dataclass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, *OURS) == TrainConfig(base=Path("b"), data=Path("d"), out=Path("o"))


def test_alpaca_lora_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(
        monkeypatch,
        *("--base_model", "b", "--data_path", "d", "--output_dir", "o", "--prompt_template_name", "alpaca"),
        *("--num_epochs", "2", "--learning_rate", "1e-4", "--batch_size", "128", "--micro_batch_size", "4"),
        *("--cutoff_len", "256", "--val_set_size", "0.1", "--lora_r", "16", "--lora_alpha", "32"),
        *("--lora_dropout", "0.1", "--lora_target_modules", "[q_proj,v_proj]", "--train_on_inputs", "False"),
    )
    assert config == TrainConfig(
        base=Path("b"),
        data=Path("d"),
        out=Path("o"),
        template="alpaca",
        epochs=2.0,
        learning_rate=1e-4,
        batch_size=128,
        micro_batch_size=4,
        cutoff_len=256,
        val_set_size=0.1,
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.1,
        lora_target_modules=("q_proj", "v_proj"),
        train_on_inputs=False,
    )


@pytest.mark.parametrize("option", [o for o in options() if not o.required], ids=lambda o: o.name)
def test_every_spelling_of_every_option(option: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"template": "alpaca", "lora_target_modules": "v_proj", "train_on_inputs": "true", "scheduler": "cosine"}
    values |= {
        "lora_alpha": "8",
        "dtype": "float32",
        "val_set_size": "7",
        "lora_dropout": "0.25",
        "warmup_ratio": "0.25",
    }
    text = values.get(option.name, "16")
    results = {getattr(parsed(monkeypatch, *OURS, spelling, text), option.name) for spelling in option.spellings}
    assert len(results) == 1
    assert results != {option.default}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["--train-on-inputs"], True),
        (["--train_on_inputs", "True"], True),
        (["--train_on_inputs=False"], False),
        (["--train_on_inputs", "false"], False),
        (["--train-on-inputs", "0"], False),
        (["--train-on-inputs", "--seed", "3"], True),
    ],
)
def test_false_means_false(arguments: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, *OURS, *arguments).train_on_inputs is expected


@pytest.mark.parametrize(
    "text",
    [
        "q_proj,v_proj",
        "[q_proj,v_proj]",
        "['q_proj', 'v_proj']",
        '["q_proj","v_proj"]',
        "'[q_proj,v_proj]'",
        "q_proj, v_proj",
    ],
)
def test_target_modules_in_all_spellings(text: str) -> None:
    assert parse_modules(text) == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0.0}, "--epochs is 0, but must be greater than 0"),
        ({"learning_rate": -1e-4}, "--learning-rate is -0.0001"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"epochs": float("inf")}, "finite"),
        ({"batch_size": 10, "micro_batch_size": 4}, "not a multiple"),
        ({"cutoff_len": 1}, "--cutoff-len is 1"),
        ({"lora_r": 0}, "--lora-r"),
        ({"lora_dropout": 1.0}, "--lora-dropout"),
        ({"max_steps": -1}, "--max-steps"),
        ({"val_set_size": 1.5}, "whole number of rows"),
        ({"template": "nonsense"}, "unknown template: nonsense"),
        ({"scheduler": "steps"}, "must be one of linear, cosine"),
        ({"dtype": "int8"}, "must be one of auto"),
        ({"seed": 2**32}, "--seed"),
        ({"save_steps": 0}, "--save-steps"),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{**PATHS, **values})
    assert message in caught.value.message


def test_help_says_everything_and_loads_nothing_heavy() -> None:
    probe = (
        "import sys; from click.testing import CliRunner; from train import cli\n"
        "text = ''.join(CliRunner().invoke(c, ['--help']).output for c in (cli.train, cli.data, cli.build))\n"
        "print(text); print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    text, _, loaded = done.stdout.rpartition("LOADED")
    assert not {"torch", "transformers", "peft", "numpy"} & set(loaded.split())
    assert text.count("Example:") == 3
    assert all(option.spellings[0] in text for option in options())
    assert all(parameter.help for command in (cli.train, cli.build) for parameter in command.params)  # type: ignore[attr-defined]


def run_data(*arguments: object) -> None:
    CliRunner().invoke(cli.data, ["build", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)


def test_data_build(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"instruction": "a", "output": "b"}\n', encoding="utf-8")
    out = tmp_path / "deep" / "train.json"
    run_data("--out", out, "--source", mine, "--category", "identity", "--repeat", "mine=3", "--limit", "identity=10")
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == 13
    assert rows.count({"instruction": "a", "input": "", "output": "b"}) == 3
    run_data("--out", out)
    assert len(json.loads(out.read_text(encoding="utf-8"))) >= 120 + 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeat", "identity"], "not NAME=NUMBER"),
        (["--repeat", "identity=0"], "at least 1"),
        (["--limit", "poetry=3"], "--limit names poetry"),
        (["--source", "absent.json"], "not found"),
    ],
)
def test_data_build_errors(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(StellarError, match=message):
        run_data("--out", tmp_path / "train.json", *arguments)
    assert not list(tmp_path.iterdir())
